"""Row 7 of the defence checklist: a guest that uses every port holds few sockets."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket

import pytest
from stackpair import GUEST4, Net

from vpnstack.host.policy import Policy
from vpnstack.host.udp import IDLE, IDLE_ANSWERED, Mapping, UdpForwarder

OTHER_HOST4 = ipaddress.ip_address("192.168.127.254").packed


@pytest.fixture
async def forwarder() -> UdpForwarder:
    stack = Net(guest=False, forwarding=True).host.stack
    policy = Policy(
        host=frozenset([OTHER_HOST4]),
        local=frozenset(stack.interface.local),
        networks=(ipaddress.ip_network("192.168.127.0/24"),),
    )
    return UdpForwarder(stack, policy, asyncio.get_running_loop(), lambda: None, 32)


async def test_row7_every_port_of_a_guest(forwarder: UdpForwarder) -> None:
    """The bound holds, the least recently used goes, and who is active stays."""
    sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sink.bind(("127.0.0.1", 0))
    target = (OTHER_HOST4, sink.getsockname()[1])
    before = len(os.listdir("/proc/self/fd"))
    busy = (GUEST4, 7)
    try:
        for port in range(8, 65536):
            forwarder.datagram_received((GUEST4, port), target, b"x", 0.0)
            if port % 16 == 0:
                forwarder.datagram_received(busy, target, b"x", 0.0)
            assert len(forwarder) <= 32
        assert busy in forwarder._mappings
        assert (GUEST4, 65535) in forwarder._mappings
        assert (GUEST4, 8) not in forwarder._mappings
        assert len(os.listdir("/proc/self/fd")) <= before + 32
        assert forwarder.counters.evicted == 65535 - 7 + 1 - 32
    finally:
        forwarder.close()
        sink.close()
    assert len(forwarder) == 0


@pytest.mark.parametrize(("questions", "answers", "idle"), [
    (1, 1, IDLE_ANSWERED), (1, 0, IDLE), (2, 1, IDLE), (2, 2, IDLE),
])  # fmt: skip
def test_row7_one_shot_ends_early(questions: int, answers: int, idle: float) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        mapping = Mapping((GUEST4, 7), sock, 100.0)
        mapping.questions, mapping.answers = questions, answers
        assert not mapping.expired(100.0 + idle - 0.1)
        assert mapping.expired(100.0 + idle)


async def test_row7_source_that_is_no_guest(forwarder: UdpForwarder) -> None:
    for src in ("8.8.8.8", "192.168.127.1"):
        address = ipaddress.ip_address(src).packed
        forwarder.datagram_received((address, 7), (OTHER_HOST4, 9), b"x", 0.0)
    assert (len(forwarder), forwarder.counters.spoofed) == (0, 2)
    forwarder.close()
