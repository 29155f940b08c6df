"""The express lane of datagrams on a loop: C carries what Python has decided about once.

Whoever forwards datagrams `admit`s a `Carried` for each guest endpoint and tells with `up` and
`down` what it decided about a destination or a peer; from then on `receive` carries what the guest
sends and `read` what the host's socket has, a burst with one call into C.  Routes end with their
mapping, with the guest's place on the network, or where others need their room more.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from ..core._core import ffi, lib
from ..core.burst import CAPACITY, Burst
from ..link.port import Port
from ..link.switch import Switch
from ..stack import headers
from ..stack.stack import Stack
from ..stack.udp import Endpoint

ROUTES_MAX = 4096  # a power of two
PER_MAPPING_MAX = 512
FLOOD = 3  # full bursts: 192 datagrams; an untouched socket of Linux holds about 270 small ones
SETTLED = 3  # datagrams of a mapping: a question and its answer are not worth a route
_MAPPED = b"\0" * 10 + b"\xff\xff"


class Tally(Protocol):
    """Where the lane counts datagrams to the host's network, and from there."""

    sent: int
    received: int


class Carried:
    """The lane's side of a guest endpoint: `state` is a struct udp_mapping (core.h)."""

    __slots__ = ("guest", "state")

    def __init__(self, guest: Endpoint, fd: int) -> None:
        self.guest = guest
        self.state = ffi.new("struct udp_mapping *")
        self.state.fd = fd


class DatagramLane:
    """The routes of one stack; `routes_max` is a power of two."""

    def __init__(
        self,
        switch: Switch,
        stack: Stack,
        rng: random.Random,
        wake: Callable[[], None],
        routes_max: int = ROUTES_MAX,
        per_mapping_max: int = PER_MAPPING_MAX,
    ) -> None:
        self.switch = switch
        self.stack = stack
        self.wake = wake
        self.tally: Tally | None = None
        self._flood = 0  # bursts one after the other that were full of datagrams
        self._lane = ffi.gc(
            lib.udplane_new(routes_max, per_mapping_max, rng.getrandbits(64)), lib.udplane_free
        )
        self._numbers: dict[Port, int] = {}
        self._next_number = 1
        self._out = Burst()
        self._strays = ffi.new("struct udp_stray[]", CAPACITY)
        self._n = ffi.new("uint32_t[3]")  # frames made, strays, datagrams
        self._tagged = stack.interface.config.vlan is not None
        stack.udp.ports.bound = self._bound

    # Routes.

    def admit(self, carried: Carried) -> None:
        """Take a guest endpoint on, without routes."""
        lib.udplane_admit(self._lane, carried.state)

    def drop(self, carried: Carried) -> None:
        """Forget all routes of a guest endpoint."""
        lib.udplane_drop(self._lane, carried.state)

    def up(self, carried: Carried, to: Endpoint, target: Endpoint, now: float) -> None:
        """Note that what the guest sends to `to` goes to `target`."""
        if self._place(carried, now):
            key = headers.key(*carried.guest, *to, headers.UDP)
            lib.udplane_up(self._lane, carried.state, key, _wide(target[0]), target[1])

    def down(self, carried: Carried, peer: Endpoint, shown: Endpoint, now: float) -> None:
        """Note that what comes from `peer` is for the guest, who sees it come from `shown`."""
        if not self._place(carried, now):
            return
        interface = self.stack.interface
        ends = (*shown, *carried.guest)
        mac = bytes(carried.state.mac)
        tmpl = headers.template(mac, interface.station, ends, headers.UDP, interface.hop_limit)
        lib.udplane_down(self._lane, carried.state, _wide(peer[0]), peer[1], tmpl, len(tmpl))

    def _place(self, carried: Carried, now: float) -> Port | None:
        """Return the guest's port; routes that led to another place are gone then."""
        state = carried.state
        mac = self.stack.interface.neighbours.resolve(carried.guest[0], now)
        port = self.switch.port_of(mac) if mac is not None else None
        if port is None or self._tagged:
            self.drop(carried)
            return None
        number = self._number(port)
        if state.port != number or bytes(state.mac) != mac:
            self.drop(carried)
            state.port, state.mac = number, mac
        return port

    def _number(self, port: Port) -> int:
        number = self._numbers.get(port)
        if number is None:
            number = self._numbers[port] = self._next_number
            self._next_number += 1
        return number

    def detach(self, port: Port) -> None:
        """Forget a port; a number is never used again, so routes through it lead nowhere."""
        self._numbers.pop(port, None)

    def _bound(self, addr: bytes | None, port: int) -> None:
        lib.udplane_bound(self._lane, ffi.NULL if addr is None else _wide(addr), port)

    # Carrying.

    def receive(self, port: Port, burst: Burst, now: float) -> int:
        """Carry what has a route of a parsed burst; return how many frames are left."""
        carried = self._n + 2
        number = self._numbers.get(port, 0)
        left: int = lib.udplane_receive(
            self._lane, burst.array, burst.count, self.switch.mac, number, now, carried
        )
        self._flood = self._flood + 1 if burst.full and carried[0] >= burst.count else 0
        self.stack.udp.counters.datagrams_in += carried[0]
        if self.tally is not None:
            self.tally.sent += carried[0]
        return left

    def flooded(self) -> bool:
        """Tell, once, whether a receiver on this machine had better have its turn now."""
        if self._flood < FLOOD:
            return False
        self._flood = 0
        return True

    def read(self, carried: Carried, now: float) -> int:
        """Carry what a host's socket has, once; what is left is in `strays` until the next call.

        Returns how many messages there were; negative: an errno, which the socket told now.
        """
        n, port, mtu = self._n, None, 0
        n[0] = n[1] = n[2] = 0
        if carried.state.routes:
            port = self._place(carried, now)
        if port is not None and not port.stalled:
            mtu = self.stack.interface.path_mtu(carried.guest[0], now)
        got: int = lib.udplane_read(
            self._lane, carried.state, mtu, now, self._out.array, n, self._strays, n + 1, n + 2
        )
        if n[0] and port is not None:
            self._out.count = n[0]
            port.tx_burst(self._out)
            self._out.count = 0
            self.stack.udp.counters.datagrams_out += n[2]
            if self.tally is not None:
                self.tally.received += n[2]
            if port.stalled:  # the driver has to watch it from now on
                self.wake()
        return got

    def strays(self) -> Iterator[tuple[Endpoint, bytes]]:
        """Return the datagrams that the last `read` left, with their peers."""
        for i in range(self._n[1]):
            s: Any = self._strays[i]
            addr = bytes(s.addr)[12 if s.version == 4 else 0 :]
            for at in range(0, s.len or 1, s.size or 1):
                data = bytes(ffi.buffer(s.data + at, min(s.size, s.len - at)))
                yield (addr, s.port), data


def _wide(addr: bytes) -> bytes:
    return _MAPPED + addr if len(addr) == 4 else addr
