"""A guest's memory, and vhost-user ports with a front-end and driver in the test."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest
from leaks import pytest_runtest_setup as pytest_runtest_setup
from leaks import pytest_runtest_teardown as pytest_runtest_teardown
from vhost_driver import FrontEnd, Guest, Made

from hypervisor.vhost.port import VhostUserPort


@pytest.fixture
def guest() -> Iterator[Guest]:
    guest = Guest()
    yield guest
    guest.close()


@pytest.fixture
def make(guest: Guest) -> Iterator[Callable[..., Made]]:
    made: list[Made] = []

    def factory(pairs: int = 1, size: int = 16) -> Made:
        ours, theirs = socket.socketpair()
        made.append((VhostUserPort(ours), FrontEnd(theirs, guest, pairs, size)))
        return made[-1]

    yield factory
    for port, front in made:
        front.close()
        port.close()
