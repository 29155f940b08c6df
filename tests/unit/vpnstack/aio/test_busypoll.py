"""Busy polling: what pays is repeated, what does not is not."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from vpnstack.aio import busypoll
from vpnstack.aio.busypoll import BusyPoll


@pytest.fixture
def fd() -> Iterator[int]:
    made = os.eventfd(0, os.EFD_NONBLOCK)
    yield made
    os.close(made)


@pytest.fixture
def poll(fd: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[BusyPoll]:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    made = BusyPoll(1)
    made.add(fd)
    yield made
    made.close()


def test_a_miss_costs_turns(poll: BusyPoll, fd: int) -> None:
    for _ in range(1000):
        poll.wait()
    assert poll.misses <= 12  # 1, 3, 7 ... turns without
    assert poll.hits == 0


def test_a_hit_goes_on(poll: BusyPoll, fd: int) -> None:
    poll.wait()  # a miss
    os.eventfd_write(fd, 1)
    for _ in range(10):
        poll.wait()
    assert (poll.misses, poll.hits) == (1, 9)


def test_turns_without_are_bounded(poll: BusyPoll, fd: int) -> None:
    for _ in range(20 * busypoll.SKIP_MAX):
        poll.wait()
    before = poll.misses
    for _ in range(busypoll.SKIP_MAX + 1):
        poll.wait()
    assert poll.misses == before + 1


def test_off(fd: int) -> None:
    poll = BusyPoll(0)
    poll.add(fd)
    poll.wait()
    poll.remove(fd)
    poll.close()
    assert poll.hits + poll.misses == 0


def test_alone_on_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert BusyPoll(50).usec == 0


def test_a_closed_descriptor_is_removed(poll: BusyPoll) -> None:
    other = os.eventfd(0)
    poll.add(other)
    os.close(other)
    poll.remove(other)
    poll.wait()
    assert poll.misses == 1
