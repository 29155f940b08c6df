"""Loading kernels: every field of the boot protocols, placement, and what is refused."""

import struct

import pytest
from guest_images import PVH_NOTE, Ram, bz_image, newc, vmlinux
from hypothesis import given
from hypothesis import strategies as st

from hypervisor.errors import UsageError
from hypervisor.pc import boot, layout
from hypervisor.pc.cpu import Mode
from hypervisor.pc.layout import GIB, MIB

SIZE = 256 * MIB
INITRD = newc("init")


def u32(data: bytes, at: int) -> int:
    value: int = struct.unpack_from("<I", data, at)[0]
    return value


def u64(data: bytes, at: int) -> int:
    value: int = struct.unpack_from("<Q", data, at)[0]
    return value


def e820(page: bytes) -> list[tuple[int, int, int]]:
    return [struct.unpack_from("<QQI", page, 0x2D0 + 20 * n) for n in range(page[0x1E8])]


def test_bzimage_entry() -> None:
    ram = Ram()
    entry = boot.load(ram, bz_image(b"\xf4" * 0x1000), cpus=1, ram_size=SIZE)
    assert entry.mode is Mode.LONG
    assert (entry.address, entry.rsi) == (0x100200, layout.ZERO_PAGE)
    assert ram.writes[0x100000] == b"\xf4" * 0x1000
    assert {layout.GDT, layout.PAGE_TABLES, layout.RSDP} < set(ram.writes)


def test_bzimage_zero_page() -> None:
    """Documentation/arch/x86/boot.rst and zero-page.rst, field by field."""
    ram = Ram()
    boot.load(ram, bz_image(), INITRD, "root=/dev/vda", cpus=1, ram_size=SIZE)
    page = ram.writes[layout.ZERO_PAGE]
    assert len(page) == 4096
    assert page[0x1EF] == 0  # sentinel
    assert page[0x1FE:0x200] == b"\x55\xaa"  # boot_flag
    assert page[0x202:0x208] == b"HdrS\x0f\x02"  # header, version
    assert page[0x210] == 0xFF  # type_of_loader
    assert page[0x211] == 1  # loadflags: LOADED_HIGH, no heap
    assert u32(page, 0x214) == 0x100000  # code32_start
    assert u32(page, 0x218) == (SIZE - len(INITRD)) & ~0xFFF  # ramdisk_image
    assert u32(page, 0x21C) == len(INITRD)  # ramdisk_size
    assert u32(page, 0x228) == layout.CMDLINE  # cmd_line_ptr
    assert u64(page, 0x258) == 0x1000000  # pref_address, copied
    assert page[0x268:0x2D0] == bytes(0x68)  # where the file's code begins to be
    assert u64(page, 0x070) == layout.RSDP  # acpi_rsdp_addr
    assert ram.writes[u32(page, 0x218)] == INITRD
    assert ram.writes[layout.CMDLINE] == b"root=/dev/vda\0"


@pytest.mark.parametrize(
    ("size", "usable"),
    [
        (SIZE, [(MIB, SIZE - MIB, 1)]),
        (4 * GIB, [(MIB, 3 * GIB - MIB, 1), (4 * GIB, GIB, 1)]),
    ],
)
def test_e820(size: int, usable: list[tuple[int, int, int]]) -> None:
    ram = Ram()
    boot.load(ram, bz_image(), cpus=1, ram_size=size)
    low = [(0, 0x9FC00, 1), (0x9FC00, 0x60400, 2)]
    assert e820(ram.writes[layout.ZERO_PAGE]) == low + usable


def test_initrd_stays_below_what_the_kernel_reaches() -> None:
    ram = Ram()
    boot.load(ram, bz_image(initrd_addr_max=0x7FFFFFFF), INITRD, cpus=1, ram_size=4 * GIB)
    address = u32(ram.writes[layout.ZERO_PAGE], 0x218)
    assert address == 0x80000000 - 0x1000


