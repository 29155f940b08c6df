"""The C split queue behind a small class; `hypervisor.queue.split` is the same in Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

from vpnstack.core.burst import Burst

from ..queue.layout import Feature, header_len
from ..queue.state import Fault, QueueError, QueueState
from ._core import ffi, lib
from .memory import GuestMemory


class Steering:
    """Which queue pair a flow is received on: the one it last transmitted on (5.1.6.5.6)."""

    def __init__(self, pairs: int = 1) -> None:
        self.table: Any = ffi.new("struct hv_steer *")
        self.pairs = pairs

    @property
    def pairs(self) -> int:
        """Queue pairs in use; with one, no frame is looked at."""
        return int(self.table.pairs)

    @pairs.setter
    def pairs(self, value: int) -> None:
        self.table.pairs = value

    def hold(self, pair: int, on: bool) -> None:
        """Let no flow move to another pair while frames for `pair` wait."""
        bit = 1 << pair
        self.table.held = self.table.held | bit if on else self.table.held & ~bit

    @property
    def held(self) -> bool:
        """True while frames wait for some pair."""
        return bool(self.table.held)

    def pair(self, burst: Burst, index: int) -> int:
        """Return the pair on which frame `index` is to be received."""
        return int(lib.hv_steer_pair(self.table, burst.address, index))

    def select(self, burst: Burst, start: int, pair: int, out: Burst) -> None:
        """Refer `out` to frames `start` and up of `burst` that are to be received on `pair`.

        `out` is as large as `burst`, which must outlive what it shows.
        """
        assert out.capacity >= burst.count
        out.count = lib.hv_steer_select(
            self.table, burst.address, start, burst.count, pair, out.address
        )


class Ring:
    """One virtqueue, device side; broken for good after a fault, until attached again.

    `pair` is the queue pair it belongs to.  `call_fd` is borrowed.
    """

    def __init__(self, steering: Steering | None = None, pair: int = 0) -> None:
        self.q: Any = ffi.gc(ffi.new("struct vq *"), lib.vq_free)
        self.q.call_fd = -1
        self.pair = pair
        self._steering = steering or Steering()
        self._steer = self._steering.table
        self._memory: GuestMemory | None = None

    def attach(
        self, memory: GuestMemory, state: QueueState, last_avail: int | None = None
    ) -> Fault | None:
        """Put the queue on rings inside `memory`; returns what is wrong with them.

        It starts at `last_avail` where that is given, at the state's otherwise.
        """
        q, features = self.q, state.features
        q.last_avail = state.last_avail if last_avail is None else last_avail
        q.hdr_len = header_len(features)
        q.event_idx = bool(features & Feature.RING_EVENT_IDX)
        q.indirect = bool(features & Feature.RING_INDIRECT_DESC)
        q.mergeable = bool(features & Feature.NET_MRG_RXBUF)
        q.guest_csum = bool(features & Feature.NET_GUEST_CSUM)
        q.guest_ecn = bool(features & Feature.NET_GUEST_ECN)
        self._memory = memory
        if lib.vq_attach(q, memory.table, state.size, state.desc, state.avail, state.used) < 0:
            return self.fault or Fault(QueueError.BAD_SIZE, state.size, 0)
        return None

    def detach(self) -> int:
        """Let go of the rings; returns the index of the next chain, to go on from elsewhere."""
        last_avail = int(self.q.last_avail)
        lib.vq_detach(self.q)
        self._memory = None
        return last_avail

    @property
    def attached(self) -> bool:
        """True while the queue lies in guest memory and is not broken."""
        return bool(self.q.size) and not self.q.error

    @property
    def fault(self) -> Fault | None:
        """The rule that the driver broke."""
        q = self.q
        return Fault(QueueError(q.error), q.error_a, q.error_b) if q.error else None

    @property
    def calls(self) -> int:
        """How often the driver was notified."""
        return int(self.q.calls)

    @property
    def chains(self) -> int:
        """Chains taken, or frames moved, wherever it was attached."""
        return int(self.q.frames)

    @property
    def octets(self) -> int:
        """Bytes in these: what the driver wrote, and what was written for it."""
        return int(self.q.octets)

    @property
    def dropped(self) -> int:
        """Chains that were no frames (transmit), frames that no buffer could hold (receive)."""
        return int(self.q.dropped)

    @property
    def used_idx(self) -> int:
        """The used ring's index in guest memory, whoever moves it; the queue must be attached."""
        return int(ffi.cast("uint16_t *", self.q.used)[1])

    def set_call(self, fd: int) -> None:
        """Notify the driver by writing to `fd`; -1 for a driver that polls."""
        self.q.call_fd = fd

    def tx_pop(self, burst: Burst) -> int:
        """Append transmitted frames to `burst` until it is full; returns how many came."""
        before = burst.count
        count: int = lib.vq_tx_pop(
            self.q, burst.address, before, burst.capacity, self._steer, self.pair
        )
        burst.count = count
        return count - before

    def rx_push(self, burst: Burst, start: int = 0) -> int:
        """Copy the frames of `burst` that belong here into the driver's buffers.

        Returns the index of the first one that found no room, `burst.count` when all did.
        """
        return int(
            lib.vq_rx_push(self.q, burst.address, start, burst.count, self._steer, self.pair)
        )

    def rx_push_all(self, burst: Burst) -> int:
        """Like `rx_push` for frames that all belong here, whatever steering says by now."""
        q = self.q
        return int(lib.vq_rx_push(q, burst.address, 0, burst.count, ffi.NULL, self.pair))

    def chain_pop(self) -> tuple[int, Pieces, Pieces] | None:
        """Take the next chain: its head, what the driver wrote, and where we may write."""
        q = self.q
        if not lib.vq_chain_pop(q):
            return None
        iov = ffi.new("struct iovec[]", max(1, q.iovcnt))
        ffi.memmove(iov, q.iov, ffi.sizeof("struct iovec") * q.iovcnt)
        readable = q.readable
        return q.head, Pieces(iov, readable), Pieces(iov + readable, q.iovcnt - readable, iov)

    def chain_push(self, head: int, written: int) -> None:
        """Give back a chain of `chain_pop`, `written` bytes of it written; `publish` follows."""
        lib.vq_chain_push(self.q, head, written)

    def receive(self, fd: int, header: bytes, most: int) -> tuple[int, int]:
        """Receive up to `most` octets from a socket into the driver's next buffers of a vsock.

        Returns what recvmsg(2) gave or minus an errno, ENOBUFS for want of buffers, and how many
        buffers were filled, each behind `header` with its own length; `publish` follows.
        """
        packets = ffi.new("uint32_t *")
        got = lib.vq_receive(self.q, fd, ffi.from_buffer(header), most, packets)
        return int(got), int(packets[0])

    def publish(self) -> bool:
        """Give back what was popped, and notify the driver if it wants that; says whether."""
        return bool(lib.vq_publish(self.q))

    def arm(self) -> int:
        """Ask for a kick at the next chain; returns how many chains came meanwhile."""
        return int(lib.vq_arm(self.q))

    def suppress(self) -> None:
        """Ask for no kicks."""
        lib.vq_suppress(self.q)


