"""A machine's serial console as a stream that never holds the guest back.

What the guest prints is always taken; the last `capacity` bytes wait for whoever reads (older ones
are dropped and counted), and all of it can go to a log file besides.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from typing import BinaryIO

from ..errors import UsageError

CAPACITY = 1 << 20
TAIL = 8 << 10  # a kernel's last words: more than one panic with its stack
_WRITE_MAX = 1 << 20
_READS_MAX = 16  # of 64 KiB, before others get their turn


class Console:
    """One end of a serial line; one reader at a time.

    `async for line in console` yields text lines without their ends until the machine is gone;
    `read()` yields bytes as they come.
    """

    def __init__(self, capacity: int = CAPACITY, log: BinaryIO | None = None) -> None:
        self.capacity = capacity
        self.dropped = 0  # bytes that nobody read in time
        self.closed = False
        self.taps: list[Callable[[bytes], object]] = []  # get all that is printed from now on
        self.tail = b""  # what was printed last, whoever read it
        self.size = (80, 25)  # columns and rows
        self._resized: Callable[[int, int], None] | None = None
        self._log = log
        self._pending = bytearray()
        self._outgoing = bytearray()
        self._changed = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self._sock: socket.socket | None = None
        self._send: Callable[[bytes], int] | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def unread(self) -> bytes:
        """What nobody has read yet; it stays."""
        return bytes(self._pending)

    def attach(self, sock: socket.socket) -> None:
        """Use `sock`, a connected stream socket, from now on; it becomes ours."""
        sock.setblocking(False)
        self._sock = sock
        self._loop.add_reader(sock.fileno(), self._on_readable)

    def connect(
        self, send: Callable[[bytes], int], resized: Callable[[int, int], None] | None = None
    ) -> None:
        """Be the line of a serial port in this process.

        `send` takes what the port has room for and returns how much that was.  The port's owner
        calls `receive` with what the guest prints and `flush` when there is room again.  `resized`
        hears of `resize`, where the port can tell its guest.
        """
        self._send = send
        self._resized = resized

    def resize(self, cols: int, rows: int) -> None:
        """Tell the guest the terminal's size; a serial port has no way to, a virtio console has."""
        self.size = (cols, rows)
        if self._resized is not None:
            self._resized(cols, rows)

    def receive(self, data: bytes) -> None:
        """Take what the guest printed."""
        self._take(data)

    def flush(self) -> None:
        """Send what was written, as far as the port takes it."""
        if self._send is not None and self._outgoing:
            del self._outgoing[: self._send(bytes(self._outgoing))]
            if not self._outgoing:
                self._drained.set()

    async def read(self, limit: int = 65536) -> bytes:
        """Return up to `limit` bytes, waiting for the first; empty at the end."""
        while not self._pending and not self.closed:
            self._changed.clear()
            await self._changed.wait()
        data = bytes(self._pending[:limit])
        del self._pending[:limit]
        return data

    async def readline(self) -> bytes:
        """Return one line with its end; a last line may lack it, and at the end it is empty."""
        searched, dropped = 0, self.dropped
        while (end := self._pending.find(b"\n", searched)) < 0 and not self.closed:
            searched = len(self._pending)
            self._changed.clear()
            await self._changed.wait()
            searched, dropped = max(0, searched - (self.dropped - dropped)), self.dropped
        return await self.read(end + 1 if end >= 0 else self.capacity)

    async def __aiter__(self) -> AsyncIterator[str]:
        while line := await self.readline():
            yield line.decode("utf-8", "replace").rstrip("\r\n")

    def write(self, data: bytes) -> None:
        """Type `data` into the guest; see `drain` for large amounts."""
        if self.closed or (self._sock is None and self._send is None):
            raise UsageError("the console is closed: the machine does not run")
        if len(self._outgoing) + len(data) > _WRITE_MAX:
            raise UsageError(f"more than {_WRITE_MAX} bytes wait for the guest: await drain()")
        if self._sock is not None and not self._outgoing:
            self._loop.add_writer(self._sock.fileno(), self._on_writable)
        self._drained.clear()
        self._outgoing += data
        self.flush()

    async def drain(self) -> None:
        """Wait until everything written was taken by the machine."""
        await self._drained.wait()

    def close(self) -> None:
        """End the stream: readers get what is left, then the end."""
        if self._sock is not None:
            if not self.closed:
                self._on_readable()  # what the machine said last
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
            self._sock.close()
            self._sock = None
        self._send = self._resized = None
        self._end()

    def _on_readable(self) -> None:
        assert self._sock is not None
        try:
            for _ in range(_READS_MAX):
                data = self._sock.recv(65536)
                if not data:
                    break
                self._take(data)
            else:
                return
        except BlockingIOError:
            return
        except OSError:  # the other end is gone: as good as the end of the stream
            pass
        self._loop.remove_reader(self._sock.fileno())
        self._end()

    def _take(self, data: bytes) -> None:
        if self._log is not None:
            self._log.write(data)
            self._log.flush()
        for tap in self.taps:
            tap(data)
        self.tail = (self.tail + data)[-TAIL:]
        self._pending += data
        if (over := len(self._pending) - self.capacity) > 0:
            del self._pending[:over]
            self.dropped += over
        self._changed.set()

    def _on_writable(self) -> None:
        assert self._sock is not None
        try:
            del self._outgoing[: self._sock.send(self._outgoing)]
        except BlockingIOError:
            return
        except OSError:
            self._outgoing.clear()
        if not self._outgoing:
            self._loop.remove_writer(self._sock.fileno())
            self._drained.set()

    def _end(self) -> None:
        self.closed = True
        self._changed.set()
        self._drained.set()
