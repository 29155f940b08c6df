"""virtio-vsock (virtio 1.2, 5.10): streams between the guest and ends on the host.

Payload goes straight from the guest's buffers to what its end does with it (`take`: a socket's
sendmsg), and from its end straight into the guest's (`fill`: recvmsg_into); headers alone pass
through `vsock.table`.  An end is asked to `fill` only when the guest has given both credit and
buffers, in turns, so one that waits costs nothing and holds up no other.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Callable
from typing import Protocol

from ..errors import UsageError
from ..vsock import wire
from ..vsock.connection import Connection
from ..vsock.events import Credit, Established, Offered, PeerShutdown
from ..vsock.table import BUF_ALLOC, LIMIT, Table
from .base import Device, Line
from .queue import Chain, Queue, cut
from .vsock_burst import Burst

DEVICE_ID = 19
RECEIVE, TRANSMIT, EVENT = 0, 1, 2
QUEUE_SIZE, EVENT_QUEUE_SIZE = 256, 16
HEADER_LEN = wire.HEADER.size
FILL_CHAINS = 32  # buffers that one end may fill before it is another's turn
FILL_BYTES = 128 << 10
PUMP_TURNS = 16  # of ends, before others on the loop get theirs


class End(Protocol):
    """The host's end of a connection; `connection.user` is it.  Nothing here may wait."""

    def established(self) -> None:
        """Begin: the guest took the request."""

    def take(self, pieces: list[memoryview]) -> None:
        """Take the guest's bytes, good during the call; `VsockDevice.consumed` for what is gone."""

    @property
    def source(self) -> int:
        """A socket to receive from instead of calling `fill`, -1 without one."""

    def received(self, result: int) -> int:
        """Learn what receiving from `source` gave, or minus an errno; returns as `fill`."""

    def fill(self, pieces: list[memoryview]) -> int:
        """Put bytes for the guest into `pieces`, from the first; 0 to be asked again on `wake`."""

    def peer_shutdown(self) -> None:
        """Look at `connection.peer_shutdown`: it changed."""

    def closed(self, why: str, clean: bool) -> None:
        """Let go: the connection is no more."""