class Pieces(Sequence[memoryview]):
    """Guest memory in pieces: one direction of a chain, as views or copied as a whole in C."""

    __slots__ = ("_count", "_iov", "_owner", "octets")

    def __init__(self, iov: Any, count: int, owner: Any = None) -> None:
        self._iov = iov
        self._count = count
        self._owner = owner  # what keeps `iov`
        self.octets: int = lib.vq_iov_len(iov, count)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> memoryview: ...
    @overload
    def __getitem__(self, index: slice) -> list[memoryview]: ...
    def __getitem__(self, index: int | slice) -> memoryview | list[memoryview]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(index)
        piece = self._iov[index % self._count]
        return memoryview(ffi.buffer(piece.iov_base, piece.iov_len))

    def read(self, size: int, offset: int = 0) -> bytearray:
        """Return a copy of up to `size` octets from `offset`."""
        out = bytearray(max(0, min(size, self.octets - offset)))
        lib.vq_iov_read(self._iov, self._count, offset, ffi.from_buffer(out), len(out))
        return out

    def write(self, data: bytes | bytearray | memoryview, offset: int = 0) -> int:
        """Copy `data` to where `offset` is; returns how much found room."""
        source = ffi.from_buffer(data)
        return int(lib.vq_iov_write(self._iov, self._count, offset, source, len(source)))


def frames_need(burst: Burst) -> int:
    """Return which offloads the frames of `burst` need, as bits of vpnstack's `Offload`."""
    return int(lib.hv_frames_need(burst.address, burst.count))
