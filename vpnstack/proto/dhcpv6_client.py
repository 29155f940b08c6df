"""A DHCPv6 client (RFC 8415 18.2): addresses, delegated prefixes, or just the DNS servers.

`start` asks for a lease (Solicit, Advertise, Request, Reply, or two messages with rapid commit),
keeps it (Renew, Rebind), and `release` gives it back.  `inform` asks for the rest only.  Messages
go from the link-local address to all servers; retransmission follows RFC 8415 15.

Defence: only answers with our transaction and our DUID count, from the server that we chose where
we chose one; addresses, prefixes and candidates are bounded.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass

from ..wire import dhcpv6
from ..wire.dhcpv6 import IaNa, IaPd, Option, Status, Type
from ..wire.malformed import Malformed
from .dhcpv6_lease import FOREVER, Lease, after, bare, lease_of, lost_of, offered
from .dhcpv6_state import MESSAGES, TIMINGS, TRANSITIONS, Input, State, Timing

_REFRESH_MIN, _REFRESH_DEFAULT = 600, 86400  # RFC 8415 21.23
_SOL_MAX_RT = (60, 86400)  # what a server may set, RFC 8415 21.24


@dataclass(frozen=True, slots=True)
class Config:
    """`addresses` asks for an IA_NA, `prefixes` for an IA_PD; `prefix_hint` is a wanted length."""

    addresses: bool = True
    prefixes: bool = False
    prefix_hint: int = 0
    rapid_commit: bool = True
    duid: bytes = b""  # by default made of the link address
    iaid: int = 1
    start_delay: float = 1.0


@dataclass(frozen=True, slots=True)
class Bound:
    """The lease is ours, or is ours for longer; its addresses still want DAD (18.2.10.1)."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Unbound:
    """What the lease had is not ours any more."""

    lease: Lease
    why: str


@dataclass(frozen=True, slots=True)
class Informed:
    """The answer to an Information-request."""

    dns: tuple[bytes, ...]
    search: tuple[str, ...]


