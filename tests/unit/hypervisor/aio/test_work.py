"""Work beside the loop: results, errors, cancelling, and no thread left."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from hypervisor.aio.work import AT_ONCE, Work, end


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


async def test_result_and_error() -> None:
    assert await Work(lambda: 5) == 5

    def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await Work(fail)


async def test_the_loop_runs_meanwhile() -> None:
    go = threading.Event()
    work = Work(lambda: go.wait(20))
    await asyncio.sleep(0)
    go.set()
    assert await work


async def test_end_stops_and_outlasts_cancelling() -> None:
    go, begun = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()

    def run() -> None:
        loop.call_soon_threadsafe(begun.set)
        assert go.wait(20)

    works = [Work(run, asked.set), Work(run)]
    await begun.wait()
    ending = asyncio.create_task(end(works))
    await asked.wait()
    ending.cancel()
    await asyncio.sleep(0)
    ending.cancel()
    await asyncio.sleep(0)
    assert not ending.done()  # the threads still use what is to be given back
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await ending


async def test_a_cancelled_waiter_leaves_the_work_alone() -> None:
    go = threading.Event()
    work = Work(lambda: go.wait(20))

    async def wait() -> bool:
        return await work

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    go.set()
    assert await work


async def test_few_at_once() -> None:
    lock, running, most = threading.Lock(), 0, 0
    full = threading.Barrier(AT_ONCE)

    def run() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        full.wait(20)
        with lock:
            running -= 1

    for work in [Work(run) for _ in range(3 * AT_ONCE)]:
        await work
    assert most == AT_ONCE