class VsockDevice(Device):
    """The device of the guest `cid`; `offered` accepts or resets what the guest asks for."""

    device_id = DEVICE_ID
    queue_sizes = (QUEUE_SIZE, QUEUE_SIZE, EVENT_QUEUE_SIZE)
    features = 1  # VIRTIO_VSOCK_F_STREAM

    def __init__(
        self,
        cid: int,
        offered: Callable[[Connection], None],
        *,
        limit: int = LIMIT,
        buf_alloc: int = BUF_ALLOC,
    ) -> None:
        super().__init__()
        if not wire.CID_MIN <= cid <= wire.CID_MAX:
            raise UsageError(f"cid is {cid}, expected {wire.CID_MIN} to {wire.CID_MAX}")
        self.table = Table(cid, limit=limit, buf_alloc=buf_alloc)
        self.malformed = 0  # transmitted chains without a header, receive buffers too small for one
        self._offered = offered
        self._line: Line | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready: dict[Connection, None] = {}  # their ends have something, in turn
        self._spares: deque[Chain] = deque()  # receive buffers that were taken and not used yet
        self._throttled = False  # the transmit queue waits until answers are gone
        self._pumping = False
        self._timer: asyncio.TimerHandle | None = None
        self._stood = 0.0  # seconds that the machine was paused for
        self._paused_at: float | None = None

    def config(self) -> bytes:
        """Return the guest's CID."""
        return wire.CONFIG.pack(self.table.guest_cid)

    # Time, as the guest has it: it owes nothing while it is paused.

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Use the timers of `loop`."""
        self._loop = loop

    @property
    def now(self) -> float:
        """The loop's time without what the machine was paused for."""
        assert self._loop is not None
        at = self._loop.time() if self._paused_at is None else self._paused_at
        return at - self._stood

    def pause(self) -> None:
        """Let no deadline pass from now on."""
        if self._paused_at is None and self._loop is not None:
            self._paused_at = self._loop.time()

    def resume(self) -> None:
        """Let time pass again."""
        if self._paused_at is not None and self._loop is not None:
            self._stood += self._loop.time() - self._paused_at
            self._paused_at = None
            self.pump()

    # The line.

    def activate(self, line: Line) -> None:
        """Serve the queues of `line`."""
        self._line = line
        if self._loop is None:
            self.bind(line.loop)
        self._transmitted()

    def notified(self, index: int) -> None:
        """Take what the guest sent, or use the buffers that it gave."""
        if index == TRANSMIT:
            self._transmitted()
        elif index == RECEIVE:
            self.pump()

    def stopped(self, index: int) -> None:
        """Let go of the buffers of a queue that is no more."""
        if index == RECEIVE:
            self._spares.clear()

    def suspend(self) -> None:
        """Let go of the line; connections wait for the next one."""
        self._line = None
        self._spares.clear()

    def reset(self) -> None:
        """End the connections: the driver forgets them."""
        self.suspend()
        self._throttled = False
        self.table.restart()
        self._dispatch()

    def transport_reset(self) -> None:
        """End all connections and tell the guest so (5.10.6.7), as after a move or a restore."""
        line = self._line
        self.reset()
        if line is None:
            return
        self._line = line
        chain = line.queues[EVENT].pop()
        if chain is not None:
            line.queues[EVENT].done(chain, chain.write(wire.EVENT.pack(wire.TRANSPORT_RESET)))

    async def close(self) -> None:
        """Stop the timer."""
        self.release()

    def release(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # What ends do.

    def wake(self, connection: Connection) -> None:
        """Ask its end to fill: there is something for the guest."""
        self._ready[connection] = None
        self.pump()

    def consumed(self, connection: Connection, size: int) -> None:
        """Give the guest credit for `size` bytes that its end passed on."""
        self.table.consumed(connection, size)
        if connection.want:
            self.pump()

    def accept(self, connection: Connection) -> None:
        """Accept what the guest offered."""
        self.table.accept(connection)
        self.pump()

    def shut_down(self, connection: Connection) -> None:
        """Send no more."""
        self._ready.pop(connection, None)
        self.table.shut_down(connection)
        self.pump()

    def end(self, connection: Connection) -> None:
        """Close in order: the guest may still read what it was sent."""
        self._ready.pop(connection, None)
        self.table.close(connection, self.now)
        self.pump()

    def abort(self, connection: Connection) -> None:
        """Reset."""
        self._ready.pop(connection, None)
        self.table.reset(connection)
        self.pump()

    # Guest to host.

    def _transmitted(self) -> None:
        line = self._line
        if line is None or not line.queues[TRANSMIT].attached:
            return
        queue = line.queues[TRANSMIT]
        self._pumping, pumping = True, self._pumping  # answers go when the burst is through
        self._throttled = self.table.full
        burst = Burst(queue, lambda connection, data: _end(connection).take(data))
        for chain in () if self._throttled else queue.chains():
            connection, data = self._packet(chain)
            burst.add(chain, connection, data)
            if self.table.has_events:
                burst.deliver()  # before what comes after it, as the end of the connection
                self._dispatch()
            if self.table.full:
                self._throttled = True  # `pump` comes back when there is room
                break
        burst.deliver()
        self._dispatch()
        queue.publish()
        self._pumping = pumping
        self.pump()

    def _packet(self, chain: Chain) -> tuple[Connection | None, list[memoryview]]:
        """Take one packet; returns the connection, if any, whose end is to have its payload."""
        pieces = chain.readable
        header = pieces[0] if pieces and len(pieces[0]) >= HEADER_LEN else chain.read(HEADER_LEN)
        if len(header) < HEADER_LEN:
            self.malformed += 1
            return None, []
        packet = wire.parse(header)
        room = chain.readable_len - HEADER_LEN
        connection = self.table.receive(packet, room, self.now)
        if connection is None:
            return None, []
        return connection, cut(pieces, HEADER_LEN, packet.len)

    def _dispatch(self) -> None:
        while (event := self.table.next_event()) is not None:
            connection = event.connection
            if isinstance(event, Offered):
                self._offered(connection)
            elif isinstance(event, Established):
                _end(connection).established()
            elif isinstance(event, Credit):
                self._ready[connection] = None
            elif isinstance(event, PeerShutdown):
                _end(connection).peer_shutdown()
            else:
                self._ready.pop(connection, None)
                if connection.user is not None:
                    _end(connection).closed(event.why, event.clean)

    # Host to guest.

    def pump(self) -> None:
        """Send what waits: control packets, then data, as far as buffers and credit go."""
        if self._pumping:
            return
        self._pumping = True
        try:
            line = self._line
            if line is not None and line.queues[RECEIVE].attached:
                self._fill(line, line.queues[RECEIVE])
            elif self._loop is not None:
                self.table.waiting(self.now)  # without a driver, requests still time out
            self._dispatch()
        finally:
            self._pumping = False
        self._rearm()
        if self._throttled and not self.table.full:
            self._transmitted()

    def _fill(self, line: Line, queue: Queue) -> None:
        for _ in range(PUMP_TURNS):
            done = self._control(queue)
            self._dispatch()
            if not done or not self._ready:
                break
            connection = next(iter(self._ready))
            del self._ready[connection]
            if not self._data(queue, connection):
                break  # the driver kicks when it gives buffers
        else:
            line.loop.call_soon(self.pump)
        queue.publish()

    def _buffer(self, queue: Queue) -> Chain | None:
        """Return a receive buffer with room for a header; without any the driver is to kick."""
        if self._spares:
            return self._spares.popleft()
        for _ in range(queue.size):
            chain = queue.pop()
            if chain is None and queue.arm():
                chain = queue.pop()
            if chain is None or chain.writable_len > HEADER_LEN:
                return chain
            self.malformed += 1
            queue.push(chain)
        return None

    def _control(self, queue: Queue) -> bool:
        """Send all control packets; False if there are no buffers for them."""
        while self.table.waiting(self.now):
            chain = self._buffer(queue)
            if chain is None:
                return False
            packet = self.table.transmit(self.now)
            assert packet is not None
            queue.push(chain, chain.write(packet))
        return True

    def _data(self, queue: Queue, connection: Connection) -> bool:
        """Let one end fill some buffers; False if there are none."""
        credit = connection.credit
        if not credit:
            self.table.blocked(connection)  # which brings it back, with the guest's answer
            return True
        end = _end(connection)
        if end.source >= 0 and not self._spares and self._receive(queue, connection, end, credit):
            return True
        chains: list[Chain] = []
        room: list[memoryview] = []
        total, most = 0, min(credit, FILL_BYTES)
        while total < most and len(chains) < FILL_CHAINS:
            chain = self._buffer(queue)
            if chain is None:
                break
            chains.append(chain)
            pieces = cut(chain.writable, HEADER_LEN, most - total)
            total += sum(map(len, pieces))
            room += pieces
        if not room:
            self._ready[connection] = None
            return False
        filled = end.fill(room)
        used = self._send(queue, connection, chains, filled)
        self._spares.extendleft(reversed(chains[used:]))
        if filled:
            self._ready[connection] = None
        return True

    def _receive(self, queue: Queue, connection: Connection, end: End, credit: int) -> bool:
        """Receive from the end's socket into many buffers; False if the next is none for that."""
        header, most = self.table.header(connection), min(credit, FILL_BYTES)
        result, packets = queue.ring.receive(end.source, header, most)
        if result == -errno.ENOBUFS:
            return False
        if result > 0:
            self.table.sent(connection, result, packets)
        if end.received(result):
            self._ready[connection] = None
        return True

    def _send(self, queue: Queue, connection: Connection, chains: list[Chain], filled: int) -> int:
        """Give back the buffers that hold `filled` bytes; returns how many these are."""
        used = 0
        while filled:
            chain = chains[used]
            size = min(filled, chain.writable_len - HEADER_LEN)
            chain.write(self.table.data(connection, size))
            queue.push(chain, HEADER_LEN + size)
            filled -= size
            used += 1
        return used

    # Time.

    def _rearm(self) -> None:
        """Set the timer to the table's deadline."""
        deadline = self.table.deadline()
        at = None if deadline is None else deadline + self._stood
        if self._timer is not None and self._timer.when() == at and not self._timer.cancelled():
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if at is not None and self._loop is not None and self._paused_at is None:
            self._timer = self._loop.call_at(at, self._due)

    def _due(self) -> None:
        self._timer = None
        self.pump()


def _end(connection: Connection) -> End:
    return connection.user  # type: ignore[return-value]
