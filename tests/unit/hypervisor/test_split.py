"""Split virtqueues (virtio 1.2, 2.7): the C queue and its Python twin under the same tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from vhost_driver import FEATURES, GPA, UVA, Buffer, DriverRing, Guest

from hypervisor.core.memory import GuestMemory
from hypervisor.core.ring import Ring
from hypervisor.queue.layout import DESC_INDIRECT, DESC_NEXT, DESC_WRITE, Feature
from hypervisor.queue.split import SplitQueue
from hypervisor.queue.state import QueueError, QueueState, Region
from vpnstack.core.burst import Burst

Queue = Ring | SplitQueue
FRAME = bytes(range(60))


@pytest.fixture(params=[Ring, SplitQueue], ids=["c", "python"])
def queue(request: pytest.FixtureRequest) -> Queue:
    made: Queue = request.param()
    return made


@pytest.fixture
def guest() -> Iterator[Guest]:
    guest = Guest()
    yield guest
    guest.close()


@pytest.fixture
def memory(guest: Guest) -> Iterator[GuestMemory]:
    memory = guest.memory()
    yield memory
    memory.close()


@pytest.fixture
def ring(guest: Guest, memory: GuestMemory, queue: Queue) -> Iterator[DriverRing]:
    ring = DriverRing(guest)
    assert queue.attach(memory, ring.state()) is None
    yield ring
    queue.detach()


def pop(queue: Queue, capacity: int = 64) -> list[bytes]:
    burst = Burst(capacity)
    queue.tx_pop(burst)
    return [burst.octets(i) for i in range(burst.count)]


def push(queue: Queue, *frames: bytes, vnet: bytes = bytes(12)) -> int:
    burst = Burst()
    for frame in frames:
        burst.append(frame, vnet)
    return queue.rx_push(burst)


def reattach(queue: Queue, memory: GuestMemory, ring: DriverRing, features: int) -> None:
    ring.features = features
    assert queue.attach(memory, ring.state()) is None


# Transmission: the driver's frames.


def test_transmit_strips_header_and_returns_head(queue: Queue, ring: DriverRing) -> None:
    vnet = bytes((1, 1, 54, 0, 180, 5, 34, 0, 16, 0, 0, 0))
    head = ring.send(FRAME, vnet)
    burst = Burst()
    assert queue.tx_pop(burst) == 1
    assert (burst.octets(0), burst.vnet(0)) == (FRAME, vnet)
    assert ring.used_elements() == []  # not before it is given back
    queue.publish()
    assert ring.used_elements() == [(head, 0)]


@pytest.mark.parametrize("cuts", [(12,), (5, 12, 13), (12, 26, 40, 41), tuple(range(1, 16))])
def test_transmit_chain_of_pieces(queue: Queue, ring: DriverRing, cuts: tuple[int, ...]) -> None:
    ring.send(FRAME, cuts=cuts)
    assert pop(queue) == [FRAME]


def test_transmit_indirect(queue: Queue, ring: DriverRing, guest: Guest) -> None:
    gpa = guest.alloc(72)
    guest.write(gpa, bytes(12) + FRAME)
    head = ring.add_indirect(Buffer(gpa, 20), Buffer(gpa + 20, 52))
    assert pop(queue) == [FRAME]
    queue.publish()
    assert ring.used_elements() == [(head, 0)]


def test_transmit_more_pieces_than_a_frame_has(queue: Queue, ring: DriverRing) -> None:
    frame = os.urandom(3000)
    gpa = ring.guest.alloc(3012)
    ring.guest.write(gpa, bytes(12) + frame)
    ring.add_indirect(*[Buffer(gpa + 12 * i, 12) for i in range(251)])
    assert pop(queue) == [frame]


def test_transmit_merges_up_to_the_arena_then_waits(queue: Queue, ring: DriverRing) -> None:
    frame = os.urandom(65000)
    gpa = ring.guest.alloc(65012)
    ring.guest.write(gpa, bytes(12) + frame)
    small = [Buffer(gpa + 12 * i, 12) for i in range(24)]
    for _ in range(6):
        ring.add_indirect(*small, Buffer(gpa + 288, 64724))
    first = pop(queue)
    assert len(first) == 4  # what the arena holds
    queue.publish()
    assert first + pop(queue) == [frame] * 6


def test_transmit_across_regions(queue: Queue, guest: Guest) -> None:
    half = guest.size // 2
    memory = GuestMemory()
    memory.add(Region(GPA, half, UVA, 0), guest.fd)
    memory.add(Region(GPA + half, half, UVA + 2 * guest.size, half), guest.fd)
    ring = DriverRing(guest)
    assert queue.attach(memory, ring.state()) is None
    gpa = GPA + half - 30
    guest.write(gpa, bytes(12) + FRAME)
    ring.add(Buffer(gpa, 72))
    assert pop(queue) == [FRAME]
    queue.detach()
    memory.close()


def test_transmit_from_regions_in_turns_and_after_some_went(queue: Queue, guest: Guest) -> None:
    quarter = guest.size // 4
    parts = [Region(GPA + i * quarter, quarter, UVA + i * quarter, i * quarter) for i in range(4)]
    memory = GuestMemory()
    for part in parts:
        memory.add(part, guest.fd)
    ring = DriverRing(guest)
    assert queue.attach(memory, ring.state()) is None
    where = [GPA + i * quarter + 0x8000 for i in (3, 1, 3, 0, 2, 2, 3)]
    for i, gpa in enumerate(where):
        guest.write(gpa + 100 * i, bytes(12) + bytes([i]) * 60)
        ring.add(Buffer(gpa + 100 * i, 72))
    assert pop(queue) == [bytes([i]) * 60 for i in range(7)]
    queue.publish()
    queue.detach()
    for part in parts[1:]:
        memory.remove(part)
    assert queue.attach(memory, ring.state(7)) is None
    guest.write(where[3], bytes(12) + FRAME)
    ring.add(Buffer(where[3], 72))
    ring.add(Buffer(where[6], 72))  # in a region that is gone
    assert pop(queue) == [FRAME]
    assert queue.fault is not None
    assert queue.fault.error is QueueError.BAD_ADDR
    queue.detach()
    memory.close()


def test_what_is_looked_at_ahead_is_believed_nowhere(
    queue: Queue, memory: GuestMemory, guest: Guest
) -> None:
    """Heads, addresses and indirect tables behind the chain in hand may be anything."""
    ring = DriverRing(guest, 32)
    assert queue.attach(memory, ring.state()) is None
    for _ in range(3):
        ring.send(FRAME)
    for i, head in enumerate((5, 6, 7, 0xFFFF, 40, 8)):
        ring.set_desc(i + 5, (0, 2**64 - 8, GPA - 1)[i % 3], 2**32 - 1, DESC_INDIRECT, 77)
        ring.post(head)
    for _ in range(10):
        ring.post(0xFFFF)
    assert pop(queue) == [FRAME] * 3
    assert queue.fault is not None
    queue.publish()
    assert len(ring.used_elements()) == 3


def test_transmit_legacy_header(queue: Queue, memory: GuestMemory, ring: DriverRing) -> None:
    reattach(queue, memory, ring, 0)
    ring.send(FRAME, bytes(10))
    assert pop(queue) == [FRAME]


@pytest.mark.parametrize("size", [1, 11, 12, 25, 12 + 65590])
def test_transmit_of_no_frame_is_given_back_and_counted(
    queue: Queue, ring: DriverRing, size: int
) -> None:
    head = ring.add(Buffer(ring.guest.alloc(size), size))
    ring.send(FRAME)
    assert pop(queue) == [FRAME]
    assert queue.dropped == 1
    queue.publish()
    assert ring.used_elements()[0] == (head, 0)


def test_transmit_wraps_around_indexes(
    queue: Queue, memory: GuestMemory, ring: DriverRing, guest: Guest
) -> None:
    ring.avail_idx = ring.used_seen = 0xFFF8
    guest.set16(ring.used + 2, 0xFFF8)
    assert queue.attach(memory, ring.state(last_avail=0xFFF8)) is None
    for i in range(16):
        ring.send(bytes([i]) * 20)
    assert pop(queue) == [bytes([i]) * 20 for i in range(16)]
    queue.publish()
    assert guest.u16(ring.used + 2) == 8
    assert len(ring.used_elements()) == 16
    assert queue.detach() == 8


def test_transmit_stops_at_a_full_burst(queue: Queue, ring: DriverRing) -> None:
    for _ in range(5):
        ring.send(FRAME)
    assert [len(pop(queue, 3)), len(pop(queue, 3)), len(pop(queue, 3))] == [3, 2, 0]


# Reception: frames for the driver.


def test_receive_into_one_buffer(queue: Queue, ring: DriverRing) -> None:
    buffer = ring.receive_buffer(200)
    assert push(queue, FRAME) == 1
    assert ring.guest.read(buffer.gpa, 72) == bytes(10) + b"\1\0" + FRAME
    assert ring.used_elements() == [(0, 72)]


def test_receive_spans_mergeable_buffers(queue: Queue, ring: DriverRing) -> None:
    buffers = [ring.receive_buffer(64) for _ in range(6)]
    frame = os.urandom(200)  # 212 bytes with its header: three buffers and 20 bytes
    assert push(queue, frame, FRAME[:20]) == 2
    data = b"".join(ring.guest.read(b.gpa, b.size) for b in buffers[:4])[:212]
    assert data == bytes(10) + b"\4\0" + frame
    assert [size for _, size in ring.used_elements()] == [64, 64, 64, 20, 32]


def test_receive_header_across_buffers(queue: Queue, ring: DriverRing) -> None:
    parts = [Buffer(ring.guest.alloc(7, 1), 7, True) for _ in range(12)]
    ring.add(*parts)
    assert push(queue, FRAME) == 1
    data = b"".join(ring.guest.read(b.gpa, b.size) for b in parts)[:72]
    assert data == bytes(10) + b"\1\0" + FRAME


def test_receive_without_room_takes_nothing(queue: Queue, ring: DriverRing) -> None:
    ring.receive_buffer(100)
    ring.receive_buffer(100)
    assert push(queue, FRAME, os.urandom(300), FRAME) == 1
    assert len(ring.used_elements()) == 1
    ring.receive_buffer(300)
    assert push(queue, os.urandom(300)) == 1
    assert [size for _, size in ring.used_elements()] == [100, 212]


def test_receive_of_what_the_whole_ring_cannot_hold(queue: Queue, ring: DriverRing) -> None:
    for _ in range(ring.size):
        ring.receive_buffer(32)
    assert push(queue, bytes(1000), FRAME) == 2
    assert queue.dropped == 1
    assert [size for _, size in ring.used_elements()] == [32, 32, 8]


def test_receive_not_mergeable(queue: Queue, memory: GuestMemory, ring: DriverRing) -> None:
    reattach(queue, memory, ring, FEATURES & ~Feature.NET_MRG_RXBUF)
    ring.receive_buffer(100)
    assert push(queue, os.urandom(200), FRAME) == 2
    assert queue.dropped == 1
    assert ring.used_elements() == [(0, 72)]


def test_receive_masks_what_was_not_negotiated(
    queue: Queue, memory: GuestMemory, ring: DriverRing
) -> None:
    reattach(queue, memory, ring, Feature.VERSION_1)
    buffer = ring.receive_buffer(100)
    push(queue, FRAME, vnet=bytes((2, 0x81, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9)))
    expected = bytes((0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 1, 0))
    assert ring.guest.read(buffer.gpa, 12) == expected


# Notifications.


def test_one_notification_a_burst(queue: Queue, ring: DriverRing) -> None:
    call = os.eventfd(0, os.EFD_NONBLOCK)
    queue.set_call(call)
    ring.set_used_event(0)
    for _ in range(4):
        ring.send(FRAME)
    pop(queue)
    assert queue.publish()
    assert queue.calls == 1
    os.close(call)


@pytest.mark.parametrize(("event", "wanted"), [(0, True), (2, True), (3, False), (0xFFFF, False)])
def test_event_index_suppresses(queue: Queue, ring: DriverRing, event: int, wanted: bool) -> None:
    call = os.eventfd(0, os.EFD_NONBLOCK)
    queue.set_call(call)
    ring.set_used_event(event)
    for _ in range(3):
        ring.send(FRAME)
    pop(queue)
    assert queue.publish() is wanted
    os.close(call)


@pytest.mark.parametrize("flag", [0, 1])
def test_flag_suppresses_without_event_index(
    queue: Queue, memory: GuestMemory, ring: DriverRing, flag: int
) -> None:
    call = os.eventfd(0, os.EFD_NONBLOCK)
    reattach(queue, memory, ring, FEATURES & ~Feature.RING_EVENT_IDX)
    queue.set_call(call)
    ring.guest.set16(ring.avail, flag)
    ring.send(FRAME)
    pop(queue)
    assert queue.publish() is not bool(flag)
    os.close(call)


def test_arm_asks_for_the_next_chain(queue: Queue, ring: DriverRing) -> None:
    ring.send(FRAME)
    pop(queue)
    assert queue.arm() == 0
    assert ring.avail_event() == 1
    ring.send(FRAME)
    ring.send(FRAME)
    assert queue.arm() == 2
    assert ring.avail_event() == 3  # behind what waits, so that the next one kicks


def test_arm_and_suppress_by_flag(queue: Queue, memory: GuestMemory, ring: DriverRing) -> None:
    reattach(queue, memory, ring, FEATURES & ~Feature.RING_EVENT_IDX)
    queue.suppress()
    assert ring.guest.u16(ring.used) == 1
    ring.send(FRAME)
    assert queue.arm() == 1
    assert ring.guest.u16(ring.used) == 0


# Rules that a driver may break; each stops the queue and leaves the used ring alone.


def broken(queue: Queue, ring: DriverRing) -> tuple[QueueError, int, int]:
    assert pop(queue) == []
    assert not queue.attached
    assert pop(queue) == []
    assert ring.used_elements() == []
    fault = queue.fault
    assert fault is not None
    assert str(fault)
    return fault.error, fault.a, fault.b


def test_break_avail_index_jumps(queue: Queue, ring: DriverRing) -> None:
    ring.guest.set16(ring.avail + 2, 17)
    assert broken(queue, ring) == (QueueError.BAD_AVAIL_IDX, 17, 0)


def test_break_avail_index_goes_back(queue: Queue, ring: DriverRing) -> None:
    ring.guest.set16(ring.avail + 2, 0xFFFF)
    assert broken(queue, ring) == (QueueError.BAD_AVAIL_IDX, 0xFFFF, 0)


def test_break_head_out_of_range(queue: Queue, ring: DriverRing) -> None:
    ring.post(16)
    assert broken(queue, ring) == (QueueError.BAD_HEAD, 16, 16)


def test_break_next_out_of_range(queue: Queue, ring: DriverRing) -> None:
    ring.set_desc(0, GPA, 100, DESC_NEXT, 16)
    ring.post(0)
    assert broken(queue, ring) == (QueueError.BAD_NEXT, 16, 16)


def test_break_loop(queue: Queue, ring: DriverRing) -> None:
    ring.set_desc(0, GPA, 100, DESC_NEXT, 1)
    ring.set_desc(1, GPA, 100, DESC_NEXT, 0)
    ring.post(0)
    assert broken(queue, ring) == (QueueError.BAD_LOOP, 0, 16)


def test_break_zero_length(queue: Queue, ring: DriverRing) -> None:
    ring.set_desc(0, GPA, 0)
    ring.post(0)
    assert broken(queue, ring) == (QueueError.BAD_LEN, GPA, 0)


@pytest.mark.parametrize(
    ("addr", "size"),
    [
        (0, 100),
        (GPA - 1, 100),
        (GPA + (1 << 20), 1),
        (GPA + (1 << 20) - 1, 2),
        (GPA, (1 << 20) + 1),
        (GPA + 16, 0xFFFFFFFF),
        (2**64 - 1, 2),
        (2**64 - 50, 100),
    ],
)
def test_break_address_outside(queue: Queue, ring: DriverRing, addr: int, size: int) -> None:
    ring.set_desc(0, addr, size)
    ring.post(0)
    assert broken(queue, ring) == (QueueError.BAD_ADDR, addr, size)


def test_break_direction(queue: Queue, ring: DriverRing) -> None:
    ring.set_desc(0, GPA, 100, DESC_WRITE)
    ring.post(0)
    assert broken(queue, ring) == (QueueError.BAD_DIRECTION, 0, DESC_WRITE)


def test_break_direction_on_receive(queue: Queue, ring: DriverRing) -> None:
    ring.send(bytes(200))
    before = ring.guest.map[:]
    assert push(queue, FRAME) == 0
    assert queue.fault is not None
    assert queue.fault.error is QueueError.BAD_DIRECTION
    assert ring.guest.map[:] == before


@pytest.mark.parametrize("size", [0, 8, 17, 16 * 1025])
def test_break_indirect_length(queue: Queue, ring: DriverRing, size: int) -> None:
    ring.set_desc(0, GPA, size, DESC_INDIRECT)
    ring.post(0)
    assert broken(queue, ring) == (QueueError.BAD_INDIRECT, GPA, size)


def test_break_indirect_outside(queue: Queue, ring: DriverRing) -> None:
    end = GPA + (1 << 20)
    ring.set_desc(0, end - 16, 32, DESC_INDIRECT)
    ring.post(0)
    assert broken(queue, ring) == (QueueError.BAD_ADDR, end - 16, 32)


def test_break_indirect_in_indirect(queue: Queue, ring: DriverRing) -> None:
    ring.set_desc(0, ring.desc, 16 * 16, DESC_INDIRECT)  # its own table: an endless descent
    ring.post(0)
    assert broken(queue, ring) == (QueueError.BAD_NESTED, 0, DESC_INDIRECT)


def test_break_indirect_with_next(queue: Queue, ring: DriverRing) -> None:
    ring.set_desc(0, GPA, 16, DESC_INDIRECT | DESC_NEXT, 1)
    ring.post(0)
    assert broken(queue, ring) == (QueueError.BAD_NESTED, 0, DESC_INDIRECT | DESC_NEXT)


def test_break_indirect_not_negotiated(queue: Queue, memory: GuestMemory, ring: DriverRing) -> None:
    reattach(queue, memory, ring, Feature.VERSION_1)
    ring.set_desc(0, GPA, 16, DESC_INDIRECT)
    ring.post(0)
    assert broken(queue, ring) == (QueueError.BAD_FEATURE, 0, DESC_INDIRECT)


def test_break_keeps_what_came_before(queue: Queue, ring: DriverRing) -> None:
    head = ring.send(FRAME)
    ring.post(99)
    assert pop(queue) == [FRAME]
    assert not queue.attached
    queue.publish()
    assert ring.used_elements() == [(head, 0)]


def test_attach_again_after_a_break(queue: Queue, memory: GuestMemory, ring: DriverRing) -> None:
    ring.post(99)
    pop(queue)
    ring.avail_idx = 0
    ring.send(FRAME)
    assert queue.attach(memory, ring.state()) is None
    assert pop(queue) == [FRAME]


def test_attach_refuses_bad_rings(queue: Queue, memory: GuestMemory) -> None:
    def error(size: int, desc: int, avail: int, used: int) -> QueueError:
        fault = queue.attach(memory, QueueState(size, desc, avail, used, 0))
        assert fault is not None
        assert not queue.attached
        return fault.error

    end = UVA + (1 << 20)
    assert error(3, UVA, UVA, UVA) is QueueError.BAD_SIZE
    assert error(0, UVA, UVA, UVA) is QueueError.BAD_SIZE
    assert error(65536, UVA, UVA, UVA) is QueueError.BAD_SIZE
    assert error(16, UVA + 8, UVA, UVA) is QueueError.BAD_ALIGN
    assert error(16, UVA, UVA + 1, UVA) is QueueError.BAD_ALIGN
    assert error(16, UVA, UVA, UVA + 2) is QueueError.BAD_ALIGN
    assert error(16, end - 240, UVA, UVA) is QueueError.BAD_RING
    assert error(16, UVA, end - 36, UVA) is QueueError.BAD_RING
    assert error(16, UVA, UVA, UVA - 4) is QueueError.BAD_RING
    assert error(16, 2**64 - 16, UVA, UVA) is QueueError.BAD_RING
