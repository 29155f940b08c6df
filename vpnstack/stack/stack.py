"""The stack: one interface's frames in, frames, events and a deadline out; no clock, no socket.

`receive` takes parsed frames and changes state; owners of flows and ports are told through
`next_event`; `settle` then ends the burst, after which its memory may go; `transmit` fills a burst
with what there is to send.  User calls only change state and mark flows as ready.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ..core import access
from ..core._core import lib
from ..core.burst import Burst
from ..proto.icmp import is_single_host
from ..proto.tcp.config import Config
from ..wire import icmp, igmp, ip, ipopt, mld
from ..wire.icmp import Kind
from . import headers, segments, tcp, udp
from .flow import Flow, FlowOwner
from .fragments import FragmentLayer
from .icmp import IcmpLayer
from .interface import Datagram, Interface
from .membership import Membership
from .protocol import Handler, Registry
from .resolution import ETHERTYPE_ARP, Resolution

IPV4, IPV6 = 0x0800, 0x86DD
NO_VLAN = 0xFFFF
NEVER = float("inf")
PASSES = 3  # of a call of `transmit`, where flows ask for neighbours that are not known
TCP_MARGIN = {4: 40, 6: 60}  # what IP and TCP headers without options take from the MTU
VERDICTS = (
    "ok", "short", "bad_vnet", "bad_ip", "bad_ip_csum", "bad_l4", "bad_l4_csum", "bad_ext",
    "bad_addr", "merged", "taken",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Statistics:
    """A snapshot of a stack's counters; `dropped` by the verdict of parsing (frame.h)."""

    frames_in: int
    frames_out: int
    dropped: dict[str, int]
    flows: int
    segments_in: int
    segments_out: int
    datagrams_in: int
    datagrams_out: int
    echoes_answered: int
    resets_out: int
    syns_refused: int
    packets_reassembled: int
    fragments_dropped: int  # at once: broken, or from where no answer can go
    wrong_vlan: int = 0
    source_routed: int = 0
    own_source: int = 0  # packets that say they are from us (land)
    ttl_exceeded: int = 0  # packets to be forwarded that had no hop left