Event = Bound | Unbound | Informed


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters since the start."""

    sent: int = 0
    received: int = 0
    ignored: int = 0
    declined: int = 0


class Client:
    """The DHCPv6 client of one interface with link address `mac`."""

    def __init__(self, mac: bytes, config: Config, rng: random.Random) -> None:
        self.config = config
        self.duid = config.duid or dhcpv6.duid_ll(mac)
        self.state = State.STOPPED
        self.lease: Lease | None = None
        self._rng = rng
        self._offer: tuple[int, dhcpv6.Repr] | None = None  # its preference, and the best Advertise
        self._declined: tuple[dhcpv6.Address, ...] = ()
        self._sol_max = TIMINGS[State.SOLICIT].most
        self._xid = self._tries = 0
        self._began = 0.0
        self._wait = 0.0
        self._at: float | None = None
        self._until = FOREVER  # of INFORMED
        self._events: deque[Event] = deque()
        self._sent = self._received = self._ignored = self._n_declined = 0

    # Calls of the owner.

    def start(self, now: float) -> None:
        """Ask for a lease."""
        if self.state in (State.STOPPED, State.INFORMATION, State.INFORMED):
            self._enter(State.SOLICIT, now + self._rng.uniform(0, self.config.start_delay))

    def inform(self, now: float) -> None:
        """Ask for DNS servers only (RFC 8415 18.2.6)."""
        if self.state is State.STOPPED:
            delay = self._rng.uniform(0, self.config.start_delay)
            self._enter(State.INFORMATION, now + delay)

    def decline(self, addr: bytes, now: float) -> None:
        """Somebody else has `addr`: tell the server, then begin anew (18.2.8)."""
        lease = self.lease
        if lease is None or (self.state, Input.CONFLICT) not in TRANSITIONS:
            return
        self._declined = tuple(a for a in lease.addresses if a.addr == addr)
        if self._declined:
            self._n_declined += 1
            self._events.append(Unbound(lease, "somebody else has an address of it"))
            self._enter(self._next(Input.CONFLICT), now)

    def release(self, now: float) -> None:
        """Give the lease back, then stop (18.2.7)."""
        if self.lease is None:
            self.state, self._at = State.STOPPED, None
            return
        self._events.append(Unbound(self.lease, "released"))
        self._enter(State.RELEASE, now)

    # Sending.

    def transmit(self, now: float) -> list[bytes]:
        """Return the messages to be sent to all servers now."""
        self._age(now)
        if self._at is None or self._at > now:
            return []
        if self.state is State.SOLICIT and self._tries and self._offer is not None:
            self._enter(self._next(Input.ADVERTISED), now)
        timing = TIMINGS.get(self.state)
        if timing is None:
            self._at = None
            return []
        if timing.tries and self._tries >= timing.tries:
            self._give_up(now)
            return []
        return [self._send(timing, now)]

    def _age(self, now: float) -> None:
        if self.state is State.INFORMED and now >= self._until:
            self._enter(self._next(Input.EXPIRED), now)
        lease = self.lease
        if lease is None:
            return
        if self.state is State.BOUND and now >= lease.t1:
            self._enter(self._next(Input.T1), now)
        if self.state is State.RENEW and now >= lease.t2:
            self._enter(self._next(Input.T2), now)
        if now >= lease.until and (self.state, Input.EXPIRED) in TRANSITIONS:
            self._drop("the lease is over")
            self._enter(self._next(Input.EXPIRED), now)

    def _give_up(self, now: float) -> None:
        if self.state is State.REQUEST:
            self._enter(self._next(Input.FAILED), now)
        else:
            self._finish(now)

    def _finish(self, now: float) -> None:
        """A Release or Decline is answered, or told often enough."""
        self.lease = None
        state = self._next(Input.DONE)
        if state is State.STOPPED:
            self.state, self._at = state, None
        else:
            self._enter(state, now)

    def _send(self, timing: Timing, now: float) -> bytes:
        if not self._tries:
            self._began = now
            self._xid = self._rng.getrandbits(24)
        self._wait = self._next_wait(timing)
        self._tries += 1
        self._sent += 1
        self._at = now + self._wait
        elapsed = min(int((now - self._began) * 100), 0xFFFF)
        return dhcpv6.emit(self._message(elapsed))

    def _next_wait(self, timing: Timing) -> float:
        """RFC 8415 15; the first of a Solicit is never shortened (18.2.1)."""
        most = self._sol_max if self.state is State.SOLICIT else timing.most
        low = 0.0 if self.state is State.SOLICIT and not self._tries else -0.1
        stretch = self._rng.uniform(low, 0.1)
        wait = (2 + stretch) * self._wait if self._tries else (1 + stretch) * timing.first
        return (1 + stretch) * most if most and wait > most else wait

    def _message(self, elapsed: int) -> dhcpv6.Repr:
        state, config = self.state, self.config
        requested = [Option.DNS_SERVERS, Option.DOMAIN_LIST, Option.SOL_MAX_RT]
        if state is State.INFORMATION:
            requested += [Option.INFORMATION_REFRESH_TIME, Option.INF_MAX_RT]
        ask = state not in (State.RELEASE, State.DECLINE)
        na, pd = self._associations()
        return dhcpv6.Repr(
            MESSAGES[state], self._xid, self.duid, self._server(), na, pd,
            requested=tuple(map(int, requested)) if ask else (), elapsed=elapsed,
            rapid_commit=config.rapid_commit and state is State.SOLICIT,
        )  # fmt: skip

    def _server(self) -> bytes | None:
        """Return whom to name: nobody where any server may answer."""
        if self.state is State.REQUEST and self._offer is not None:
            return self._offer[1].server_id
        named = self.state in (State.RENEW, State.RELEASE, State.DECLINE)
        return self.lease.server if named and self.lease is not None else None

    def _associations(self) -> tuple[tuple[IaNa, ...], tuple[IaPd, ...]]:
        config, lease = self.config, self.lease
        addresses: tuple[dhcpv6.Address, ...] = ()
        prefixes: tuple[dhcpv6.Prefix, ...] = ()
        if self.state is State.INFORMATION:
            return (), ()
        if self.state is State.DECLINE:
            return (IaNa(config.iaid, 0, 0, self._declined),), ()
        if self.state is State.REQUEST and self._offer is not None:
            addresses, prefixes = offered(self._offer[1], config.iaid)
        elif self.state is State.SOLICIT and config.prefix_hint:
            prefixes = (dhcpv6.Prefix(bytes(16), config.prefix_hint),)
        elif lease is not None:
            addresses, prefixes = lease.addresses, lease.prefixes
        na = (IaNa(config.iaid, 0, 0, bare(addresses)),) if config.addresses else ()
        pd = (IaPd(config.iaid, 0, 0, bare(prefixes)),) if config.prefixes else ()
        return na, pd

    # Receiving.

    def receive(self, data: bytes, now: float) -> None:
        """Take a datagram that came to port 546."""
        try:
            message = dhcpv6.parse(data)
        except Malformed:
            self._ignored += 1
            return
        # RFC 8415 16.3 and 16.10.
        ours = message.xid == self._xid and message.client_id == self.duid and self._tries
        if not ours or message.server_id is None or not self._answered(message, now):
            self._ignored += 1
            return
        self._received += 1

    def _answered(self, message: dhcpv6.Repr, now: float) -> bool:
        if (
            message.sol_max_rt is not None
            and _SOL_MAX_RT[0] <= message.sol_max_rt <= _SOL_MAX_RT[1]
        ):
            self._sol_max = float(message.sol_max_rt)
        if message.type is Type.ADVERTISE:
            return self.state is State.SOLICIT and self._advertised(message, now)
        if message.type is not Type.REPLY or self.state not in MESSAGES:
            return False
        named = self._server()
        if named is not None and message.server_id != named:
            return False
        if self.state is State.INFORMATION:
            self._informed(message, now)
            return True
        if self.state in (State.RELEASE, State.DECLINE):
            self._finish(now)
            return True
        if self.state is State.SOLICIT and not (self.config.rapid_commit and message.rapid_commit):
            return False
        return self._replied(message, now)

    def _advertised(self, message: dhcpv6.Repr, now: float) -> bool:
        """Keep the best offer until the first time-out, or take it at once (18.2.9)."""
        addresses, prefixes = offered(message, self.config.iaid)
        enough = bool(addresses) if self.config.addresses else bool(prefixes)
        if message.status or not enough:
            return False
        preference = message.preference or 0
        if self._offer is None or preference > self._offer[0]:
            self._offer = (preference, message)
        if preference == 255 or self._tries > 1:
            self._enter(self._next(Input.ADVERTISED), now)
        return True

    def _replied(self, message: dhcpv6.Repr, now: float) -> bool:
        if message.status in (Status.UNSPEC_FAIL, Status.USE_MULTICAST):
            return False  # 18.2.10: go on retransmitting
        config = self.config
        lease = lease_of(
            message, config.iaid, now, addresses=config.addresses, prefixes=config.prefixes
        )
        if lease is None:
            if self.state is State.SOLICIT:
                return False
            self._drop("the server has nothing for us")
            self._enter(self._next(Input.FAILED), now + 1.0)
            return True
        before, self.lease = self.lease, lease
        self.state, self._at, self._offer = self._next(Input.REPLY), None, None
        lost = lost_of(before, lease) if before is not None else None
        if lost is not None and (lost.addresses or lost.prefixes):
            self._events.append(Unbound(lost, "the server gave others"))
        self._events.append(Bound(lease))
        return True

    def _informed(self, message: dhcpv6.Repr, now: float) -> None:
        refresh = _REFRESH_DEFAULT if message.refresh is None else message.refresh
        self.state, self._at = self._next(Input.REPLY), None
        self._until = after(now, max(refresh, _REFRESH_MIN))
        self._events.append(Informed(message.dns, message.search))

    # Inside.

    def _next(self, what: Input) -> State:
        return TRANSITIONS[self.state, what]

    def _enter(self, state: State, at: float) -> None:
        self.state, self._at, self._tries = state, at, 0
        if state is State.SOLICIT:
            self._offer = None

    def _drop(self, why: str) -> None:
        if self.lease is not None:
            self._events.append(Unbound(self.lease, why))
            self.lease = None

    def deadline(self) -> float | None:
        """Return when `transmit` has something to do next."""
        times = [self._at] if self._at is not None else []
        if self.state is State.INFORMED:
            times.append(self._until)
        lease = self.lease
        if lease is not None and self.state in (State.BOUND, State.RENEW, State.REBIND):
            ends = {State.BOUND: lease.t1, State.RENEW: lease.t2}
            times += [ends.get(self.state, lease.until), lease.until]
        at = min(times, default=FOREVER)
        return None if at == FOREVER else at

    def next_event(self) -> Event | None:
        """Return the oldest event not yet taken."""
        return self._events.popleft() if self._events else None

    def statistics(self) -> Statistics:
        """Return a snapshot of the counters."""
        return Statistics(self._sent, self._received, self._ignored, self._n_declined)
