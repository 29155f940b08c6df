"""What can be known to go wrong before a machine is made, as one line that says what to do."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from ..engine.host import kvm
from ..errors import UsageError
from ..pc import bzimage, elf

_MIB = 1 << 20
_HEAD = 4096


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


def kernel(path: Path | None) -> None:
    """Raise UsageError unless `path` is a kernel."""
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
