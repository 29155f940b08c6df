"""The loop in virtual time: waiting costs nothing, the clock always moves, a deadlock is found."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from vpnstack.aio import virtual
from vpnstack.aio.virtual import START, TICK, Deadlock, TimeLimit, VirtualLoop


def test_waiting_takes_no_time() -> None:
    async def main() -> float:
        for _ in range(1000):
            await asyncio.sleep(60)
        return asyncio.get_running_loop().time()

    assert virtual.run(main()) == pytest.approx(START + 60_000)


def test_the_clock_moves_for_a_timer_that_is_due_already() -> None:
    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        times: list[float] = []
        done = loop.create_future()

        def again() -> None:
            times.append(loop.time())
            if len(times) < 100:
                loop.call_at(times[-1], again)
            else:
                done.set_result(None)

        again()
        await done
        return times

    times = virtual.run(main())
    steps = [b - a for a, b in itertools.pairwise(times)]
    assert min(steps) > TICK / 2


def test_timers_fire_in_order() -> None:
    async def main() -> list[int]:
        order: list[int] = []
        loop = asyncio.get_running_loop()
        for i in (3, 1, 2):
            loop.call_later(i, order.append, i)
        await asyncio.sleep(5)
        return order

    assert virtual.run(main()) == [1, 2, 3]


def test_deadlock_is_raised_and_says_where() -> None:
    cleaned = []

    async def stuck_here() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(1)  # cleaning up takes its time
            cleaned.append(True)

    with pytest.raises(Deadlock, match=r"nothing is scheduled at 1 virtual seconds.*stuck_here"):
        virtual.run(stuck_here())
    assert cleaned == [True]


def test_deadlock_of_a_cleanup_ends_as_well() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_future()
        finally:
            await loop.create_future()

    with pytest.raises(Deadlock):
        virtual.run(main())


def test_a_run_has_a_limit() -> None:
    async def main() -> None:
        for _ in range(1000):
            await asyncio.sleep(1)

    with pytest.raises(TimeLimit, match="within 100 virtual seconds"):
        virtual.run(main(), limit=100)


def test_timeouts_and_executors_work() -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 3600)
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(None, lambda: 1 // 0)
        return await asyncio.to_thread(lambda: 41 + 1)

    assert virtual.run(main()) == 42


def test_an_error_of_the_program_comes_out() -> None:
    async def main() -> None:
        await asyncio.sleep(1)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        VirtualLoop().run(main())
