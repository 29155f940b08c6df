"""Worlds of `laneworld` for the tests of the express lane in C."""

from __future__ import annotations

import socket
from typing import Any

from vpnstack.core._core import ffi, lib

from .test_fuzz_core import load

target, world = load("fuzz_lane"), load("laneworld")
MASK = 0xFFFFFFFF
WHY = {getattr(lib, f"LEASE_{n}"): n for n in (
    "GOES_ON", "UNEXPECTED", "HOST_FULL", "HOST_EOF", "BULK", "WINDOW", "TIMEOUT", "HOST_DEAD",
)}  # fmt: skip


def why(w: Any) -> str:
    """Take the connection back; return why the lease ended."""
    return WHY[w.recall()]


def full(w: Any, size: int = 1448) -> int:
    """Send until the host's socket is full and half a window waits; return how much it took."""
    w.host.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    for _ in range(500):
        if w.lease.kept_n and w.edge - w.g_nxt <= w.lease.rcv_buf // 2:
            break
        w.receive(w.data(min(size, w.edge - w.g_nxt)))
    return int(w.g_nxt - w.lease.kept_n)


def exhausted(w: Any) -> list[Any]:
    """Take all the memory that a lane has for rings and kept data."""
    n = (1 << 19) + 1  # makes a ring of a MiB
    held = ffi.new("char[]", n)
    leases = []
    while True:
        e = ffi.new("struct lease *")
        e.mss = 1
        e.key = len(leases).to_bytes(40, "big")
        if lib.lease_load(w.lane, e, held, n) < 0:
            break
        leases.append(e)
        assert lib.lane_lend(w.lane, e) == 0
        lib.lane_recall(w.lane, e)
    return leases


def bulk(*, iss: int = world.MASK - 100_000, wnd: int = 1 << 21, cwnd: int = 1 << 21) -> Any:
    """Return a world with large windows, its connection lent."""
    w = world.World(cwnd=cwnd, iss=iss)
    w.g_wnd = wnd
    w.receive(w.segment(0, 0))
    w.turn()
    assert w.offer()
    w.look()
    return w


def pour(w: Any, n: int) -> None:
    """Give the host's socket `n` octets, and let the lane send what the windows allow."""
    while n:
        n -= w.give(min(n, 65521))
        w.look()
        w.turn()


def crowd(first: Any, count: int) -> list[Any]:
    """Return worlds whose connections are all on one lane."""
    worlds = [first]
    for i in range(1, count):
        one = world.World(cwnd=1 << 20, first_buf=1 << 19)
        one.g_wnd = 1 << 20
        one.receive(one.segment(0, 0))
        one.turn()
        one.lane = first.lane
        one.key = first.key[:32] + i.to_bytes(2, "big") + first.key[34:]
        assert one.offer()
        worlds.append(one)
    return worlds
