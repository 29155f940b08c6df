"""Framed streams: QEMU's `-netdev stream`, passt's and libkrun's sockets.

Each frame stands behind its length (4 bytes, big-endian) on a stream socket, without a virtio-net
header, so every offload happens in software here.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat

from ..core._core import ffi, lib
from ..core.burst import Burst
from ..errors import UsageError
from .port import Offload, Port, PortClosed, PortStatistics
from .soft import Softener

BUFFER = 1 << 18  # holds at least two frames of the largest size
BACKLOG_OCTETS = 4 << 20
FRAME_MAX = 65593  # FRAME_LEN_MAX and its length


class FramedPort:
    """A connected stream socket as a port; owns the socket."""

    offload = Offload.NONE

    def __init__(self, sock: socket.socket, name: str = "qemu", mtu: int = 1500) -> None:
        self.name = name
        self.mtu = mtu
        self._sock = sock
        sock.setblocking(False)
        self._buffer = ffi.new("uint8_t[]", BUFFER)
        self._start, self._end = ffi.new("uint32_t *"), ffi.new("uint32_t *")
        self._backlog = bytearray()
        self._soften = Softener()
        self._rx = [0, 0]
        self._tx = ffi.new("uint64_t[3]")  # frames, octets, dropped; C adds to them

    @property
    def stalled(self) -> bool:
        """True while bytes wait for the socket."""
        return len(self._backlog) > 0

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._sock.fileno()

    def rx_burst(self, burst: Burst) -> int:
        """Receive once and take whole frames; see `Port`."""
        n = lib.framed_rx_burst(
            self.fileno(), burst.array, burst.capacity, self._buffer, BUFFER, self._start, self._end
        )
        if n < 0:
            reason = "the peer closed the stream" if n == -32 else os.strerror(-n)
            raise PortClosed(f"{self.name}: {reason}")
        burst.count = n
        self._rx[0] += n
        return int(n)

    def rx_done(self, burst: Burst) -> None:
        """Forget the burst; the buffer is received into again."""
        self._rx[1] += sum(f.len for f in burst)
        burst.clear()

    def tx_burst(self, burst: Burst) -> None:
        """Send all frames, or keep a bounded backlog of bytes; see `Port`."""
        for part in self._soften(burst, self.offload):
            sent = 0 if self._backlog else self._send(part)
            if sent < 0:  # the stream is dead: let all of it go, receiving will say so
                self._tx[2] += part.count
            else:
                self._account(part, sent)

    def _send(self, burst: Burst) -> int:
        sent = lib.framed_tx_burst(self.fileno(), burst.array, burst.count)
        return int(sent)

    def _account(self, burst: Burst, sent: int) -> None:
        """Put what stands behind the first `sent` bytes of `burst` into the backlog."""
        rest = burst.octets_len() + 4 * burst.count - sent
        have = len(self._backlog)
        room = max(0, BACKLOG_OCTETS - have)
        size = min(rest, max(room, FRAME_MAX))  # a frame that was begun is kept, full or not
        self._backlog += bytes(size)
        with ffi.from_buffer("uint8_t[]", self._backlog) as base:
            kept = lib.framed_rest(
                burst.array, burst.count, sent, base + have, room, size, self._tx
            )
        del self._backlog[have + kept :]

    def flush(self) -> None:
        """Send from the backlog what the socket takes."""
        try:
            while self._backlog:
                del self._backlog[: self._sock.send(memoryview(self._backlog)[:BUFFER])]
        except BlockingIOError:
            pass
        except OSError:  # dead, as above
            self._backlog.clear()

    def close(self) -> None:
        """Close the socket; what waits for it is lost."""
        self._sock.close()
        self._backlog.clear()

    def statistics(self) -> PortStatistics:
        """Return counters since the port was opened."""
        return PortStatistics(
            rx_frames=self._rx[0],
            rx_octets=self._rx[1],
            tx_frames=int(self._tx[0]),
            tx_octets=int(self._tx[1]),
            tx_dropped=int(self._tx[2]) + self._soften.dropped,
        )


class FramedListener:
    """A unix socket at which framed streams arrive; `listen` makes one."""

    def __init__(self, path: str, mtu: int) -> None:
        self._path = path
        self._mtu = mtu
        self._count = 0
        self._sock = bind_unix(path)

    def fileno(self) -> int:
        """The listening socket's descriptor."""
        return self._sock.fileno()

    def accept(self) -> list[Port]:
        """Return a port for each connection that waits."""
        ports: list[Port] = []
        while True:
            try:
                sock, _ = self._sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return ports
            self._count += 1
            ports.append(FramedPort(sock, f"qemu{self._count}", self._mtu))

    def close(self) -> None:
        """Stop listening and remove the socket from the file system."""
        if self._sock.fileno() >= 0:
            self._sock.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)


def bind_unix(path: str) -> socket.socket:
    """Listen on a stream socket at `path`, mode 0600, replacing one that nobody answers."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.setblocking(False)
    mask = os.umask(0o177)
    try:
        remove_stale(path)
        sock.bind(path)
    except OSError as e:
        sock.close()
        raise UsageError(f"cannot listen on {path}: {e.strerror or e}") from e
    finally:
        os.umask(mask)
    sock.listen()
    return sock


def remove_stale(path: str) -> None:
    """Unlink a socket file whose owner is gone; raise `OSError` where somebody still listens."""
    if not os.path.exists(path) or not stat.S_ISSOCK(os.stat(path).st_mode):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a live listener with a full queue would hold us
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except BlockingIOError:
            pass


def listen(path: str, *, mtu: int) -> FramedListener:
    """Entry point `qemu` of `vpnstack.ports`: accept `-netdev stream` peers at `path`."""
    return FramedListener(path, mtu)
