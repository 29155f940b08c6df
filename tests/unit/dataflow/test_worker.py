"""The queue in front of the writing thread."""

from __future__ import annotations

import threading

from dataflow.branch.worker import Job, JobQueue, Worker


def jobs(count: int) -> list[Job]:
    return [Job(lambda: None) for _ in range(count)]


def test_wait_tells_whether_so_many_are_there() -> None:
    queue, (a, b) = JobQueue(), jobs(2)
    assert not queue.wait(1, 0)
    assert queue.take(5) == []
    queue.put(a)
    queue.put(b)
    queue.put(None)
    assert queue.wait(3, 0)
    assert not queue.wait(4, 0)
    assert queue.take(2) == [a, b]
    assert queue.take(2) == [None]


def test_who_waits_for_some_is_woken_by_the_last_of_them() -> None:
    queue, made = JobQueue(), jobs(30)
    for job in made[:9]:
        queue.put(job)
    thread = threading.Thread(target=queue.wait, args=(30, None))
    thread.start()
    for job in made[9:]:
        assert thread.is_alive()
        queue.put(job)
    thread.join(30)
    assert not thread.is_alive()
    assert queue.take(99) == made


def test_bells_for_a_wait_that_is_over_do_no_harm() -> None:
    queue = JobQueue()
    for _ in range(5):
        queue._bell.put(None)
    assert not queue.wait(1, 0.001)
    (job,) = jobs(1)
    queue.put(job)
    assert queue.wait(1, None)


async def test_results_come_back_in_order_and_close_waits() -> None:
    done: list[int] = []
    worker = Worker()
    await worker.write(done.append, 1)
    assert await worker.write(len, done) == 1
    worker._jobs.put(Job(lambda: done.append(2)))
    await worker.aclose()
    assert done == [1, 2]
