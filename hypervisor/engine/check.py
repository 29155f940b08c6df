"""What can be known before a machine is made: memory that this host has not, a kernel that is none.

Both engines ask, so that a mistake gets the same line from either; and what QEMU would boot into
nothing without a word (a truncated kernel or initrd) is found here.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
from pathlib import Path

from ..core.kvm import ADVICE
from ..pc import boot
from ..pc.elf import Bytes
from .base import Config, EngineError

_HEAD = 0x300
_KINDS = (  # where, what, and what then
    (0, b"\x1f\x8b", "a gzip file: unpack it first (gunzip)"),
    (0, b"\xfd7zXZ", "an xz file: unpack it first (unxz)"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file: unpack it first (unzstd)"),
    (0, b"BZh", "a bzip2 file: unpack it first (bunzip2)"),
    (56, b"ARM\x64", "a kernel for arm64: take one for x86-64"),
    (48, b"RISCV", "a kernel for RISC-V: take one for x86-64"),
    (0, b"!<arch>", "a package: build an image from it (hypervisor image build)"),
    (0, b"070701", "a cpio archive: it may be the initrd"),
)
_MACHINES = {3: "32-bit x86", 40: "arm", 183: "arm64", 243: "RISC-V"}
_X86_64 = 62
_WANTED = "expected a bzImage or an ELF vmlinux for x86-64"


def check(config: Config, meminfo: Path = Path("/proc/meminfo")) -> None:
    """Raise `EngineError` for what cannot run on this host, whatever the engine."""
    there = _host_memory(meminfo)
    if there and config.memory > there:
        raise EngineError(
            f"memory is {config.memory >> 20} MiB, and this host has {there >> 20} MiB"
            " with its swap: ask for less"
        )
    with open(config.kernel, "rb") as file:
        _check_kind(config.kernel, file.read(_HEAD))


def _host_memory(meminfo: Path) -> int:
    """Return bytes of memory and swap, 0 where that cannot be told."""
    try:
        rows = dict(line.split(":") for line in meminfo.read_text().splitlines())
        return sum(int(rows[key].split()[0]) << 10 for key in ("MemTotal", "SwapTotal"))
    except (OSError, ValueError, KeyError):
        return 0


def _check_kind(path: Path, head: bytes) -> None:
    if head[0x202:0x206] == b"HdrS":
        return
    if head[:4] == b"\x7fELF" and len(head) >= 20:
        (machine,) = struct.unpack_from("<H", head, 18)
        if machine != _X86_64 or head[4] != 2:
            found = _MACHINES.get(machine, f"another processor (ELF machine {machine})")
            raise EngineError(f"{path} is a program for {found}: {_WANTED}")
        return
    for at, magic, what in _KINDS:
        if head[at : at + len(magic)] == magic:
            raise EngineError(f"{path} is {what}")
    found = f"it begins with {head[:4].hex()}" if head else "it is empty"
    raise EngineError(f"{path} is not a kernel: {_WANTED}, {found}")


class _Nowhere:
    """Memory that forgets."""

    def write(self, gpa: int, data: Bytes, /) -> None:
        """Take `data`."""


def check_files(config: Config) -> None:
    """Raise `UsageError` for a kernel or an initrd that is not whole or does not fit."""
    kernel = _read(config.kernel)
    initrd = None if config.initrd is None else _read(config.initrd)
    boot.load(_Nowhere(), kernel, initrd, cpus=config.cpus, ram_size=config.memory)


def _read(path: Path) -> Bytes:
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:  # which cannot be mapped
            return b""
        return memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))


def line(error: Exception) -> str:
    """Return an error as one line that says what to do."""
    said = str(error)
    if isinstance(error, OSError) and error.strerror:
        said = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    origins = (error, error.__cause__, error.__context__)
    full = any(getattr(each, "errno", 0) in (errno.EMFILE, errno.ENFILE) for each in origins)
    return f"{said}: {ADVICE[errno.EMFILE]}" if full and ADVICE[errno.EMFILE] not in said else said
