"""Opens the images of disks: made or grown where that is asked for, locked, never shrunk.

The lock is the one that QEMU takes (OFD locks on bytes of the image, block/file-posix.c), so that
an image is in use once, by whichever of both.  An image may be read by many.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from ..devices.block import Backing, Block
from ..devices.disk import Disk
from ..errors import UsageError
from . import qcow2

SECTOR = 512
ALIGN = 4096  # of memory for O_DIRECT, where the device does not say less
MAGIC = b"QFI\xfb"
_BLKSSZGET = 0x1268  # linux/fs.h
# Byte ranges of QEMU's lock: a holder of a permission locks PERM + bit, one that shares it with
# nobody SHARED + bit.  Bits: 0 consistent read, 1 write, 3 resize.
_PERM, _SHARED, _SPAN = 100, 200, 105
_FLOCK = "hhqqi4x"


async def open_blocks(
    disks: Sequence[Disk], queues: int, warn: Callable[[str], None]
) -> list[Block]:
    """Open every image, off the loop, all or none, and return devices with so many queues.

    UsageError says what is wrong with one.
    """
    opened: list[Block] = []
    try:
        for disk in disks:
            block = Block(
                await _open(disk, warn),
                name=str(disk.path),
                serial=disk.serial,
                sector_size=disk.sector_size,
                queues=queues,
            )
            block.warn = warn
            opened.append(block)
    except BaseException:
        for each in opened:
            await each.close()
        raise
    return opened


async def _open(disk: Disk, warn: Callable[[str], None]) -> Backing:
    if disk.is_qcow2:
        await asyncio.to_thread(_prepare_qcow2, disk)
        return await qcow2.serve(disk)
    return await asyncio.to_thread(open_raw, disk, warn)


async def prepare_all(disks: Sequence[Disk], warn: Callable[[str], None]) -> None:
    """Check, make and grow every image for an engine that opens them itself."""
    for disk in disks:
        if disk.is_qcow2:
            await asyncio.to_thread(_prepare_qcow2, disk)
        else:
            await (await asyncio.to_thread(open_raw, disk, warn)).close()


def _prepare_qcow2(disk: Disk) -> None:
    if not disk.path.exists() and disk.size is not None:
        qcow2.create(disk)
    fd = _descriptor(disk, os.O_RDONLY if disk.read_only else os.O_RDWR)
    try:
        if os.pread(fd, 4, 0) != MAGIC:
            raise UsageError(f"{disk.path} is no qcow2 image: say format='raw' if it is a raw one")
        _lock(fd, disk)
    finally:
        os.close(fd)
    if disk.size is not None:
        qcow2.grow(disk)


def open_raw(disk: Disk, warn: Callable[[str], None]) -> Backing:
    """Open a raw image or a block device; UsageError says in one line why not."""
    flags = os.O_RDONLY if disk.read_only else os.O_RDWR
    if disk.size is not None:
        flags |= os.O_CREAT
    fd = _descriptor(disk, flags | (os.O_DIRECT if disk.direct else 0))
    try:
        _lock(fd, disk)
        return _raw(disk, fd, warn)
    except BaseException:
        os.close(fd)
        raise


def _descriptor(disk: Disk, flags: int) -> int:
    try:
        fd = os.open(disk.path, flags | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    except OSError as error:
        if error.errno == errno.EISDIR:
            raise UsageError(f"disk {disk.path} is a directory, expected an image") from None
        if error.errno == errno.ENOENT:
            how = "is not there: give a size to make it"
            raise UsageError(f"disk {disk.path} {how}") from None
        if error.errno == errno.EINVAL and disk.direct:
            raise UsageError(f"disk {disk.path}: its file system has no O_DIRECT") from None
        how = "read" if disk.read_only else "write"
        raise UsageError(f"cannot {how} the disk {disk.path}: {error.strerror}") from None
    kind = os.fstat(fd).st_mode
    if stat.S_ISREG(kind) or stat.S_ISBLK(kind):
        return fd
    os.close(fd)
    what = "a directory" if stat.S_ISDIR(kind) else "no file and no block device"
    raise UsageError(f"disk {disk.path} is {what}, expected an image")


def _raw(disk: Disk, fd: int, warn: Callable[[str], None]) -> Backing:
    size, info = os.lseek(fd, 0, os.SEEK_END), os.fstat(fd)
    regular = stat.S_ISREG(info.st_mode)
    if disk.format == "auto" and _begins(disk.path) == MAGIC:
        raise UsageError(
            f"{disk.path} looks like qcow2: say format='qcow2', or 'raw' if a guest wrote that"
        )
    if regular and disk.bytes is not None and disk.bytes > size:
        os.ftruncate(fd, disk.bytes)
        size = disk.bytes
    if size < disk.sector_size:
        raise UsageError(
            f"disk {disk.path} has {size} bytes, expected at least a sector of {disk.sector_size}"
        )
    if size % disk.sector_size:
        warn(f"{disk.path}: the guest does not see the last {size % disk.sector_size} bytes, "
             "which are no whole sector")  # fmt: skip
    return Backing(
        size // SECTOR,
        fd=fd,
        read_only=disk.read_only,
        align=_alignment(fd, regular) if disk.direct else 0,
        named=regular and info.st_nlink > 0,
        close=_closer(fd),
    )


def _begins(path: Path) -> bytes:
    """Return the first bytes, read without O_DIRECT's rules."""
    with open(path, "rb", buffering=0) as file:
        return file.read(4) or b""


def _alignment(fd: int, regular: bool) -> int:
    if regular:
        return ALIGN
    out = fcntl.ioctl(fd, _BLKSSZGET, bytes(4))
    return int.from_bytes(out, "little")


def _closer(fd: int) -> Callable[[], Awaitable[None]]:
    """Return what closes `fd`, once: that may write back much, so a thread does it."""
    left = [fd]

    async def close() -> None:
        if left:
            await asyncio.to_thread(os.close, left.pop())

    return close


def _lock(fd: int, disk: Disk) -> None:
    """Take the image for this machine alone, or to read beside others."""
    try:
        if disk.read_only:
            for at in (_PERM, _SHARED + 1, _SHARED + 3):
                _set(fd, fcntl.F_RDLCK, at, 1)
            held = _held(fd, _PERM + 1)
        else:
            _set(fd, fcntl.F_WRLCK, _PERM, _SPAN)
            held = False
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            return  # this file system knows no locks
        held = True
    if held:
        raise UsageError(f"disk {disk.path} is in use by another machine")


def _set(fd: int, kind: int, start: int, length: int) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, kind, os.SEEK_SET, start, length, 0))


def _held(fd: int, at: int) -> bool:
    """Say whether another has locked byte `at`."""
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, at, 1, 0)
    with contextlib.suppress(OSError):
        got: bytes = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked)
        return bool(struct.unpack(_FLOCK, got)[0] != fcntl.F_UNLCK)
    return False
