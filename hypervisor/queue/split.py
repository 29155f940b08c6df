"""The device side of a split virtqueue for virtio-net, in pure Python (virtio 1.2, 2.7 and 5.1.6).

The reference for core/vring.c and core/net.c, under the same tests: same chains taken, same bytes
written, same faults.  It has no fences and copies every frame, so it serves memory that nobody
else changes meanwhile: tests, saved machines.
"""

from __future__ import annotations

from vpnstack.core.burst import Burst

from .chain import Broken, Memory, Places, places, translate_ring, walk
from .layout import (
    ARENA,
    AVAIL_NO_INTERRUPT,
    CHAIN_MAX,
    ENTRIES,
    ETH_LEN,
    FLAGS,
    FRAME_LEN_MAX,
    FRAME_PIECES_MAX,
    IDX,
    PIECES_MAX,
    SIZE_MAX,
    U16,
    USED_ELEM,
    USED_NO_NOTIFY,
    Feature,
    avail_event,
    avail_size,
    desc_size,
    header_len,
    need_event,
    used_event,
    used_size,
)
from .state import Fault, QueueError, QueueState

_ECN = 0x80
_EMPTY = memoryview(bytearray())


def _cut(pieces: list[memoryview], size: int) -> tuple[bytes, list[memoryview]]:
    """Take the first `size` bytes off the pieces."""
    head, rest = b"", list(pieces)
    while len(head) < size:
        piece = rest.pop(0)
        part = size - len(head)
        head += bytes(piece[:part])
        if len(piece) > part:
            rest.insert(0, piece[part:])
    return head, rest