def test_initrd_that_just_fits_and_one_page_more() -> None:
    room = SIZE - (0x1000000 + 0x2000000)
    ram = Ram()
    boot.load(ram, bz_image(), bytes(room), cpus=1, ram_size=SIZE)
    assert u32(ram.writes[layout.ZERO_PAGE], 0x218) == 0x3000000
    with pytest.raises(boot.KernelError) as caught:
        boot.load(Ram(), bz_image(), bytes(room + 1), cpus=1, ram_size=SIZE)
    expected = f"the initrd is too large: expected at most {room} bytes in 256 MiB of RAM, found "
    assert str(caught.value) == f"{expected}{room + 1}; give the machine more memory"


def test_elf_enters_by_pvh() -> None:
    ram = Ram()
    entry = boot.load(ram, vmlinux(b"code", PVH_NOTE), INITRD, "x", cpus=2, ram_size=SIZE)
    assert entry.mode is Mode.PROTECTED
    assert (entry.address, entry.rbx) == (0x1000123, layout.START_INFO)
    assert ram.writes[0x1000000] == b"code"
    assert layout.ZERO_PAGE not in ram.writes


def test_elf_start_info() -> None:
    """Xen's start_info.h: hvm_start_info, hvm_modlist_entry, hvm_memmap_table_entry."""
    ram = Ram()
    boot.load(ram, vmlinux(b"code", PVH_NOTE), INITRD, "x", cpus=1, ram_size=SIZE)
    info = ram.writes[layout.START_INFO]
    assert [u32(info, at) for at in (0, 4, 8, 12)] == [0x336EC578, 1, 0, 1]
    modules, line, rsdp, memory = (u64(info, at) for at in (16, 24, 32, 40))
    assert (line, rsdp, u32(info, 48)) == (layout.CMDLINE, layout.RSDP, 3)
    at = modules - layout.START_INFO
    assert ram.writes[u64(info, at)] == INITRD
    assert u64(info, at + 8) == len(INITRD)
    at = memory - layout.START_INFO
    assert struct.unpack_from("<QQII", info, at) == (0, 0x9FC00, 1, 0)
    assert len(info) == at + 3 * 24


def test_elf_start_info_without_initrd() -> None:
    ram = Ram()
    boot.load(ram, vmlinux(b"code", PVH_NOTE), cpus=1, ram_size=SIZE)
    info = ram.writes[layout.START_INFO]
    assert (u32(info, 12), u64(info, 16)) == (0, 0)


def test_elf_without_note_enters_in_long_mode() -> None:
    ram = Ram()
    entry = boot.load(ram, vmlinux(), INITRD, cpus=1, ram_size=SIZE)
    assert (entry.mode, entry.address, entry.rsi) == (Mode.LONG, 0x1000040, layout.ZERO_PAGE)
    page = ram.writes[layout.ZERO_PAGE]
    assert page[0x202:0x206] == b"HdrS"
    assert u32(page, 0x21C) == len(INITRD)
    assert len(e820(page)) == 3


def test_without_acpi_there_is_an_mp_table() -> None:
    ram = Ram()
    boot.load(ram, bz_image(), cpus=2, ram_size=SIZE, acpi=False)
    assert layout.RSDP not in ram.writes
    assert ram.writes[layout.MP_TABLE][:4] == b"_MP_"
    assert u64(ram.writes[layout.ZERO_PAGE], 0x070) == 0


def test_flat() -> None:
    ram = Ram()
    entry = boot.load_flat(ram, b"\xf4")
    assert (entry.mode, entry.address) == (Mode.REAL, 0x1000)
    assert ram.writes == {0x1000: b"\xf4"}


