"""The DHCPv4 server (RFC 2131 4.3, RFC 4039 rapid commit, RFC 6842 client identifier in replies).

It is the only server of its link, so it is authoritative: where RFC 2131 4.3.2 keeps silent about
a client that it does not know (after a restart of ours), it takes the client's address over if it
is free and otherwise says NAK at once, so no machine waits for a time-out.  There are no relays:
a message with `giaddr` is dropped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..wire import dhcp, ethernet, ip, names
from ..wire.dhcp import Option, Type
from ..wire.malformed import Malformed
from .leases import Lease, Pool, State

INFINITE = 0xFFFFFFFF
CLIENT_ID_MAX = 255  # octets; longer ones are possible only with RFC 3396 and never real
HOSTNAME_MAX = 255
MESSAGE_MIN = 576  # an IP packet that every client takes (RFC 2131 2)
HEADERS_LEN = 28


@dataclass(frozen=True, slots=True)
class Config:
    """What the server gives out; times are in seconds, `routes` are (network, length, router).

    `first` and `last` bound the dynamic pool; `server`, `router` and `reserved` are never given
    out.
    """

    server: bytes
    prefix_len: int
    first: bytes
    last: bytes
    router: bytes | None = None
    dns: tuple[bytes, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    mtu: int | None = None
    routes: tuple[tuple[bytes, int, bytes], ...] = ()
    reserved: frozenset[bytes] = frozenset()
    lease_time: int = 86400
    offer_time: int = 30
    decline_time: int = 600
    rapid_commit: bool = True


@dataclass(frozen=True, slots=True)
class Reply:
    """A UDP payload from port 67 to port 68 of `dst`, in a frame to `mac`."""

    payload: bytes
    dst: bytes
    mac: bytes


@dataclass(frozen=True, slots=True)
class Statistics:
    """Messages by type, in and out; what was not understood; the leases that stand."""

    received: tuple[tuple[str, int], ...]
    sent: tuple[tuple[str, int], ...]
    malformed: int
    ignored: int
    exhausted: int
    leases: int


class Server:
    """One pool on one link.  `receive` answers at once; there are no timers."""

    def __init__(self, config: Config) -> None:
        self.config = config
        taken = {config.server, config.router or config.server, *config.reserved}
        self._mask = -1 << (32 - config.prefix_len) & 0xFFFFFFFF
        self._net = int.from_bytes(config.server) & self._mask
        edges = {self._net.to_bytes(4), self._broadcast()}
        self.pool = Pool(config.first, config.last, frozenset(taken | edges))
        self._received: Counter[str] = Counter()
        self._sent: Counter[str] = Counter()
        self._malformed = self._ignored = self._exhausted = 0

    def _is_host(self, addr: bytes) -> bool:
        """Tell whether `addr` may be another's on this link."""
        number = int.from_bytes(addr)
        edges = (self._net, int.from_bytes(self._broadcast()), int.from_bytes(self.config.server))
        return number & self._mask == self._net and number not in edges

    def fix(self, key: bytes, addr: bytes, hostname: str = "") -> None:
        """Keep `addr`, anywhere in the subnet, for a MAC address or client identifier."""
        self.pool.fix(key, addr, hostname)

    def unfix(self, key: bytes) -> None:
        """Undo `fix`."""
        self.pool.unfix(key)

    def leases(self, now: float) -> tuple[Lease, ...]:
        """Return the leases in force, by address."""
        held = (x for x in self.pool.leases() if x.state is State.BOUND and x.until > now)
        return tuple(sorted(held, key=lambda lease: lease.addr))

    def receive(self, packet: bytes, now: float) -> Reply | None:
        """Take the UDP payload of a datagram to port 67; malformed ones are counted."""
        try:
            message = dhcp.parse(packet)
        except Malformed:
            self._malformed += 1
            return None
        handler = self._handler(message)
        reply = handler(message, now) if handler else None
        if message.type and handler:
            self._received[message.type.name] += 1
        else:
            self._ignored += 1
        return self._address(message, reply) if reply else None

    def statistics(self) -> Statistics:
        """Return a snapshot of the counters."""
        received, sent = tuple(self._received.items()), tuple(self._sent.items())
        counts = (self._malformed, self._ignored, self._exhausted, len(self.pool))
        return Statistics(received, sent, *counts)

    def _handler(self, message: dhcp.Repr) -> Callable[[dhcp.Repr, float], dhcp.Repr | None] | None:
        client_id = message.get(Option.CLIENT_ID)
        ours = message.op == 1 and message.htype == 1 and ethernet.is_unicast(message.chaddr)
        if not ours or message.giaddr != ip.UNSPECIFIED_V4 or message.type is None:
            return None
        if client_id is not None and not 0 < len(client_id) <= CLIENT_ID_MAX:
            return None
        return {
            Type.DISCOVER: self._discover,
            Type.REQUEST: self._request,
            Type.DECLINE: self._decline,
            Type.RELEASE: self._release,
            Type.INFORM: self._inform,
        }.get(message.type)

    def _discover(self, message: dhcp.Repr, now: float) -> dhcp.Repr | None:
        """RFC 2131 4.3.1."""
        client, wanted = client_of(message), message.address(Option.REQUESTED_ADDRESS)
        addr = self.pool.choose(client, message.chaddr, wanted, now)
        if addr is None:
            self._exhausted += 1
            return None
        if self.config.rapid_commit and message.get(Option.RAPID_COMMIT) == b"":
            return self._bind(message, addr, now)
        held = self.pool.of(client)
        if held is None or held.addr != addr or held.until <= now:
            self._put(message, addr, State.OFFERED, now + self.config.offer_time)
        return self._reply(message, Type.OFFER, addr)

    def _request(self, message: dhcp.Repr, now: float) -> dhcp.Repr | None:
        """RFC 2131 4.3.2: SELECTING has a server, INIT-REBOOT an option 50, the rest `ciaddr`."""
        server = message.get(Option.SERVER_ID)
        wanted = message.address(Option.REQUESTED_ADDRESS)
        client = client_of(message)
        if server is not None and server != self.config.server:
            held = self.pool.of(client)
            if held is not None and held.state is State.OFFERED:
                self.pool.put(replace(held, state=State.ENDED, until=now))
            return None
        if server is None and wanted is None:
            wanted = message.ciaddr
        if wanted is None or wanted == ip.UNSPECIFIED_V4:
            return None
        if not self.pool.free(wanted, client, message.chaddr, now):
            return self._nak(message)
        held = self.pool.of(client)
        if server is not None and (held is None or held.addr != wanted):
            return self._nak(message)  # an offer that we never made, or that ran out
        return self._bind(message, wanted, now)

    def _decline(self, message: dhcp.Repr, now: float) -> None:
        """RFC 2131 4.3.3: somebody else has the address."""
        held = self.pool.of(client_of(message))
        wanted = message.address(Option.REQUESTED_ADDRESS)
        if held is not None and held.addr == wanted and self._for_us(message):
            self.pool.block(held, now + self.config.decline_time)

    def _release(self, message: dhcp.Repr, now: float) -> None:
        """RFC 2131 4.3.4; the address stays the client's favourite."""
        held = self.pool.of(client_of(message))
        if held is not None and held.addr == message.ciaddr and self._for_us(message):
            self.pool.put(replace(held, state=State.ENDED, until=now))

    def _inform(self, message: dhcp.Repr, now: float) -> dhcp.Repr | None:
        """RFC 2131 4.3.5: options for a client that has its address from elsewhere."""
        if int.from_bytes(message.ciaddr) & self._mask != self._net:
            return None
        return self._reply(message, Type.ACK, None)

    def _for_us(self, message: dhcp.Repr) -> bool:
        return message.get(Option.SERVER_ID) == self.config.server

    def _bind(self, message: dhcp.Repr, addr: bytes, now: float) -> dhcp.Repr:
        time = self.config.lease_time
        self._put(message, addr, State.BOUND, float("inf") if time == INFINITE else now + time)
        return self._reply(message, Type.ACK, addr)

    def _put(self, message: dhcp.Repr, addr: bytes, state: State, until: float) -> None:
        client, mac = client_of(message), message.chaddr
        kept = self.pool.fixed(client, mac)
        hostname = kept[1] if kept and kept[1] else hostname_of(message)
        self.pool.put(Lease(addr, client, mac, hostname, state, until, kept is not None))

    def _nak(self, message: dhcp.Repr) -> dhcp.Repr:
        options = self._head(message, Type.NAK)
        options.append((Option.MESSAGE, b"address not available on this network"))
        return dhcp.Repr(2, message.xid, message.chaddr, tuple(options), broadcast=True)

    def _reply(self, message: dhcp.Repr, kind: Type, addr: bytes | None) -> dhcp.Repr:
        """Build an OFFER or ACK; without `addr` it answers an INFORM."""
        head = self._head(message, kind)
        if addr is not None:
            head.append((Option.LEASE_TIME, self.config.lease_time.to_bytes(4)))
        if message.type is Type.DISCOVER and kind is Type.ACK:
            head.append((Option.RAPID_COMMIT, b""))
        reply = dhcp.Repr(
            2, message.xid, message.chaddr, broadcast=message.broadcast,
            ciaddr=ip.UNSPECIFIED_V4 if kind is Type.OFFER else message.ciaddr,
            yiaddr=addr or ip.UNSPECIFIED_V4,
        )  # fmt: skip
        asked = self._asked(message, addr)
        return replace(reply, options=tuple(head + fit(asked, message, head)))

    def _head(self, message: dhcp.Repr, kind: Type) -> list[tuple[int, bytes]]:
        """Return the options that every reply has (RFC 2131 table 3)."""
        head = [(int(Option.MESSAGE_TYPE), bytes([kind]))]
        head.append((int(Option.SERVER_ID), self.config.server))
        client_id = message.get(Option.CLIENT_ID)
        if client_id is not None:  # RFC 6842
            head.append((int(Option.CLIENT_ID), client_id))
        return head

    def _asked(self, message: dhcp.Repr, addr: bytes | None) -> list[tuple[int, bytes]]:
        """Return the parameters asked for, in the client's order; usual ones if it named none."""
        default = bytes([Option.SUBNET_MASK, Option.ROUTER, Option.DNS_SERVERS])
        wanted = dict.fromkeys(message.get(Option.PARAMETER_LIST) or default)
        values = self._values(message, addr)
        return [(code, values[code]) for code in wanted if values.get(code)]

    def _values(self, message: dhcp.Repr, addr: bytes | None) -> dict[int, bytes]:
        """Return all parameters that we have; empty ones are not sent."""
        config, time = self.config, self.config.lease_time
        lease = self.pool.of(client_of(message))
        values: dict[int, bytes] = {
            Option.SUBNET_MASK: self._mask.to_bytes(4),
            Option.ROUTER: config.router or b"",
            Option.DNS_SERVERS: b"".join(config.dns),
            Option.HOST_NAME: lease.hostname.encode() if lease else b"",
            Option.DOMAIN_NAME: config.domain.encode(),
            Option.INTERFACE_MTU: config.mtu.to_bytes(2) if config.mtu else b"",
            Option.BROADCAST_ADDRESS: self._broadcast(),
            Option.DOMAIN_SEARCH: names.emit(config.search),
            Option.CLASSLESS_ROUTES: dhcp.emit_routes(self._routes()),
        }
        if addr is not None and time != INFINITE:
            values[Option.RENEWAL_TIME] = (time // 2).to_bytes(4)
            values[Option.REBINDING_TIME] = (time * 7 // 8).to_bytes(4)
        return values

    def _routes(self) -> tuple[tuple[bytes, int, bytes], ...]:
        """A client that takes option 121 ignores option 3 (RFC 3442), so the default is in it."""
        if not self.config.routes or self.config.router is None:
            return self.config.routes
        return (*self.config.routes, (ip.UNSPECIFIED_V4, 0, self.config.router))

    def _broadcast(self) -> bytes:
        return (self._net | ~self._mask & 0xFFFFFFFF).to_bytes(4)

    def _address(self, message: dhcp.Repr, reply: dhcp.Repr) -> Reply:
        """Choose the destination, RFC 2131 4.1."""
        if reply.type is not None:
            self._sent[reply.type.name] += 1
        payload = dhcp.emit(reply)
        if reply.type is not Type.NAK:
            if self._is_host(message.ciaddr):
                return Reply(payload, message.ciaddr, message.chaddr)
            if not message.broadcast:
                return Reply(payload, reply.yiaddr, message.chaddr)
        return Reply(payload, ip.BROADCAST_V4, ethernet.BROADCAST)


def client_of(message: dhcp.Repr) -> bytes:
    """Return what identifies the client (RFC 2131 4.2): option 61, or type and address."""
    return message.get(Option.CLIENT_ID) or bytes([message.htype]) + message.chaddr


def hostname_of(message: dhcp.Repr) -> str:
    """Return the client's own host name where it is a name and nothing else."""
    text = (message.get(Option.HOST_NAME) or b"").rstrip(b"\0").decode("ascii", "replace")
    plain = all(c.isascii() and (c.isalnum() or c in "-_.") for c in text)
    return text if plain and len(text) <= HOSTNAME_MAX else ""


def fit(
    options: list[tuple[int, bytes]], message: dhcp.Repr, head: list[tuple[int, bytes]]
) -> list[tuple[int, bytes]]:
    """Return the options, from the first, that the client's maximum size leaves room for."""
    value = message.get(Option.MAX_MESSAGE_SIZE) or b""
    size = max(int.from_bytes(value), MESSAGE_MIN) if len(value) == 2 else MESSAGE_MIN
    room = size - HEADERS_LEN - dhcp.FIXED_LEN - 1
    room -= sum(len(dhcp.emit_option(*pair)) for pair in head)
    kept = []
    for pair in options:
        length = len(dhcp.emit_option(*pair))
        if length <= room:
            room -= length
            kept.append(pair)
    return kept
