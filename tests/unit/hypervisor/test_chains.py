"""Chains of any device (virtio 1.2, 2.7.4.2): the C queue and its Python twin."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from vhost_driver import Buffer, DriverRing, Guest

from hypervisor.core.memory import GuestMemory
from hypervisor.core.ring import Ring
from hypervisor.devices.queue import Chain
from hypervisor.queue.layout import DESC_NEXT, DESC_WRITE
from hypervisor.queue.split import SplitQueue
from hypervisor.queue.state import QueueError

AnyQueue = Ring | SplitQueue


@pytest.fixture(params=[Ring, SplitQueue], ids=["c", "python"])
def queue(request: pytest.FixtureRequest) -> AnyQueue:
    made: AnyQueue = request.param()
    return made


@pytest.fixture
def ring(guest: Guest, queue: AnyQueue) -> Iterator[DriverRing]:
    memory: GuestMemory = guest.memory()
    ring = DriverRing(guest, 8)
    assert queue.attach(memory, ring.state()) is None
    yield ring
    queue.detach()
    memory.close()


def buffers(ring: DriverRing, *sizes: int) -> list[Buffer]:
    """Return buffers of so many bytes, writable where the size is negative, filled with letters."""
    made = []
    for i, size in enumerate(sizes):
        buffer = Buffer(ring.guest.alloc(abs(size), align=1), abs(size), size < 0)
        ring.guest.write(buffer.gpa, bytes([ord("a") + i]) * abs(size))
        made.append(buffer)
    return made


def pop(queue: AnyQueue) -> Chain:
    found = queue.chain_pop()
    assert found is not None
    return Chain(*found)


def fault(queue: AnyQueue) -> QueueError:
    assert queue.chain_pop() is None
    assert queue.fault is not None
    return queue.fault.error


@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize("sizes", [(3,), (-3,), (1, 2, -4, -5), (7, -1)])
def test_readable_and_writable(
    queue: AnyQueue, ring: DriverRing, sizes: tuple[int, ...], indirect: bool
) -> None:
    pieces = buffers(ring, *sizes)
    head = ring.add_indirect(*pieces) if indirect else ring.add(*pieces)
    chain = pop(queue)
    assert chain.head == head
    assert [len(piece) for piece in chain.readable] == [n for n in sizes if n > 0]
    assert [-len(piece) for piece in chain.writable] == [n for n in sizes if n < 0]
    expected = b"".join(bytes([97 + i]) * n for i, n in enumerate(sizes) if n > 0)
    assert chain.read(100) == expected
    assert chain.readable_len == len(expected)
    assert queue.chain_pop() is None
    assert queue.fault is None


def test_what_is_written_lands_in_the_guest(queue: AnyQueue, ring: DriverRing) -> None:
    pieces = buffers(ring, 2, -3, -3)
    ring.add(*pieces)
    chain = pop(queue)
    assert chain.write(b"1234", offset=1) == 4
    assert chain.write(b"overlong", offset=5) == 1
    assert chain.write(b"x", offset=6) == 0
    assert ring.guest.read(pieces[1].gpa, 3) == b"b12"
    assert ring.guest.read(pieces[2].gpa, 3) == b"34o"


def test_reads_in_parts(queue: AnyQueue, ring: DriverRing) -> None:
    ring.add(*buffers(ring, 3, 3))
    chain = pop(queue)
    assert [chain.read(2, at) for at in range(7)] == [
        *(b"aa", b"aa", b"ab", b"bb", b"bb", b"b", b""),
    ]


def test_pieces_are_a_sequence(queue: AnyQueue, ring: DriverRing) -> None:
    ring.add(*buffers(ring, 1, 2, 3, -4))
    chain = pop(queue)
    assert bytes(chain.readable[0]) == bytes(chain.readable[-3]) == b"a"
    assert [bytes(piece) for piece in chain.readable[1:]] == [b"bb", b"ccc"]
    assert [len(piece) for piece in chain.writable] == [4]
    chain.writable[0][1:3] = b"xy"
    assert bytes(chain.writable[0]) == b"dxyd"
    with pytest.raises(IndexError):
        chain.readable[3]


def test_chains_go_back_in_any_order(queue: AnyQueue, ring: DriverRing) -> None:
    heads = [ring.add(*buffers(ring, 1, -1)) for _ in range(3)]
    chains = [pop(queue) for _ in heads]
    for i in (2, 0, 1):
        queue.chain_push(chains[i].head, i)
        assert ring.used_elements() == []
        queue.publish()
        assert ring.used_elements() == [(heads[i], i)]


def test_a_full_used_ring_is_published_first(queue: AnyQueue, ring: DriverRing) -> None:
    head = ring.add(*buffers(ring, 1))
    for round_ in range(ring.size + 1):
        queue.chain_push(pop(queue).head, round_)
        ring.post(head)
        assert ring.guest.u16(ring.used + 2) == (ring.size if round_ == ring.size else 0)
    queue.publish()
    assert ring.guest.u16(ring.used + 2) == ring.size + 1


@pytest.mark.parametrize("sizes", [(-1, 1), (1, -1, 1)])
def test_readable_after_writable(queue: AnyQueue, ring: DriverRing, sizes: tuple[int, ...]) -> None:
    ring.add(*buffers(ring, *sizes))
    assert fault(queue) is QueueError.BAD_DIRECTION


def test_more_in_flight_than_the_ring_holds(queue: AnyQueue, ring: DriverRing) -> None:
    head = ring.add(*buffers(ring, 1))
    for _ in range(ring.size):
        pop(queue)
        ring.post(head)
    assert fault(queue) is QueueError.BAD_AVAIL_IDX


def test_a_loop(queue: AnyQueue, ring: DriverRing) -> None:
    ring.set_desc(0, ring.guest.alloc(8), 8, DESC_NEXT | DESC_WRITE, 0)
    ring.post(0)
    assert fault(queue) is QueueError.BAD_LOOP


def test_pushes_after_detach_go_nowhere(queue: AnyQueue, ring: DriverRing) -> None:
    ring.add(*buffers(ring, -4))
    chain = pop(queue)
    before = ring.guest.map[:]
    queue.detach()
    queue.chain_push(chain.head, 4)
    assert not queue.publish()
    assert ring.guest.map[:] == before


def test_a_push_of_what_was_not_popped_goes_nowhere(queue: AnyQueue, ring: DriverRing) -> None:
    before = ring.guest.map[:]
    queue.chain_push(3, 4)
    queue.publish()
    assert ring.guest.map[:] == before