class Stack:
    """IPv4 and IPv6, ARP and NDP, ICMP, UDP and TCP on one interface."""

    def __init__(
        self,
        interface: Interface,
        *,
        rng: random.Random,
        forwarding: bool = False,
        tcp_config: Callable[[int, int], Config] | None = None,
    ) -> None:
        self.interface = interface
        self.forwarding = forwarding  # take packets for any address, as a gateway does
        make = tcp_config or default_tcp_config
        self.tcp = tcp.TcpLayer(
            interface, lambda version: make(version, interface.mtu), rng.randbytes(32)
        )
        self.icmp = IcmpLayer(interface)
        self.fragments = FragmentLayer(self.icmp)
        interface.ident = rng.getrandbits(32)
        self.udp = udp.UdpLayer(interface)
        self.udp.unclaimed = self._port_unreachable
        self.resolution = Resolution(interface)
        self.registry = Registry(interface)
        self.groups = Membership(interface, rng)
        self._vlan = interface.config.vlan or 0
        self._wrong_vlan = self._source_routed = 0
        self._own_source = self._ttl_exceeded = 0
        self._dropped = [0] * lib.FRAME_VERDICTS
        self._frames_in = self._frames_out = 0
        self._out = Burst()
        self._chores_at = 0.0  # when what is not TCP has something to do; 0.0: look

    @property
    def protocols(self) -> dict[int, Handler]:
        """Handlers of the user's own IP protocols, by number."""
        return self.registry.protocols

    @property
    def ethertypes(self) -> dict[int, Handler]:
        """Handlers of the user's own EtherTypes, by number."""
        return self.registry.ethertypes

    # Receiving.

    def receive(self, frames: Iterable[Any], now: float) -> None:
        """Take parsed frames; their memory is borrowed until `settle`."""
        for f in frames:
            self._frames_in += 1
            if (0 if f.vlan == NO_VLAN else f.vlan & 0xFFF) != self._vlan:
                self._wrong_vlan += 1  # a tag of VLAN 0 has a priority only (802.1Q 9.6)
            elif f.verdict:
                self._drop(f, now)
            elif f.ip_version:
                self._receive_ip(f, now)
            elif f.ethertype == ETHERTYPE_ARP:
                self._chores_at = 0.0
                self.resolution.receive_arp(f, now)
            else:
                self.registry.receive_frame(f, now)
        self.tcp.settle()

    def passed(self, received: int, sent: int) -> None:
        """Count frames that were carried past the stack."""
        self._frames_in += received
        self._frames_out += sent

    def _drop(self, f: Any, now: float) -> None:
        self._dropped[f.verdict] += 1
        if f.verdict == lib.FRAME_BAD_EXT and f.param_code != 0xFF:
            # The code of a Parameter Problem (RFC 4443 3.4) rides on the kind's own.
            self.icmp.report(f, Kind.PARAMETER_PROBLEM, now, f.param_ptr)

    def _receive_ip(self, f: Any, now: float) -> None:
        if f.proto == headers.TCP and f.l4 and self.tcp.receive_known(f, now):
            return
        if f.ip_version == 4 and f.head[f.l3] & 15 > 5 and self._bad_options(f, now):
            return
        if self._from_us(f) or (self.forwarding and f.ttl <= 1 and self._out_of_hops(f, now)):
            return
        if f.is_frag:
            self._chores_at = 0.0
            whole = self._reassemble(f, now)
            if whole is None:
                return
            f = whole
        proto = f.proto
        if proto == headers.TCP:
            if self._for_us(f):
                self.tcp.receive(f, now)
            return
        if proto != headers.UDP:
            self._chores_at = 0.0
        if proto == headers.UDP:
            if self._for_us(f) or self._is_group(f):
                self.udp.receive(f, now)
        elif proto == (ip.ICMP if f.ip_version == 4 else ip.ICMPV6):
            self._receive_icmp(f, now)
        elif proto == igmp.PROTO and f.ip_version == 4:
            self.groups.receive_igmp(f, now)
        elif self._for_us(f) and not self.registry.receive_ip(f, now) and proto != ip.NO_NEXT:
            self.icmp.report(f, Kind.PROTOCOL_UNREACHABLE, now)

    def _from_us(self, f: Any) -> bool:
        """Tell whether a packet claims our own address as its source (land attack).

        A neighbour's discovery message may: it has our address too, which is a conflict to see.
        """
        if access.source(f) not in self.interface.local:
            return False
        if f.proto == ip.ICMPV6 and f.ip_version == 6 and 133 <= f.sport >> 8 <= 137:
            return False
        self._own_source += 1
        return True

    def _out_of_hops(self, f: Any, now: float) -> bool:
        """Answer a packet for elsewhere that may go no further (RFC 1812 5.3.1, RFC 8200 3)."""
        dst = access.destination(f)
        if dst in self.interface.local or self._is_group(f):
            return False
        self._ttl_exceeded += 1
        self.icmp.report(f, Kind.TTL_EXCEEDED, now)
        return True

    def _bad_options(self, f: Any, now: float) -> bool:
        """Tell whether an IPv4 packet's options forbid to take it."""
        options = access.octets(f, f.l3 + 20, (f.head[f.l3] & 15) * 4 - 20)
        try:
            kinds = ipopt.parse(options)
        except ipopt.BadOption as e:  # RFC 1122 3.2.1.8, 3.2.2.5
            self.icmp.report(f, Kind.PARAMETER_PROBLEM, now, (20 + e.offset) << 24)
            return True
        if not kinds.isdisjoint(ipopt.SOURCE_ROUTES):  # RFC 7126 4.3, 4.4
            self._source_routed += 1
            return True
        return False

    def _reassemble(self, f: Any, now: float) -> Any:
        """Return the parsed packet that `f` completes, None while parts of it are missing."""
        if not (self._for_us(f) or self._is_group(f)):
            return None
        if not self.interface.reachable(access.source(f)):
            self.fragments.dropped += 1
            return None
        whole = self.fragments.receive(f, now)
        if whole is not None and whole.verdict:
            self._drop(whole, now)
            return None
        return whole

    def _for_us(self, f: Any) -> bool:
        dst = access.destination(f)
        if dst in self.interface.local:
            return True
        # RFC 1812 5.3.7: what cannot be a source is no destination to be forwarded to, either.
        return self.forwarding and is_single_host(dst) and not self.interface.is_broadcast(dst)

    def _is_group(self, f: Any) -> bool:
        dst = access.destination(f)
        if ip.is_multicast(dst):
            return self.forwarding or dst in self.groups
        return dst == ip.BROADCAST_V4 or self.interface.is_broadcast(dst)

    def _receive_icmp(self, f: Any, now: float) -> None:
        kind = f.sport >> 8
        if f.ip_version == 6 and 133 <= kind <= 137:
            self.resolution.receive_ndp(f, now)
            return
        if f.ip_version == 6 and kind in mld.TYPES:
            self.groups.receive_mld(f, now)
            return
        error = self.icmp.receive(f, now)
        if error is not None:
            self._hand_on(error, now)

    def _hand_on(self, error: icmp.Error, now: float) -> None:
        """Give a received ICMP error to the flow or port whose packet it quotes."""
        about = icmp.quoted(error)
        if about is None:
            self.registry.icmp_received(error, now)
            return
        local, remote = (about.src, about.sport), (about.dst, about.dport)
        if error.kind is Kind.TOO_BIG:
            self._too_big(about, error, now)
        if about.proto == headers.UDP:
            owner = self.udp.owner(*local)
            if owner is not None:
                owner.icmp_received(remote, local, error, now)
        elif about.proto == headers.TCP:
            self.tcp.icmp_received(local, remote, error, now)

    def _too_big(self, about: icmp.Quoted, error: icmp.Error, now: float) -> None:
        """Note a path's MTU where the message is about something that we sent (RFC 5927 7)."""
        local, remote = (about.src, about.sport), (about.dst, about.dport)
        if about.proto == headers.TCP:
            where = ip.upper(error.quote)
            at = where.offset + 4 if where else 0
            if not self.tcp.sent(local, remote, int.from_bytes(error.quote[at : at + 4])):
                return
        elif about.proto != headers.UDP or self.udp.owner(*local) is None:
            return
        length = int.from_bytes(error.quote[2:4]) if error.version == 4 else 0
        told = error.value & 0xFFFF if error.version == 4 else error.value
        interface = self.interface
        interface.paths.too_big(remote[0], told, now, link_mtu=interface.mtu, sent=length)

    def _port_unreachable(self, f: Any, now: float) -> None:
        self.icmp.report(f, Kind.PORT_UNREACHABLE, now)

    # Owners.

    def next_event(self) -> tuple[FlowOwner, Flow] | None:
        """Return an owner and its flow that has events, None when there is none."""
        events = self.tcp.events
        while events:
            owner, flow = events.popleft()
            if owner is not None:
                return owner, flow
        return None

    def settle(self) -> None:
        """End the burst: the memory of the frames received may go."""
        self.tcp.own()
        self.fragments.settle()

    # Transmitting.

    def transmit(self, now: float) -> Burst | None:
        """Return a burst to be sent before the next call, None when there is nothing to send."""
        tcp, interface, out = self.tcp, self.interface, self._out
        out.clear()
        tcp.expire(now)
        if now >= self._chores_at or self.registry.busy:
            self._discover(now)
        for _ in range(PASSES):
            if interface.queue:
                self._drain_queue(out)
            if tcp.pending:
                tcp.transmit(out, now)
            if not interface.neighbours.changed:
                break
            self._discover(now)
        self._frames_out += out.count
        return out if out.count else None

    def look(self) -> None:
        """Have the next `transmit` ask every layer: something was done that TCP does not see."""
        self._chores_at = 0.0

    def _discover(self, now: float) -> None:
        """Ask for neighbours, tell the flows that waited for one, do what else is due."""
        self.interface.neighbours.changed = False
        self.fragments.expire(now)
        self.resolution.transmit(now)
        self.registry.transmit(now)
        self.groups.transmit(now)
        resolved, failed = self.resolution.release()
        for hop in resolved:
            self.tcp.resolved(hop)
        for hop in failed:
            self.tcp.unresolved(hop, now)
        self._chores_at = self._next_chore()

    def _next_chore(self) -> float:
        layers = (self.resolution, self.groups, self.fragments, self.registry)
        return min((at for layer in layers if (at := layer.deadline()) is not None), default=NEVER)

    def _drain_queue(self, out: Burst) -> None:
        queue = self.interface.queue
        while queue and not out.full:
            item = queue.popleft()
            if isinstance(item, bytes):
                out.append(item)
            elif isinstance(item, Datagram):
                template, data = item.template, item.data
                lib.frame_emit_udp(out[out.count], template, len(template), data, len(data))
                out.keep(data)
                out.count += 1
            else:
                segments.emit(out, *item)

    def deadline(self) -> float | None:
        """Return when `transmit` has something to do next by itself."""
        first, chores = self.tcp.deadline(), self._chores_at
        if not chores or self.registry.busy or self.interface.neighbours.changed:
            chores = self._next_chore()
        if first is None:
            return None if chores == NEVER else chores
        return min(first, chores)

    def statistics(self) -> Statistics:
        """Return a snapshot of the counters."""
        t, u = self.tcp.counters, self.udp.counters
        return Statistics(
            frames_in=self._frames_in,
            frames_out=self._frames_out,
            dropped={VERDICTS[i]: n for i, n in enumerate(self._dropped) if n},
            flows=len(self.tcp.flows),
            segments_in=t.segments_in,
            segments_out=t.segments_out,
            datagrams_in=u.datagrams_in,
            datagrams_out=u.datagrams_out,
            echoes_answered=self.icmp.counters.echoes_answered,
            resets_out=t.resets_out,
            syns_refused=t.syns_refused,
            packets_reassembled=self.fragments.reassembler.statistics().whole,
            fragments_dropped=self.fragments.dropped,
            wrong_vlan=self._wrong_vlan,
            source_routed=self._source_routed,
            own_source=self._own_source,
            ttl_exceeded=self._ttl_exceeded,
        )


def default_tcp_config(version: int, mtu: int) -> Config:
    """Return the parameters of connections over a link with `mtu`."""
    return Config(
        mss=min(mtu, 65535) - TCP_MARGIN[version],
        default_mss=536 if version == 4 else 1220,
        min_path_mss=512 if version == 4 else 1220,
    )
