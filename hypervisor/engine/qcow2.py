"""qcow2 images: served to us by qemu-nbd over a socket that nobody else can reach.

QEMU's own code keeps the format, libnbd speaks the protocol, in the threads of the device; nothing
of either is linked.  qemu-nbd gets its listening socket as systemd would pass it, with our
connection in it, and ends by itself, cleanly, when that connection does.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import tempfile
from functools import partial
from pathlib import Path

from ..aio.process import Child
from ..core.blk import Nbd, has_nbd, open_nbd
from ..devices.block import Backing
from ..devices.disk import Disk
from ..errors import UsageError

TOOLS = "qemu-utils"
LIBRARY = "libnbd0"
CLUSTER = 64 << 10  # what qemu-img makes; a discard of less frees nothing
_GOODBYE = 30.0  # seconds for qemu-nbd to write out its caches
_REFUSAL = 2.0  # seconds to end by itself when it did not even take the connection
# Descriptor 3 is the first that is passed (sd_listen_fds(3)).
_START = 'LISTEN_FDS=1 LISTEN_PID=$$ exec "$@" 3<&0 </dev/null'


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise UsageError(f"{name} is not here, for qcow2: run apt-get install {TOOLS}")
    return path


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip() or f"status {done.returncode}"
        raise UsageError(said.replace("\n", "; "))
    return done.stdout.decode()


def create(disk: Disk) -> None:
    """Make an empty image of the disk's size; blocks."""
    _run(_tool("qemu-img"), "create", "-q", "-f", "qcow2", _name(disk.path), str(disk.bytes))


def grow(disk: Disk) -> None:
    """Grow an image that is smaller than the disk's size; blocks."""
    if disk.bytes is not None and _size(disk.path) < disk.bytes:
        _run(_tool("qemu-img"), "resize", "-q", "-f", "qcow2", _name(disk.path), str(disk.bytes))


def _size(path: Path) -> int:
    """Return what the header says (docs/interop/qcow2.txt)."""
    with open(path, "rb") as file:
        return int.from_bytes(file.read(32)[24:], "big")


def _name(path: Path) -> str:
    """Return a name that QEMU's tools do not take for a protocol."""
    return str(path.absolute())


async def serve(disk: Disk) -> Backing:
    """Open the image through qemu-nbd; UsageError says why not."""
    program = _tool("qemu-nbd")
    if not has_nbd():
        raise UsageError(f"libnbd is not here, for qcow2: run apt-get install {LIBRARY}")
    with (
        tempfile.TemporaryDirectory(prefix="trikit-") as place,
        socket.socket(socket.AF_UNIX) as listener,
    ):
        address = str(Path(place) / "nbd")
        listener.bind(address)
        listener.listen(1)
        ours = socket.socket(socket.AF_UNIX)
        ours.connect(address)
        try:
            command = ["sh", "-c", _START, "sh", *_command(program, disk)]
            child = Child(command, stdin=listener.fileno(), death_signal="TERM")
        except BaseException:
            ours.close()
            raise
    return await _connect(disk, child, ours)


def _command(program: str, disk: Disk) -> list[str]:
    command = [program, "--format=qcow2", "--discard=unmap", "--shared=1"]
    command += ["--cache=none" if disk.direct else "--cache=writeback"]
    command += ["--read-only"] if disk.read_only else []
    return [*command, "--", _name(disk.path)]


async def _connect(disk: Disk, child: Child, ours: socket.socket) -> Backing:
    try:
        nbd = await asyncio.to_thread(open_nbd, ours.detach())
    except UsageError as error:
        code = await _end(child, _REFUSAL)
        raise UsageError(f"disk {disk.path}: {_why(child, code, str(error))}") from None
    except BaseException:
        child.kill()
        raise
    return _backing(disk, nbd, child)


def _why(child: Child, code: int, otherwise: str) -> str:
    words = child.last_words
    if "lock" in words:
        return "it is in use by another machine"
    return words or f"qemu-nbd ended with status {code}: {otherwise}"


def _backing(disk: Disk, nbd: Nbd, child: Child) -> Backing:
    return Backing(
        nbd.size // 512,
        nbd=nbd.handle,
        read_only=disk.read_only or nbd.read_only,
        discards=nbd.trims,
        zeroes=nbd.zeroes,
        granularity=CLUSTER,
        close=partial(_end, child),
    )


async def _end(child: Child, patience: float = _GOODBYE) -> int:
    """Wait for qemu-nbd, which ends and writes out its caches when its connection was closed."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience):
            return await asyncio.shield(child.returncode)
    child.kill()
    return await child.returncode