@pytest.mark.parametrize("size", [0, 0x9FC00 - 0x1000 + 1])
def test_flat_of_wrong_size(size: int) -> None:
    with pytest.raises(boot.KernelError, match=f"expected 1 to 650240 bytes, found {size}"):
        boot.load_flat(Ram(), bytes(size))


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (b"", "not a kernel: expected a bzImage .* found an empty file"),
        (b"MZ\x90\x00" * 300, "not a kernel: .* found 4d5a9000"),
        (bz_image()[:0x250], "bzImage is truncated: expected 616 bytes of header, found 592"),
        (bz_image()[:-16], "bzImage is truncated: expected 5120 bytes, found 5104"),
        (bz_image(b"x" * 16), "bzImage is truncated: expected 1537 bytes, found 1040"),
        (bz_image(version=0x0204), "2.12 with XLF_KERNEL_64, found 2.04, xloadflags 0x1"),
        (bz_image(xloadflags=0), "expected .* found 2.15, xloadflags 0x0"),
        (bz_image(init_size=SIZE), "too large: expected 272 MiB of RAM, found 256 MiB"),
        (vmlinux()[:40], "not a 64-bit ELF kernel"),
        (b"\x7fELF\x01" + vmlinux()[5:], "expected 7f454c4602, found 7f454c4601"),
        (vmlinux()[:-1], "ELF kernel is truncated: expected 180 bytes, found 179"),
        (vmlinux()[:100], "program headers run past its end: expected 176 bytes, found 100"),
        (vmlinux(machine=183), "expected machine 62 .x86-64., found machine 183"),
        (vmlinux(memsz=1), "found 4 bytes in the file for 1 in memory"),
        (vmlinux(memsz=SIZE), "the kernel is too large: expected 272 MiB of RAM, found 256 MiB"),
        (vmlinux(paddr=0x7000), "expected segments from 0x100000 on, found one at 0x7000"),
        (vmlinux().replace(b"\x01\0\0\0\x05", b"\x06\0\0\0\x05"), "a segment to load, found none"),
    ],
)
def test_bad_kernel_writes_nothing(kernel: bytes, message: str) -> None:
    ram = Ram()
    with pytest.raises(boot.KernelError, match=message) as caught:
        boot.load(ram, kernel, INITRD, cpus=1, ram_size=SIZE)
    assert "\n" not in str(caught.value)
    assert ram.writes == {}


@pytest.mark.parametrize(
    ("initrd", "message"),
    [
        (b"", "the initrd is empty"),
        (INITRD[:-4], "the initrd's entry|the initrd is truncated"),
        (newc("a", "b")[:120], "the initrd is truncated: expected an entry at byte 120"),
        (newc("a", "b")[:150], "the initrd's entry at byte 120 is damaged or cut off"),
        (INITRD.replace(b"00000005", b"-0000005"), "at byte 0 is damaged"),
    ],
)
def test_bad_initrd(initrd: bytes, message: str) -> None:
    with pytest.raises(boot.KernelError, match=message):
        boot.load(Ram(), bz_image(), initrd, cpus=1, ram_size=SIZE)


def test_initrd_of_two_archives_and_compressed_ones_pass() -> None:
    for initrd in (INITRD + b"\0" * 512 + b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x1f\x8b\x08"):
        boot.load(Ram(), bz_image(), initrd, cpus=1, ram_size=SIZE)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x" * 2048, "too long: expected at most 2047 bytes, found 2048"),
        ("a\0b", "one line without NUL"),
        ("a\nb", "one line without NUL"),
    ],
)
def test_bad_cmdline(line: str, message: str) -> None:
    for kernel in (bz_image(), vmlinux()):
        with pytest.raises(boot.KernelError, match=message):
            boot.load(Ram(), kernel, None, line, cpus=1, ram_size=SIZE)


def test_cmdline_longer_than_the_kernel_takes() -> None:
    with pytest.raises(boot.KernelError, match="at most 255 bytes, found 256"):
        boot.load(Ram(), bz_image(cmdline_size=255), None, "x" * 256, cpus=1, ram_size=SIZE)


@pytest.mark.parametrize(
    ("cpus", "devices"), [(0, 0), (layout.MAX_CPUS + 1, 0), (1, layout.MAX_DEVICES + 1)]
)
def test_impossible_board(cpus: int, devices: int) -> None:
    for acpi in (True, False):
        with pytest.raises(UsageError, match="expected"):
            boot.load(Ram(), bz_image(), cpus=cpus, ram_size=SIZE, devices=devices, acpi=acpi)


@given(st.binary(max_size=300), st.sampled_from([bz_image(), vmlinux(b"code", PVH_NOTE)]))
def test_hostile_kernel_is_refused_or_loaded(data: bytes, kernel: bytes) -> None:
    for at in (16, 64, 0x1F1, 0x200):
        image = kernel[:at] + data + kernel[at + len(data) :]
        ram = Ram()
        try:
            boot.load(ram, image, data, cpus=1, ram_size=SIZE)
        except UsageError:
            continue
        assert all(gpa >= 0 and gpa + len(each) <= SIZE for gpa, each in ram.writes.items())
