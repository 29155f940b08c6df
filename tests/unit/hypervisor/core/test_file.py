"""Parts of files: read late, copied by the kernel, cut under us."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hypervisor.core.file import FilePart
from hypervisor.core.ram import GuestRam
from hypervisor.errors import UsageError

DATA = bytes(range(256)) * 1024  # 256 KiB
MIB = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def part(path: Path) -> Iterator[FilePart]:
    part = FilePart.open(path)
    yield part
    part.close()
    part.close()


def test_slices_are_those_of_bytes(part: FilePart) -> None:
    assert len(part) == len(DATA)
    for bounds in (slice(0, 4), slice(70000, 70010), slice(None), slice(-6, None), slice(9, 3)):
        assert bytes(part[bounds]) == DATA[bounds]
        assert len(part[bounds]) == len(DATA[bounds])
    assert bytes(part[100:200][10:20]) == DATA[110:120]
    with pytest.raises(ValueError, match="step 1, found 2"):
        part[::2]


def test_small_reads_one_after_the_other(part: FilePart) -> None:
    got = b"".join(bytes(part[at : at + 7]) for at in range(0, len(DATA), 7))
    assert got == DATA


@pytest.mark.parametrize("bounds", [slice(0, 16), slice(3, 200_001)], ids=["small", "large"])
def test_into_guest_memory(part: FilePart, bounds: slice) -> None:
    ram = GuestRam([(0, MIB), (1 << 32, MIB)])
    try:
        for gpa in (0x1001, (1 << 32) + 5):
            ram.write(gpa, part[bounds])
            assert ram.read(gpa, len(part[bounds])) == DATA[bounds]
            assert ram.read(gpa - 1, 1) == b"\0"
    finally:
        ram.close()


def test_a_file_that_was_cut_is_an_error_and_no_fault(part: FilePart, path: Path) -> None:
    ram = GuestRam([(0, MIB)])
    try:
        with path.open("r+b") as file:
            file.truncate(5000)
        assert bytes(part[4990:5010]) == DATA[4990:5000]
        with pytest.raises(UsageError, match="the file ended early: expected 257144 bytes at 5000"):
            ram.write(0, part)
    finally:
        ram.close()