class SplitQueue:
    """The same surface as `hypervisor.core.ring.Ring`; `publish` says when to notify and leaves
    the notification to its caller."""

    def __init__(self) -> None:
        self.calls = 0
        self.dropped = 0
        self.fault: Fault | None = None
        self._state = QueueState(0, 0, 0, 0, 0)
        self._memory: Places = ()
        self._desc = self._avail = self._used = _EMPTY
        self._last_avail = self._avail_idx = self._used_idx = 0
        self._pending = self._arena = self._inflight = 0
        self._readable = 0
        self._call = False
        self._silent = False

    # Attaching.

    def attach(
        self, memory: Memory, state: QueueState, last_avail: int | None = None
    ) -> Fault | None:
        """Put the queue on rings inside `memory`; returns what is wrong with them."""
        self.detach()
        self._last_avail = state.last_avail if last_avail is None else last_avail
        self._memory = places(memory)
        size = state.size
        try:
            if not 0 < size <= SIZE_MAX or size & (size - 1):
                raise Broken(QueueError.BAD_SIZE, size, SIZE_MAX)
            self._desc = self._place(state.desc, desc_size(size), 16)
            self._avail = self._place(state.avail, avail_size(size), 2)
            self._used = self._place(state.used, used_size(size), 4)
        except Broken as exc:
            self.fault = exc.fault
            return self.fault
        self._state = state
        self._used_idx = self._load(self._used, IDX)
        self._avail_idx = self._last_avail
        return None

    def _place(self, uva: int, size: int, align: int) -> memoryview:
        ring = translate_ring(self._memory, uva, size)
        if ring is None:
            raise Broken(QueueError.BAD_RING, uva, size)
        if uva % align:
            raise Broken(QueueError.BAD_ALIGN, uva, align)
        return ring

    def detach(self) -> int:
        """Let go of the rings; returns the index of the next chain."""
        self.fault = None
        self._state = QueueState(0, 0, 0, 0, 0)
        self._memory = ()
        self._desc = self._avail = self._used = _EMPTY
        self._pending = self._arena = self._inflight = 0
        self._silent = False
        return self._last_avail

    @property
    def attached(self) -> bool:
        """True while the queue lies in guest memory and is not broken."""
        return bool(self._state.size) and self.fault is None

    def set_call(self, fd: int) -> None:
        """Say whether there is somebody to notify; -1 for a driver that polls."""
        self._call = fd >= 0

    def _has(self, feature: Feature) -> bool:
        return bool(self._state.features & feature)

    # Rings.

    @staticmethod
    def _load(ring: memoryview, offset: int) -> int:
        return int(U16.unpack_from(ring, offset)[0])

    @staticmethod
    def _store(ring: memoryview, offset: int, value: int) -> None:
        U16.pack_into(ring, offset, value & 0xFFFF)

    def _see(self) -> int:
        """Read the driver's index; how many chains wait by it."""
        idx = self._load(self._avail, IDX)
        if (idx - self._last_avail) & 0xFFFF > self._state.size:
            self.fault = Fault(QueueError.BAD_AVAIL_IDX, idx, self._last_avail)
            return 0
        self._avail_idx = idx
        return (idx - self._last_avail) & 0xFFFF

    def _ready(self) -> int:
        if not self.attached:
            return 0
        if self._avail_idx == self._last_avail:
            return self._see()
        return (self._avail_idx - self._last_avail) & 0xFFFF

    def _walk(self, pieces: list[memoryview], writable: bool | None) -> int:
        slot = self._last_avail & (self._state.size - 1)
        head = self._load(self._avail, ENTRIES + 2 * slot)
        try:
            self._readable = walk(
                self._memory,
                self._desc,
                head,
                writable=writable,
                indirect=self._has(Feature.RING_INDIRECT_DESC),
                pieces=pieces,
            )
        except Broken as exc:
            self.fault = exc.fault
            return -1
        return head

    def _use(self, head: int, size: int) -> None:
        """Take the chain: its used element stands behind the published ones."""
        self._put(head, size)
        self._last_avail = (self._last_avail + 1) & 0xFFFF

    def _put(self, head: int, size: int) -> None:
        slot = (self._used_idx + self._pending) & (self._state.size - 1)
        USED_ELEM.pack_into(self._used, ENTRIES + 8 * slot, head, size)
        self._pending += 1

    def publish(self) -> bool:
        """Show pending used elements to the driver; says whether it is to be notified."""
        self._arena = 0
        if not self._pending or not self._state.size:
            return False
        old, self._used_idx = self._used_idx, (self._used_idx + self._pending) & 0xFFFF
        self._pending = 0
        self._store(self._used, IDX, self._used_idx)
        wanted = self._call and self._wants_call(old)
        self.calls += wanted
        return wanted

    def _wants_call(self, old: int) -> bool:
        if not self._has(Feature.RING_EVENT_IDX):
            return not self._load(self._avail, FLAGS) & AVAIL_NO_INTERRUPT
        event = self._load(self._avail, used_event(self._state.size))
        return need_event(event, self._used_idx, old)

    def arm(self) -> int:
        """Ask for a kick at the next chain; returns how many wait."""
        if not self.attached:
            return 0
        self._silent = False
        if self._has(Feature.RING_EVENT_IDX):
            idx = self._load(self._avail, IDX)
            self._store(self._used, avail_event(self._state.size), idx)
        else:
            self._store(self._used, FLAGS, 0)
        return self._see()

    def suppress(self) -> None:
        """Ask for no kicks."""
        if self.attached and not self._silent and not self._has(Feature.RING_EVENT_IDX):
            self._store(self._used, FLAGS, USED_NO_NOTIFY)
            self._silent = True

    # Any device.

    def chain_pop(self) -> tuple[int, list[memoryview], list[memoryview]] | None:
        """Take the next chain: its head, what the driver wrote, and where we may write."""
        if not self._ready():
            return None
        if self._inflight >= self._state.size:
            self.fault = Fault(QueueError.BAD_AVAIL_IDX, self._avail_idx, self._last_avail)
            return None
        pieces: list[memoryview] = []
        head = self._walk(pieces, writable=None)
        if head < 0:
            return None
        self._last_avail = (self._last_avail + 1) & 0xFFFF
        self._inflight += 1
        return head, pieces[: self._readable], pieces[self._readable :]

    def chain_push(self, head: int, written: int) -> None:
        """Give back a chain of `chain_pop`, `written` bytes of it written; `publish` follows."""
        if not self.attached or not self._inflight:
            return
        if self._pending >= self._state.size:
            self.publish()
        self._inflight -= 1
        self._put(head, written)

    # virtio-net.

    def tx_pop(self, burst: Burst) -> int:
        """Append transmitted frames to `burst` until it is full; returns how many came."""
        before = burst.count
        while not burst.full and self._ready() and self._pending < self._state.size:
            pieces: list[memoryview] = []
            head = self._walk(pieces, writable=False)
            if head < 0:
                break
            size = sum(map(len, pieces))
            frame = size - header_len(self._state.features)
            many = len(pieces) > FRAME_PIECES_MAX
            if many and frame <= FRAME_LEN_MAX and size > ARENA - self._arena:
                break  # no room to merge it in this burst
            self._use(head, 0)
            if ETH_LEN <= frame <= FRAME_LEN_MAX:
                self._append(burst, pieces)
            else:
                self.dropped += 1
        return burst.count - before

    def _append(self, burst: Burst, pieces: list[memoryview]) -> None:
        header, rest = _cut(pieces, header_len(self._state.features))
        if len(rest) > FRAME_PIECES_MAX:
            self._arena += sum(map(len, rest[FRAME_PIECES_MAX - 1 :]))
        burst.append(b"".join(map(bytes, rest)), header.ljust(12, b"\0"))

    def rx_push(self, burst: Burst, start: int = 0) -> int:
        """Copy frames into the driver's buffers; returns the index of the first without room."""
        for i in range(start, burst.count):
            octets = burst.octets(i)
            if len(octets) != burst[i].len or len(octets) > FRAME_LEN_MAX:
                self.dropped += 1
                continue
            need = len(octets) + header_len(self._state.features)
            pieces: list[memoryview] = []
            buffers, fits = self._reserve(need, pieces)
            if not fits and not buffers:
                self.publish()
                return i
            if not fits:
                self.dropped += 1
                continue
            self._pour(self._header(burst.vnet(i), buffers) + octets, pieces)
        self.publish()
        return burst.count

    rx_push_all = rx_push

    def _reserve(self, need: int, pieces: list[memoryview]) -> tuple[int, bool]:
        """Take the chains for `need` bytes: (their count, True), or with everything as it was
        (0, False) to wait and (1, False) to drop."""
        saved = self._last_avail, self._pending
        have, buffers, drop = 0, 0, False
        while self._pending < self._state.size and self._ready():
            before = len(pieces)
            if before > PIECES_MAX - CHAIN_MAX:
                drop = True
                break
            head = self._walk(pieces, writable=True)
            if head < 0:
                break
            size = min(sum(map(len, pieces[before:])), need - have)
            self._use(head, size)
            have += size
            buffers += 1
            if have == need:
                return buffers, True
            if not self._has(Feature.NET_MRG_RXBUF):
                drop = True
                break
        drop = drop or (buffers > 0 and buffers == self._state.size)
        self._last_avail, self._pending = saved
        return int(drop), False

    def _header(self, vnet: bytes, buffers: int) -> bytes:
        flags, gso = vnet[0], vnet[1]
        if not self._has(Feature.NET_GUEST_CSUM):
            flags = 0
        if not self._has(Feature.NET_GUEST_ECN):
            gso &= ~_ECN
        header = bytes((flags, gso)) + vnet[2:10] + U16.pack(buffers)
        return header[: header_len(self._state.features)]

    @staticmethod
    def _pour(data: bytes, pieces: list[memoryview]) -> None:
        at = 0
        for piece in pieces:
            part = data[at : at + len(piece)]
            piece[: len(part)] = part
            at += len(part)
