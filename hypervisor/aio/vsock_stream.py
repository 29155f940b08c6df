"""A vsock connection as an asyncio transport: what `StreamReader` and `StreamWriter` stand on.

Back pressure is the guest's credit: a reader that is full gives none, and what is written waits
here until the guest has room, upon which `drain` returns.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from ..devices.vsock import VsockDevice
from ..vsock.connection import Connection
from ..vsock.wire import HOST_CID, Shutdown

HIGH_WATER = 64 << 10


class VsockTransport(asyncio.Transport):
    """The host's end of `connection`, for `protocol`; `gone` is called once, at its end."""

    def __init__(
        self,
        device: VsockDevice,
        connection: Connection,
        protocol: asyncio.Protocol,
        loop: asyncio.AbstractEventLoop,
        gone: Callable[[VsockTransport], None],
        waiter: asyncio.Future[None] | None = None,
    ) -> None:
        super().__init__(
            {
                "peername": (device.table.guest_cid, connection.guest_port),
                "sockname": (HOST_CID, connection.host_port),
            }
        )
        self._device = device
        self._connection = connection
        self._protocol: asyncio.BaseProtocol = protocol
        self._loop = loop
        self._gone = gone
        self._waiter = waiter
        self._out: deque[memoryview] = deque()
        self._out_len = 0
        self._in = bytearray()  # while the protocol does not read
        self._reading = True
        self._eof = False  # written
        self._peer_eof = False  # passed on
        self._closing = False
        self._lost = False
        self._stalled = False  # the protocol was told to pause
        self.set_write_buffer_limits()
        connection.user = self

    def begin(self) -> None:
        """Tell the protocol that it is connected."""
        self._protocol.connection_made(self)

    # The device's side.

    def established(self) -> None:
        """Begin, and let `connect` return."""
        if self._waiter is not None and not self._waiter.done():
            self.begin()
            self._waiter.set_result(None)

    def take(self, pieces: list[memoryview]) -> None:
        """Give the guest's bytes to the protocol, or keep them while it does not read."""
        data = b"".join(pieces)
        if not self._reading:
            self._in += data
        elif not self._lost:
            self._give(data)

    def _give(self, data: bytes) -> None:
        assert isinstance(self._protocol, asyncio.Protocol)
        self._protocol.data_received(data)
        self._device.consumed(self._connection, len(data))

    source = -1

    def received(self, result: int) -> int:
        """Never happens: there is no source."""
        return 0

    def fill(self, pieces: list[memoryview]) -> int:
        """Copy what was written into the guest's memory."""
        filled = 0
        for piece in pieces:
            at = 0
            while at < len(piece) and self._out:
                part = self._out[0][: len(piece) - at]
                piece[at : at + len(part)] = part
                at += len(part)
                if len(part) == len(self._out[0]):
                    self._out.popleft()
                else:
                    self._out[0] = self._out[0][len(part) :]
            filled += at
        self._out_len -= filled
        if filled:
            self._loop.call_soon(self._after_fill)
        return filled

    def _after_fill(self) -> None:
        if self._stalled and self._out_len <= self._low and not self._lost:
            self._stalled = False
            self._protocol.resume_writing()
        self._settle()

    def peer_shutdown(self) -> None:
        """Tell the protocol of the end after what was before it."""
        if self._connection.peer_shutdown & Shutdown.RCV:
            self._out.clear()
            self._out_len = 0
        self._settle()

    def closed(self, why: str, clean: bool) -> None:
        """Give the protocol what is left, and then the end."""
        self._fail(TimeoutError if "not answer" in why else ConnectionRefusedError, why)
        self._deliver()
        self._finish(None if clean or self._closing else ConnectionResetError(why))

    def _fail(self, kind: type[OSError], why: str) -> None:
        """Let `connect` raise, if it still waits."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(kind(f"vsock port {self._connection.guest_port}: {why}"))
            self._protocol = asyncio.Protocol()

    def _deliver(self) -> None:
        if self._in and not self._lost:
            data, self._in = bytes(self._in), bytearray()
            self._give(data)

    def _settle(self) -> None:
        """Do what is due once everything was passed on."""
        if self._lost:
            return
        if not self._out and (self._eof or self._closing):
            self._device.shut_down(self._connection)
            if self._closing:
                self._device.end(self._connection)
                self._finish(None)
                return
        peer = self._connection.peer_shutdown
        if not peer & Shutdown.SEND or self._in:
            return
        if not self._peer_eof:
            self._peer_eof = True
            assert isinstance(self._protocol, asyncio.Protocol)
            keep = self._protocol.eof_received()
            if not keep:
                self.close()
        if peer == Shutdown.BOTH and not self._lost:
            self._device.end(self._connection)
            self._finish(None)

    def _finish(self, error: Exception | None) -> None:
        if self._lost:
            return
        self._lost = self._closing = True
        self._out.clear()
        self._out_len = 0
        self._in.clear()
        self._loop.call_soon(self._protocol.connection_lost, error)
        self._gone(self)

    # The protocol's side: asyncio.Transport.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data` as the guest has room; bytes are not copied before that."""
        if self._eof:
            raise RuntimeError("write() after write_eof()")
        if self._lost or not len(data) or self._connection.peer_shutdown & Shutdown.RCV:
            return
        view = memoryview(data if isinstance(data, bytes) else bytes(data))
        self._out.append(view)
        self._out_len += len(view)
        self._device.wake(self._connection)
        if self._out_len > self._high and not self._stalled:
            self._stalled = True
            self._protocol.pause_writing()

    def writelines(self, lines: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send all of them."""
        self.write(b"".join(lines))

    def write_eof(self) -> None:
        """Send no more after what was written (half close)."""
        self._eof = True
        self._settle()

    def can_write_eof(self) -> bool:
        """Say yes."""
        return True

    def close(self) -> None:
        """Send what was written, then close."""
        if not self._closing:
            self._closing = True
            self._settle()

    def abort(self) -> None:
        """Reset the connection."""
        self._fail(ConnectionAbortedError, "the machine ended")
        self._device.abort(self._connection)
        self._finish(None)

    def is_closing(self) -> bool:
        """Say whether it is closed or about to be."""
        return self._closing

    def is_reading(self) -> bool:
        """Say whether the protocol reads."""
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        """Give no more to the protocol, and no credit to the guest."""
        self._reading = False

    def resume_reading(self) -> None:
        """Give what waited to the protocol."""
        self._reading = True
        self._deliver()
        self._settle()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Pause the protocol above `high` bytes that wait, resume it at `low`."""
        self._high = HIGH_WATER if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return low and high."""
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        """Return the bytes that wait for the guest."""
        return self._out_len

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Use another protocol."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol."""
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return `peername` or `sockname`: (cid, port)."""
        return super().get_extra_info(name, default)
