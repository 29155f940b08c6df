"""Puts a kernel, its initrd and what both must know into guest RAM, and says where to start.

Three kinds of kernels: a bzImage by the 64-bit boot protocol, an ELF vmlinux by its PVH note or
its 64-bit entry, and a flat binary in real mode, for tests and teaching.  Memory that nobody
writes here must hold zeros, as new memory does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from . import acpi, bzimage, cmdline, cpu, elf, layout, mptable, pvh, smbios
from . import initrd as ramdisk
from .elf import Bytes, KernelError

_INITRD_ADDR_MAX = 0x7FFFFFFF  # what today's kernels say; an ELF file does not


class GuestRam(Protocol):
    """Memory of a guest."""

    def write(self, gpa: int, data: Bytes, /) -> object:
        """Copy `data` to guest-physical address `gpa`."""


@dataclass(frozen=True, slots=True)
class Board:
    """The machine that the kernel will find; `devices` counts the virtio-mmio devices.

    `uuid` is what it finds in the SMBIOS tables; without one there are none.
    """

    ram_size: int
    cpus: int = 1
    devices: int = 0
    acpi: bool = True
    uuid: str = ""

    @property
    def low_end(self) -> int:
        """The end of RAM below the gap."""
        return layout.ram(self.ram_size)[0].end

    def e820(self) -> list[tuple[int, int, int]]:
        """Return the memory map: address, size, kind."""
        usable = [(layout.KERNEL, self.low_end - layout.KERNEL)]
        usable += [(each.address, each.size) for each in layout.ram(self.ram_size)[1:]]
        return [
            (0, layout.LOW_END, bzimage.RAM),
            (layout.LOW_END, layout.BIOS_END - layout.LOW_END, bzimage.RESERVED),
            *((*each, bzimage.RAM) for each in usable),
        ]


def load(
    memory: GuestRam,
    kernel: Bytes,
    initrd: Bytes | None = None,
    cmdline: str = "",
    *,
    cpus: int,
    ram_size: int,
    devices: int = 0,
    acpi: bool = True,
    uuid: str = "",
) -> cpu.Entry:
    """Write everything that `kernel` needs, and return how the first processor enters it.

    `cmdline` is used as it is (`cmdline.default_cmdline` makes one).  With `acpi` false an MP
    table is written instead of ACPI's; with a `uuid`, SMBIOS tables are.  Raises `KernelError`
    where something is not what it should be or does not fit, and `UsageError` for an impossible
    board; nothing is written then.
    """
    made = plan(Board(ram_size, cpus, devices, acpi, uuid), kernel, initrd, cmdline)
    if initrd is not None:
        ramdisk.check(initrd)
    for address, data in made.pieces:
        memory.write(address, data)
    return made.entry


def plan(board: Board, kernel: Bytes, initrd: Bytes | None, cmdline: str) -> Plan:
    """Return what `load` would write; of the kernel's code and of the initrd nothing is read.

    So the initrd is left to be checked (`initrd.check`).
    """
    tables = _tables(board)
    if bzimage.is_bzimage(kernel):
        made = _plan_bzimage(kernel, initrd, cmdline, board)
    elif bytes(kernel[:4]) == elf.MAGIC:
        made = _plan_elf(kernel, initrd, cmdline, board)
    else:
        found = bytes(kernel[:4]).hex() or "an empty file"
        expected = "a bzImage (HdrS at byte 0x202) or an ELF file (7f454c46)"
        raise KernelError("not a kernel", expected, found)
    return replace(made, pieces=(*tables, *made.pieces))


def load_flat(memory: GuestRam, program: Bytes) -> cpu.Entry:
    """Write a flat binary to `layout.FLAT`, where it starts in real mode, its stack below."""
    room = layout.FLAT_END - layout.FLAT
    if not 0 < len(program) <= room:
        raise KernelError("flat binary", f"1 to {room} bytes", f"{len(program)}")
    memory.write(layout.FLAT, program)
    return cpu.Entry(cpu.Mode.REAL, layout.FLAT, rsp=layout.FLAT)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to write where, and the entry; `initrd` is address and size, zeros where none is."""

    entry: cpu.Entry
    pieces: tuple[tuple[int, Bytes], ...]
    initrd: tuple[int, int]


