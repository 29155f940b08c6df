"""ELF64 kernels: the segments to load, the 64-bit entry and the PVH entry.

Formats: the ELF64 specification; Xen's docs/misc/pvh.pandoc, "XEN_ELFNOTE_PHYS32_ENTRY".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from ..errors import UsageError


class Extent(Protocol):
    """Bytes that lie elsewhere, in a file say: `bytes()` reads them, slicing does not."""

    def __len__(self) -> int:
        """Return how many there are."""

    def __getitem__(self, part: slice, /) -> Extent:
        """Return a part, step 1."""

    def __bytes__(self) -> bytes:
        """Read all of them."""


Bytes = bytes | bytearray | memoryview | Extent

MAGIC = b"\x7fELF"
PT_LOAD = 1
PT_NOTE = 4
PHDR = struct.Struct("<IIQQQQQQ")  # type, flags, offset, vaddr, paddr, filesz, memsz, align
_EM_X86_64 = 62
_NHDR = struct.Struct("<III")  # sizes of name and descriptor, type
_XEN_ELFNOTE_PHYS32_ENTRY = 18
_NOTES_MAX = 1 << 16  # bytes of notes that are looked at; Linux has a few hundred


# What to do about it, by how the mistake is called.
_ADVICE = {
    "truncated": "copy it again",
    "cut off": "copy it again",
    "past its end": "copy it again",
    "too large": "give the machine more memory",
    "no 64-bit entry": "take a kernel for x86-64",
}


class KernelError(UsageError):
    """A kernel, initrd or command line that cannot be booted; what was `expected` and `found`."""

    def __init__(self, what: str, expected: str, found: str) -> None:
        advice = next((f"; {_ADVICE[end]}" for end in _ADVICE if what.endswith(end)), "")
        super().__init__(f"{what}: expected {expected}, found {found}{advice}")
        self.expected = expected
        self.found = found


@dataclass(frozen=True, slots=True)
class Header:
    """One program header; `at` is where in the file it stands."""

    at: int
    kind: int
    offset: int
    paddr: int
    filesz: int
    memsz: int


@dataclass(frozen=True, slots=True)
class Segment:
    """`data` to be loaded at guest-physical `address`, zeros up to `size` behind it."""

    address: int
    data: Bytes
    size: int


@dataclass(frozen=True, slots=True)
class Kernel:
    """What a loader needs of an ELF kernel; `pvh` is None where there is no PVH entry."""

    entry: int
    pvh: int | None
    segments: tuple[Segment, ...]


def parse(elf: Bytes) -> Kernel:
    """Read a kernel for x86-64; raises `KernelError`."""
    found = tuple(headers(elf))
    (machine,) = struct.unpack_from("<H", bytes(elf[:64]), 18)
    if machine != _EM_X86_64:
        raise KernelError("ELF kernel", "machine 62 (x86-64)", f"machine {machine}")
    segments = tuple(_segment(elf, each) for each in found if each.kind == PT_LOAD)
    if not segments:
        raise KernelError("ELF kernel", "a segment to load", "none")
    (entry,) = struct.unpack_from("<Q", bytes(elf[:64]), 24)
    return Kernel(entry, pvh_entry(elf), segments)


def view(data: Bytes) -> Bytes:
    """Return `data` so that slicing it copies nothing."""
    return memoryview(data) if isinstance(data, bytes | bytearray) else data


def _segment(elf: Bytes, header: Header) -> Segment:
    if header.filesz > header.memsz:
        sizes = f"{header.filesz} bytes in the file for {header.memsz} in memory"
        raise KernelError("ELF kernel", "segments no larger than their memory", sizes)
    data = view(elf)[header.offset : header.offset + header.filesz]
    if len(data) < header.filesz:
        raise KernelError(
            "ELF kernel is truncated",
            f"{header.offset + header.filesz} bytes",
            f"{len(elf)}",
        )
    return Segment(header.paddr, data, header.memsz)


def headers(elf: Bytes) -> Iterator[Header]:
    """Yield the program headers; raises `KernelError` when `elf` is no 64-bit ELF file."""
    if len(elf) < 64 or bytes(elf[:5]) != MAGIC + b"\x02":
        raise KernelError("not a 64-bit ELF kernel", "7f454c4602", f"{bytes(elf[:5]).hex()}")
    head = bytes(elf[:64])
    (offset,) = struct.unpack_from("<Q", head, 32)
    (count,) = struct.unpack_from("<H", head, 56)
    end = offset + count * PHDR.size
    if end > len(elf):
        what = "the ELF kernel's program headers run past its end"
        raise KernelError(what, f"{end} bytes", f"{len(elf)}")
    table = PHDR.iter_unpack(bytes(elf[offset:end]))
    for at, fields in zip(range(offset, end, PHDR.size), table, strict=True):
        kind, _, start, _, paddr, filesz, memsz, _ = fields
        yield Header(at, kind, start, paddr, filesz, memsz)


def pvh_entry(elf: Bytes) -> int | None:
    """Return the physical address of the 32-bit PVH entry point, or None where no note names it."""
    for each in headers(elf):
        if each.kind == PT_NOTE:
            size = min(each.filesz, _NOTES_MAX)
            entry = _find_note(bytes(elf[each.offset : each.offset + size]))
            if entry is not None:
                return entry
    return None


def _find_note(notes: bytes) -> int | None:
    at = 0
    while at + 16 <= len(notes):
        name_len, desc_len, kind = _NHDR.unpack_from(notes, at)
        desc = at + 12 + ((name_len + 3) & ~3)
        if notes[at + 12 : at + 16] == b"Xen\0" and kind == _XEN_ELFNOTE_PHYS32_ENTRY:
            # Xen's macros write 4 or 8 bytes, as the word size of the kernel is.
            return int.from_bytes(notes[desc : desc + min(desc_len, 8)], "little")
        at = desc + ((desc_len + 3) & ~3)
    return None
