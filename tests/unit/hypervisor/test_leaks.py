"""What the other tests are checked for is found, and named."""

from __future__ import annotations

import mmap
import os
import threading

import leaks
import pytest
from leaks import Held, leaked


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "PATIENCE", 0.0)


def test_nothing() -> None:
    assert leaked(Held.now()) == []


def test_a_descriptor() -> None:
    before = Held.now()
    fd = os.eventfd(0)
    assert leaked(before) == [f"descriptor {fd} (anon_inode:[eventfd])"]
    os.close(fd)


def test_a_thread() -> None:
    before, end = Held.now(), threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    assert [each.partition(" (")[0] for each in leaked(before)] == [f"thread {thread.native_id}"]
    end.set()
    thread.join()


def test_a_mapping_of_guest_memory() -> None:
    before = Held.now()
    fd = os.memfd_create("guest", os.MFD_CLOEXEC)
    os.ftruncate(fd, mmap.PAGESIZE)
    with mmap.mmap(fd, 0):
        os.close(fd)  # mmap keeps one of its own
        kinds = sorted(each.split()[0] for each in leaked(before))
        assert kinds == ["descriptor", "mapping"]
