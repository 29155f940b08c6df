"""Record locks as fcntl(2) has them."""

import pytest

from dataflow.p9.const import LockStatus, LockType
from dataflow.p9.errors import P9Error
from dataflow.p9.locks import Lock, LockTable, Owner, span

A, B = Owner(1, "a", 1), Owner(2, "b", 1)
R, W, U = LockType.RDLCK, LockType.WRLCK, LockType.UNLCK


def test_readers_share_and_writers_do_not():
    t = LockTable()
    assert t.acquire(1, Lock(0, 10, R, A)) is LockStatus.SUCCESS
    assert t.acquire(1, Lock(0, 10, R, B)) is LockStatus.SUCCESS
    assert t.acquire(1, Lock(5, 6, W, B)) is LockStatus.BLOCKED
    assert t.acquire(2, Lock(5, 6, W, B)) is LockStatus.SUCCESS
    assert t.acquire(1, Lock(10, 11, W, B)) is LockStatus.SUCCESS


def test_unlock_in_the_middle_leaves_both_ends():
    t = LockTable()
    t.acquire(1, Lock(0, 100, W, A))
    t.acquire(1, Lock(40, 60, U, A))
    assert t.conflict(1, Lock(50, 51, W, B)) is None
    assert t.conflict(1, Lock(0, 41, W, B)) == Lock(0, 40, W, A)
    assert t.conflict(1, Lock(59, 61, W, B)) == Lock(60, 100, W, A)


def test_own_lock_is_replaced():
    t = LockTable()
    t.acquire(1, Lock(0, 10, W, A))
    t.acquire(1, Lock(0, 10, R, A))
    assert len(t) == 1
    assert t.acquire(1, Lock(0, 10, R, B)) is LockStatus.SUCCESS


def test_session_end_releases():
    t = LockTable()
    t.acquire(1, Lock(*span(0, 0), W, A))
    t.release_session(1)
    assert len(t) == 0
    assert t.acquire(1, Lock(0, 1, W, B)) is LockStatus.SUCCESS


def test_table_is_bounded():
    t = LockTable(limit=2)
    for i in range(2):
        t.acquire(1, Lock(i * 10, i * 10 + 1, W, A))
    with pytest.raises(P9Error):
        t.acquire(1, Lock(50, 51, W, A))
    assert len(t) == 2
