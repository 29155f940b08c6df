"""A DHCP client (RFC 2131 4.4): from INIT to BOUND and back, with the conflict check of RFC 5227.

The machine sends nothing itself: `transmit` returns messages, `receive` takes the server's.  An
acknowledged address is first handed out as `Check`; the owner probes for it and says what came of
it with `checked`, which leads to BOUND or to a DHCPDECLINE.

Defence: only answers with our transaction and our link address count, of the server that we
chose; lifetimes and lists are bounded; options that make no sense are as good as none.
"""

from __future__ import annotations

import enum
import random
from collections import deque
from dataclasses import dataclass

from ..wire import dhcp, ip
from ..wire.dhcp import Option, Type
from ..wire.malformed import Malformed
from .dhcp_lease import Lease, lease_of

FOREVER = float("inf")


class State(enum.Enum):
    """RFC 2131 figure 5; CHECKING stands between REQUESTING and BOUND."""

    STOPPED = enum.auto()
    INIT = enum.auto()
    SELECTING = enum.auto()
    REQUESTING = enum.auto()
    INIT_REBOOT = enum.auto()
    REBOOTING = enum.auto()
    CHECKING = enum.auto()
    BOUND = enum.auto()
    RENEWING = enum.auto()
    REBINDING = enum.auto()


class Input(enum.Enum):
    """What moves the client."""

    SENT = enum.auto()  # the state's message went out
    OFFER = enum.auto()
    ACK = enum.auto()
    NAK = enum.auto()
    UNIQUE = enum.auto()
    CONFLICT = enum.auto()
    T1 = enum.auto()
    T2 = enum.auto()
    EXPIRED = enum.auto()
    TIMEOUT = enum.auto()  # nobody answers
    STOP = enum.auto()


_S, _I = State, Input
TRANSITIONS: dict[tuple[State, Input], State] = {
    (_S.INIT, _I.SENT): _S.SELECTING,
    (_S.SELECTING, _I.OFFER): _S.REQUESTING,
    (_S.REQUESTING, _I.ACK): _S.CHECKING,
    (_S.REQUESTING, _I.NAK): _S.INIT,
    (_S.REQUESTING, _I.TIMEOUT): _S.INIT,
    (_S.INIT_REBOOT, _I.SENT): _S.REBOOTING,
    (_S.REBOOTING, _I.ACK): _S.CHECKING,
    (_S.REBOOTING, _I.NAK): _S.INIT,
    (_S.REBOOTING, _I.TIMEOUT): _S.INIT,
    (_S.CHECKING, _I.UNIQUE): _S.BOUND,
    (_S.CHECKING, _I.CONFLICT): _S.INIT,
    (_S.CHECKING, _I.EXPIRED): _S.INIT,
    (_S.BOUND, _I.T1): _S.RENEWING,
    (_S.BOUND, _I.CONFLICT): _S.INIT,
    (_S.RENEWING, _I.ACK): _S.BOUND,
    (_S.RENEWING, _I.NAK): _S.INIT,
    (_S.RENEWING, _I.T2): _S.REBINDING,
    (_S.RENEWING, _I.CONFLICT): _S.INIT,
    (_S.REBINDING, _I.ACK): _S.BOUND,
    (_S.REBINDING, _I.NAK): _S.INIT,
    (_S.REBINDING, _I.EXPIRED): _S.INIT,
    (_S.REBINDING, _I.CONFLICT): _S.INIT,
}


@dataclass(frozen=True, slots=True)
class Config:
    """`client_id` is option 61, by default the link address; times in seconds (RFC 2131 4.1)."""

    hostname: str = ""
    client_id: bytes | None = None
    first_wait: float = 4.0
    wait_max: float = 64.0
    attempts: int = 4  # of a request before we begin anew
    decline_wait: float = 10.0  # RFC 2131 3.1 (5)
    start_delay: float = 1.0  # at most; RFC 2131 4.4.1 asks for 1 to 10, one machine needs less
    renew_wait_min: float = 60.0


