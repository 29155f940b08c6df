"""The newc archive: round trips, determinism, refusals, and what cpio(1) makes of it."""

import shutil
import stat
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor.errors import UsageError
from hypervisor.image.cpio import Entry, emit, normal, parse

_part = st.text("abcxyz0-9._", min_size=1, max_size=6).filter(lambda s: s.strip("."))
_name = st.lists(_part, min_size=1, max_size=3).map(lambda parts: "d/" * 0 + "/".join(parts))
_entry = st.one_of(
    st.builds(Entry.file, _name, st.binary(max_size=40), st.sampled_from([0o644, 0o755])),
    st.builds(Entry.directory, _name),
    st.builds(Entry.symlink, _name, _name),
)


def _consistent(entries: list[Entry]) -> bool:
    leaves = {e.name for e in entries if not stat.S_ISDIR(e.mode)}
    return not any(e.name.startswith(leaf + "/") for e in entries for leaf in leaves)


@given(st.lists(_entry, max_size=12).filter(_consistent))
def test_parse_emit_round_trip(entries: list[Entry]) -> None:
    table = {entry.name: entry for entry in entries}
    got = {entry.name: entry for entry in parse(emit(entries))}
    assert {name: got[name] for name in table} == table
    assert all(stat.S_ISDIR(got[name].mode) for name in got.keys() - table.keys())


@given(st.lists(_entry, max_size=8, unique_by=lambda e: e.name).filter(_consistent))
def test_order_of_input_changes_nothing(entries: list[Entry]) -> None:
    assert emit(entries) == emit(reversed(entries))


def test_parents_precede_children() -> None:
    names = [entry.name for entry in parse(emit([Entry.file("a/b/c", b"x")]))]
    assert names == ["a", "a/b", "a/b/c"]


def test_file_as_parent_is_refused() -> None:
    with pytest.raises(UsageError, match="'a/b' lies below 'a'"):
        emit([Entry.file("a", b""), Entry.file("a/b", b"")])


@pytest.mark.parametrize("name", ["", "/", "..", "a/../..", "a\0b", "TRAILER!!!"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        normal(name)


def test_name_cannot_leave_the_root() -> None:
    assert normal("../../etc/passwd") == "etc/passwd"


@given(st.integers(0, 400), st.integers(0, 255))
def test_damaged_archive_is_refused_or_read(at: int, value: int) -> None:
    archive = bytearray(emit([Entry.file("a/b", b"hello"), Entry.symlink("l", "a")]))
    archive[at % len(archive)] = value
    try:
        list(parse(bytes(archive)))
    except (UsageError, ValueError):
        pass


@pytest.mark.parametrize("cut", [0, 50, 109, 120, 230])
def test_truncated_archive_is_refused(cut: int) -> None:
    with pytest.raises(UsageError):
        list(parse(emit([Entry.file("a/b", b"hello")])[:cut]))


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed")
def test_cpio_program_reads_it() -> None:
    archive = emit([Entry.file("b/x", b"1" * 5, 0o755), Entry.symlink("a", "b/x")])
    done = subprocess.run(["cpio", "-tv"], input=archive, capture_output=True, check=True)
    lines = done.stdout.decode().splitlines()
    assert [line.split()[0] for line in lines] == ["lrwxrwxrwx", "drwxr-xr-x", "-rwxr-xr-x"]
    assert lines[0].endswith("a -> b/x")
    assert "Jan  1  1970" in lines[2]
