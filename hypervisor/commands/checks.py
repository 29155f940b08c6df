"""What can be known to go wrong before a machine is made, as one line that says what to do."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Callable
from pathlib import Path

from ..engine.host import kvm
from ..errors import UsageError
from ..image import vmlinux
from ..pc import bzimage, elf

_MIB = 1 << 20
_HEAD = 4096
# Linux's drivers/virtio/virtio_mmio.c: its name, and what only CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES
# has in it, the name of the parent of the devices that the command line tells of.
_MMIO_DRIVER, _CMDLINE_PARENT = b"\0virtio-mmio\0", b"virtio-mmio-cmdline"


def memory(asked: int, meminfo: str) -> str:
    """Return a warning where `asked` bytes are more than is available; UsageError beyond all."""
    total, available = _bytes(meminfo, "MemTotal"), _bytes(meminfo, "MemAvailable")
    if total and asked > total:
        raise UsageError(
            f"{asked // _MIB}M of memory asked, the host has {total // _MIB}M: give less with -m"
        )
    if available and asked > available:
        return (
            f"{asked // _MIB}M of memory asked, {available // _MIB}M are available:"
            " the host may run out of it"
        )
    return ""


def _bytes(meminfo: str, name: str) -> int:
    match = re.search(rf"^{name}:\s+(\d+) kB$", meminfo, re.MULTILINE)
    return int(match[1]) << 10 if match else 0


def host_memory(asked: int, warn: Callable[[str], object]) -> None:
    """Hold `asked` bytes against this host's memory."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return
    if warning := memory(asked, text):
        warn(warning)


def kernel(path: Path | None) -> Path:
    """Return `path`; UsageError unless it is a kernel."""
    if path is None:
        raise UsageError("a machine needs a kernel, expected --kernel")
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise UsageError(f"cannot read the kernel {path}: {error.strerror}") from None
    if not bzimage.is_bzimage(head) and not head.startswith(elf.MAGIC):
        raise UsageError(
            f"{path} is not a kernel: expected a bzImage (/boot/vmlinuz-...) or an ELF vmlinux"
        )
    return path


def without_acpi(kernel: Path, initrd: Path | None) -> str:
    """Return a warning where it can be seen that without ACPI the guest will find no devices.

    What is compressed otherwise than by xz or gzip is not looked into: then there is none.
    """
    contents = [_contents(each) for each in (kernel, initrd) if each is not None]
    if any(_CMDLINE_PARENT in each for each in contents):
        return ""
    if not any(_MMIO_DRIVER in each for each in contents):
        return ""
    return (
        "without ACPI this guest will find no devices: its kernel has no"
        " CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES (Debian's have not); leave out --no-acpi"
    )


def _contents(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        if bzimage.is_bzimage(data):
            return vmlinux.unpack(data) or b""
        return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    except (OSError, EOFError, zlib.error, UsageError):  # what the boot will say more of
        return b""


def engine(name: str, device: Path = Path("/dev/kvm")) -> None:
    """Raise UsageError where the engine `kvm` is wanted and cannot be had."""
    if name == "kvm" and not os.access(device, os.R_OK | os.W_OK):
        fact = kvm(device, Path("/dev/null")) if not device.exists() else None
        what = f"no {device}" if fact is not None else f"no permission for {device}"
        todo = (
            "run modprobe kvm_intel or kvm_amd"
            if fact is not None
            else ("join its group, sudo usermod -aG kvm $USER, and log in again")
        )
        raise UsageError(f"{what}: {todo}, or take --engine qemu")