def _tables(board: Board) -> list[tuple[int, bytes]]:
    """Return the tables that describe the board, with their addresses."""
    slots = [layout.slot(number) for number in range(board.devices)]
    tables = (layout.RSDP, acpi.tables(board.cpus, slots))
    made = [tables if board.acpi else (layout.MP_TABLE, mptable.table(board.cpus))]
    return [*made, (layout.SMBIOS, smbios.tables(board.uuid))] if board.uuid else made


def _plan_bzimage(kernel: Bytes, initrd: Bytes | None, words: str, board: Board) -> Plan:
    image = bzimage.parse(kernel)
    # The decompressor moves itself, and unpacks to pref_address at the lowest.
    if image.relocatable:
        end = max(layout.KERNEL, image.pref_address) + image.init_size
    else:
        end = layout.KERNEL + max(image.init_size, len(image.code))
    end = max(end, layout.KERNEL + len(image.code))
    where, line = _place(initrd, end, image.initrd_addr_max, board), image.cmdline_size
    handover = _handover(board, layout.KERNEL, where)
    pieces: list[tuple[int, Bytes]] = [
        (layout.KERNEL, image.code),
        (layout.CMDLINE, cmdline.encode(words, line)),
        *_long_mode(bzimage.boot_params(image.header, handover)),
    ]
    entry = _long_entry(layout.KERNEL + bzimage.ENTRY_64)
    return Plan(entry, _with(pieces, where, initrd), where)


def _plan_elf(kernel: Bytes, initrd: Bytes | None, words: str, board: Board) -> Plan:
    image = elf.parse(kernel)
    for each in image.segments:
        if each.address < layout.KERNEL:
            found = f"one at {each.address:#x}"
            raise KernelError("ELF kernel", f"segments from {layout.KERNEL:#x} on", found)
    end = max(each.address + each.size for each in image.segments)
    where = _place(initrd, end, _INITRD_ADDR_MAX, board)
    handover = _handover(board, layout.KERNEL, where)
    pieces: list[tuple[int, Bytes]] = [(each.address, each.data) for each in image.segments]
    pieces.append((layout.CMDLINE, cmdline.encode(words)))
    if image.pvh is None:
        pieces += _long_mode(bzimage.boot_params(b"", handover))
        return Plan(_long_entry(image.entry), _with(pieces, where, initrd), where)
    pieces.append((layout.START_INFO, pvh.start_info(layout.START_INFO, handover)))
    pieces.append((layout.GDT, cpu.gdt(cpu.Mode.PROTECTED)))
    entry = cpu.Entry(cpu.Mode.PROTECTED, image.pvh, rbx=layout.START_INFO)
    return Plan(entry, _with(pieces, where, initrd), where)


def _handover(board: Board, kernel: int, where: tuple[int, int]) -> bzimage.Handover:
    rsdp = layout.RSDP if board.acpi else 0
    return bzimage.Handover(kernel, layout.CMDLINE, where, rsdp, board.e820())


def _long_entry(address: int) -> cpu.Entry:
    return cpu.Entry(cpu.Mode.LONG, address, rsi=layout.ZERO_PAGE)


def _long_mode(zero_page: bytes) -> list[tuple[int, Bytes]]:
    return [
        (layout.ZERO_PAGE, zero_page),
        (layout.PAGE_TABLES, cpu.page_tables()),
        (layout.GDT, cpu.gdt(cpu.Mode.LONG)),
    ]


def _with(
    pieces: list[tuple[int, Bytes]], where: tuple[int, int], initrd: Bytes | None
) -> tuple[tuple[int, Bytes], ...]:
    return (*pieces, (where[0], initrd)) if initrd is not None else tuple(pieces)


def _place(initrd: Bytes | None, kernel_end: int, highest: int, board: Board) -> tuple[int, int]:
    """Find the initrd's address, as high as it fits; (0, 0) where there is none."""
    if kernel_end > board.low_end:
        found = f"{board.low_end >> 20} MiB"
        raise KernelError("the kernel is too large", f"{-(-kernel_end >> 20)} MiB of RAM", found)
    if initrd is None:
        return 0, 0
    room = min(board.low_end, highest + 1) - kernel_end
    address = (kernel_end + room - len(initrd)) & ~(layout.PAGE - 1)
    if address < kernel_end:
        expected = f"at most {max(room, 0)} bytes in {board.ram_size >> 20} MiB of RAM"
        raise KernelError("the initrd is too large", expected, f"{len(initrd)}")
    return address, len(initrd)