@dataclass(frozen=True, slots=True)
class Transmit:
    """Send `payload` from port 68 to port 67; to all stations where `broadcast`."""

    src: bytes
    dst: bytes
    payload: bytes
    broadcast: bool


@dataclass(frozen=True, slots=True)
class Check:
    """Find out whether anybody has `addr`, then call `checked`."""

    addr: bytes


@dataclass(frozen=True, slots=True)
class Bound:
    """The lease is ours, or is ours for longer."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Unbound:
    """`addr` is not ours any more: use it for nothing."""

    addr: bytes
    why: str


Event = Check | Bound | Unbound


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters since the start."""

    sent: int = 0
    received: int = 0
    ignored: int = 0
    declined: int = 0


class Client:
    """The DHCP client of one interface with link address `mac`."""

    def __init__(self, mac: bytes, config: Config, rng: random.Random) -> None:
        self.mac = mac
        self.config = config
        self.state = State.STOPPED
        self.lease: Lease | None = None
        self._rng = rng
        self._wanted: bytes | None = None  # the address of the offer, or of an earlier lease
        self._server: bytes | None = None
        self._xid = 0
        self._began = self._asked = 0.0
        self._at: float | None = None
        self._tries = 0
        self._events: deque[Event] = deque()
        self._extra: list[Transmit] = []
        self._sent = self._received = self._ignored = self._declined = 0

    # Calls of the owner.

    def start(self, now: float, addr: bytes | None = None) -> None:
        """Begin; with the `addr` of an earlier lease by asking for it again (INIT-REBOOT)."""
        self._wanted = addr
        delay = self._rng.uniform(0, self.config.start_delay)
        self._enter(State.INIT_REBOOT if addr else State.INIT, now + delay)

    def checked(self, unique: bool, now: float) -> None:
        """Say whether the address of the last `Check` is ours alone."""
        if self.state is not State.CHECKING or self.lease is None:
            return
        if unique:
            self._bind(now)
        else:
            self._decline(now)

    def conflict(self, now: float) -> None:
        """Somebody else uses our address, and defending it failed (RFC 5227 2.4)."""
        if self.lease is not None and (self.state, Input.CONFLICT) in TRANSITIONS:
            self._decline(now)

    def release(self, now: float) -> None:
        """Give the lease back and stop (RFC 2131 4.4.6)."""
        lease = self.lease
        if lease is not None and self.state is not State.CHECKING:
            self._xid = self._rng.getrandbits(32)
            options = ((Option.SERVER_ID, lease.server),)
            payload = self._message(Type.RELEASE, options, now, ciaddr=lease.addr)
            self._extra.append(Transmit(lease.addr, lease.server, payload, False))
        self._unbind("released")
        self.state, self._at = State.STOPPED, None

    # Messages.

    def transmit(self, now: float) -> list[Transmit]:
        """Return the messages that are due."""
        out, self._extra = self._extra, []
        self._expire(now)
        if self._at is not None and self._at <= now:
            message = self._due(now)
            if message is not None:
                out.append(message)
        self._sent += len(out)
        return out

    def _expire(self, now: float) -> None:
        lease = self.lease
        if lease is None:
            return
        if self.state is State.BOUND and now >= lease.t1:
            self._enter(self._next(Input.T1), now)
        if self.state is State.RENEWING and now >= lease.t2:
            self._enter(self._next(Input.T2), now)
        if now >= lease.until and (self.state, Input.EXPIRED) in TRANSITIONS:
            self._unbind("the lease is over")
            self._enter(State.INIT, now)

    def _due(self, now: float) -> Transmit | None:
        if self.state in (State.INIT, State.INIT_REBOOT):
            self._xid = self._rng.getrandbits(32)
            self._began, self._tries = now, 0
            self.state = self._next(Input.SENT)
        elif (self.state, Input.TIMEOUT) in TRANSITIONS and self._tries >= self.config.attempts:
            self._enter(self._next(Input.TIMEOUT), now)
            return None
        self._tries += 1
        self._asked = now if self.state is not State.SELECTING else self._asked
        self._at = now + self._wait(now)
        return self._question(now)

    def _wait(self, now: float) -> float:
        """How long to wait for an answer (RFC 2131 4.1, 4.4.5)."""
        lease = self.lease
        if lease is not None and self.state in (State.RENEWING, State.REBINDING):
            end = lease.t2 if self.state is State.RENEWING else lease.until
            return max((end - now) / 2, self.config.renew_wait_min)
        wait = min(self.config.first_wait * (1 << min(self._tries - 1, 10)), self.config.wait_max)
        return wait + self._rng.uniform(-1, 1) * min(1.0, wait / 4)

    def _question(self, now: float) -> Transmit:
        anyone = (ip.UNSPECIFIED_V4, ip.BROADCAST_V4)
        if self.state is State.SELECTING:
            wanted = ((Option.REQUESTED_ADDRESS, self._wanted),) if self._wanted else ()
            return Transmit(*anyone, self._message(Type.DISCOVER, wanted, now), True)
        lease = self.lease
        if lease is not None and self.state in (State.RENEWING, State.REBINDING):
            payload = self._message(Type.REQUEST, (), now, ciaddr=lease.addr)
            broadcast = self.state is State.REBINDING
            dst = ip.BROADCAST_V4 if broadcast else lease.server
            return Transmit(lease.addr, dst, payload, broadcast)
        options = [(int(Option.REQUESTED_ADDRESS), self._wanted or ip.UNSPECIFIED_V4)]
        if self._server is not None and self.state is State.REQUESTING:
            options.append((Option.SERVER_ID, self._server))
        return Transmit(*anyone, self._message(Type.REQUEST, tuple(options), now), True)

    def _message(
        self, kind: Type, options: tuple[tuple[int, bytes], ...], now: float,
        ciaddr: bytes = ip.UNSPECIFIED_V4,
    ) -> bytes:  # fmt: skip
        config = self.config
        client = config.client_id or b"\x01" + self.mac
        head: list[tuple[int, bytes]] = [
            (Option.MESSAGE_TYPE, bytes([kind])), (Option.CLIENT_ID, client), *options,
        ]  # fmt: skip
        if kind in (Type.DISCOVER, Type.REQUEST):
            if config.hostname:
                head.append((Option.HOST_NAME, config.hostname.encode("idna")))
            head.append((Option.MAX_MESSAGE_SIZE, (1472).to_bytes(2)))
            head.append((Option.PARAMETER_LIST, bytes(_PARAMETERS)))
        secs = min(int(now - self._began), 0xFFFF) if kind in _WITH_SECS else 0
        # Without an address we can hear an answer only if it comes to all.
        broadcast = ciaddr == ip.UNSPECIFIED_V4 and kind in _WITH_SECS
        return dhcp.emit(
            dhcp.Repr(
                1, self._xid, self.mac, tuple(head), secs=secs, broadcast=broadcast, ciaddr=ciaddr
            )
        )

    # Answers.

    def receive(self, data: bytes, now: float) -> None:
        """Take a datagram that came to port 68."""
        try:
            message = dhcp.parse(data)
        except Malformed:
            self._ignored += 1
            return
        ours = message.op == 2 and message.xid == self._xid and message.chaddr == self.mac
        if not ours or not self._answered(message, now):
            self._ignored += 1
            return
        self._received += 1

    def _answered(self, message: dhcp.Repr, now: float) -> bool:
        server = message.address(Option.SERVER_ID)
        if server is None or not 0 < server[0] < 224:
            return False
        if message.type is Type.OFFER and self.state is State.SELECTING:
            return self._offered(message, server, now)
        waiting = (State.REQUESTING, State.REBOOTING, State.RENEWING, State.REBINDING)
        if self.state not in waiting:
            return False
        chosen = self._server if self.state is State.REQUESTING else None
        if chosen is not None and server != chosen:
            return False
        if message.type is Type.NAK:
            self._unbind("the server says no")
            self._wanted = None
            self._enter(self._next(Input.NAK), now + self.config.first_wait / 4)
            return True
        return message.type is Type.ACK and self._acknowledged(message, server, now)

    def _offered(self, message: dhcp.Repr, server: bytes, now: float) -> bool:
        """Take the first offer that can be used."""
        if lease_of(message, server, now) is None:
            return False
        self._wanted, self._server, self._tries = message.yiaddr, server, 0
        self._enter(self._next(Input.OFFER), now)
        return True

    def _acknowledged(self, message: dhcp.Repr, server: bytes, now: float) -> bool:
        # RFC 2131 4.4.1: the lease began when we asked for it.
        lease = lease_of(message, server, self._asked)
        renewed = self.state in (State.RENEWING, State.REBINDING)
        if lease is None or (renewed and self.lease and lease.addr != self.lease.addr):
            return False
        self.lease = lease
        self.state = self._next(Input.ACK)
        self._at = None
        self._events.append(Bound(lease) if renewed else Check(lease.addr))
        return True

    def _bind(self, now: float) -> None:
        assert self.lease is not None
        self.state = self._next(Input.UNIQUE)
        self._at = None
        self._wanted = self.lease.addr
        self._events.append(Bound(self.lease))

    def _decline(self, now: float) -> None:
        lease = self.lease
        assert lease is not None
        self._declined += 1
        self._xid = self._rng.getrandbits(32)
        options = ((Option.REQUESTED_ADDRESS, lease.addr), (Option.SERVER_ID, lease.server))
        payload = self._message(Type.DECLINE, options, now)
        self._extra.append(Transmit(ip.UNSPECIFIED_V4, ip.BROADCAST_V4, payload, True))
        self._unbind("somebody else has it")
        self._wanted = None
        self._enter(self._next(Input.CONFLICT), now + self.config.decline_wait)

    def _unbind(self, why: str) -> None:
        if self.lease is not None:
            if self.state is not State.CHECKING:
                self._events.append(Unbound(self.lease.addr, why))
            self.lease = None

    def _next(self, what: Input) -> State:
        return TRANSITIONS[self.state, what]

    def _enter(self, state: State, at: float) -> None:
        """Go to a state whose first message is due at `at`."""
        self.state, self._at, self._tries = state, at, 0
        if state in (State.RENEWING, State.REBINDING):
            self._xid = self._rng.getrandbits(32)
            self._began = at

    # Time and events.

    def deadline(self) -> float | None:
        """Return when `transmit` has something to do next."""
        if self._extra:
            return float("-inf")
        times = [self._at] if self._at is not None else []
        if self.lease is not None:
            ends = {State.BOUND: self.lease.t1, State.RENEWING: self.lease.t2}
            times.append(ends.get(self.state, self.lease.until))
        at = min(times, default=FOREVER)
        return None if at == FOREVER else at

    def next_event(self) -> Event | None:
        """Return the oldest event not yet taken."""
        return self._events.popleft() if self._events else None

    def statistics(self) -> Statistics:
        """Return a snapshot of the counters."""
        return Statistics(self._sent, self._received, self._ignored, self._declined)


_WITH_SECS = (Type.DISCOVER, Type.REQUEST)
_PARAMETERS = (
    Option.SUBNET_MASK, Option.ROUTER, Option.DNS_SERVERS, Option.DOMAIN_NAME,
    Option.INTERFACE_MTU, Option.BROADCAST_ADDRESS, Option.DOMAIN_SEARCH,
    Option.CLASSLESS_ROUTES, Option.RENEWAL_TIME, Option.REBINDING_TIME,
)  # fmt: skip
