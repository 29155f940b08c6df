"""Taking the ELF kernel out of a bzImage."""

import lzma
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor.errors import UsageError
from hypervisor.image.kernel import bootable
from hypervisor.image.vmlinux import has_pvh, trim, unpack

PHDR = struct.Struct("<IIQQQQQQ")


def elf_kernel(data: bytes, note: bytes = b"") -> bytes:
    """Return an ELF file with one loadable segment of `data`, a note, and some sections."""
    head = b"\x7fELF\x02\x01\x01".ljust(32, b"\0") + struct.pack("<QQ", 64, 4096)
    head = head.ljust(54, b"\0") + struct.pack("<HHHHH", 56, 2, 64, 9, 8)
    at = 64 + 2 * PHDR.size
    load = PHDR.pack(1, 5, at, 0, 1 << 20, len(data), len(data), 1)
    notes = PHDR.pack(4, 4, at + len(data), 0, 0, len(note), len(note), 4)
    return head + load + notes + data + note + b"section data nobody loads"


def bz_image(payload: bytes) -> bytes:
    """Return a bzImage, boot protocol 2.15, around a compressed payload."""
    image = bytearray(0x400)
    image[0x1F1] = 1
    image[0x202:0x208] = b"HdrS\x0f\x02"
    struct.pack_into("<II", image, 0x248, 16, len(payload))
    return bytes(image) + bytes(16) + payload


PVH = struct.pack("<III4sQ", 4, 8, 18, b"Xen\0", 0x1000000)


def test_unpack_xz_with_trailing_size() -> None:
    elf = elf_kernel(b"code")
    assert unpack(bz_image(lzma.compress(elf) + struct.pack("<I", len(elf)))) == elf


def test_unpack_unknown_compression_is_none() -> None:
    assert unpack(bz_image(b"\x28\xb5\x2f\xfd zstd")) is None


def test_unpack_damaged_payload() -> None:
    payload = bytearray(lzma.compress(elf_kernel(b"code" * 100)))
    payload[30] ^= 0xFF
    with pytest.raises(UsageError, match="damaged"):
        unpack(bz_image(bytes(payload)))


@pytest.mark.parametrize("image", [b"", b"\x7fELF", bytes(4096)])
def test_unpack_refuses_what_is_no_bzimage(image: bytes) -> None:
    with pytest.raises(UsageError, match="HdrS"):
        unpack(image)


def test_trim_drops_zeros_and_sections() -> None:
    small = trim(elf_kernel(b"code" + bytes(5000)))
    segment = PHDR.unpack_from(small, 64)
    assert segment[5] == 4  # bytes in the file
    assert segment[6] == 5004  # bytes in memory
    assert small[40:48] == bytes(8)
    assert small[58:64] == bytes(6)
    assert b"section data" not in small


def test_trim_keeps_notes_behind_the_zeros() -> None:
    assert has_pvh(trim(elf_kernel(b"code" + bytes(5000), PVH)))


def test_has_pvh_needs_the_note() -> None:
    assert has_pvh(elf_kernel(b"code", PVH))
    assert not has_pvh(elf_kernel(b"code", PVH.replace(b"\x12", b"\x11")))


def test_bootable_prefers_elf_only_with_pvh() -> None:
    plain = bz_image(lzma.compress(elf_kernel(b"code")))
    assert bootable(plain) == ("vmlinuz", plain)
    assert bootable(bz_image(lzma.compress(elf_kernel(b"code", PVH))))[0] == "vmlinux"


@given(st.binary(max_size=200))
def test_hostile_elf_is_refused_or_read(data: bytes) -> None:
    for elf in (data, elf_kernel(b"x")[:60] + data):
        try:
            has_pvh(elf)
            trim(elf)
        except UsageError:
            pass
