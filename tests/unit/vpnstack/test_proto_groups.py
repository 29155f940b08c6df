"""Group membership: RFC 3376, RFC 3810 and the older versions, under virtual time."""

from __future__ import annotations

import random

import pytest

from vpnstack.proto import groups, igmp, mld
from vpnstack.wire import igmp as wire
from vpnstack.wire import ip
from vpnstack.wire import mld as wire6

G, H = ip.parse_address("239.1.1.1"), ip.parse_address("239.2.2.2")
G6 = ip.parse_address("ff15::1")
SRC = ip.parse_address("10.0.0.2")


class Host:
    def __init__(self) -> None:
        self.host = igmp.Host(random.Random(1))
        self.now = 0.0

    def run(self, seconds: float) -> list[tuple[bytes, wire.Repr]]:
        """Return (destination, message) of what is sent."""
        end, out = self.now + seconds, []
        while True:
            at = self.host.groups.deadline()
            if at is None or at > end:
                self.now = end
                return out
            self.now = max(at, self.now)
            for packet in self.host.transmit(SRC, self.now):
                header, body = ip.parse(packet)
                out.append((header.dst, wire.parse(body)))

    def ask(self, query: wire.Query) -> None:
        dst = wire.ALL_HOSTS if query.group == bytes(4) else query.group
        self.host.receive(query, dst, self.now)


@pytest.fixture
def host() -> Host:
    return Host()


def report(mode: wire.Mode, group: bytes, *sources: bytes) -> tuple[bytes, wire.Repr]:
    return wire.V3_REPORTS, wire.ReportV3((wire.Record(mode, group, sources),))


def test_join_and_leave_are_told_twice(host: Host) -> None:
    assert host.host.join(G, 0.0)
    assert host.run(5) == [report(wire.Mode.TO_EXCLUDE, G)] * 2
    host.host.join(G, host.now)
    host.host.leave(G, host.now)
    assert host.run(5) == []
    host.host.leave(G, host.now)
    assert host.run(5) == [report(wire.Mode.TO_INCLUDE, G)] * 2
    assert G not in host.host


def test_general_query_is_answered_within_its_time(host: Host) -> None:
    for group in (G, H):
        host.host.join(group, 0.0)
    host.run(5)
    host.ask(wire.Query(code=20))
    ((_, message),) = host.run(2)
    assert isinstance(message, wire.ReportV3)
    assert {r.group for r in message.records} == {G, H}
    assert {r.mode for r in message.records} == {wire.Mode.IS_EXCLUDE}


def test_queries_about_a_group_and_its_sources(host: Host) -> None:
    host.host.join(G, 0.0)
    host.run(5)
    host.ask(wire.Query(H))
    assert host.run(11) == []
    host.ask(wire.Query(G, sources=(SRC,)))
    assert host.run(11) == [report(wire.Mode.IS_INCLUDE, G, SRC)]
    host.ask(wire.Query(G, sources=(SRC,)))
    host.ask(wire.Query(G))
    assert host.run(11) == [report(wire.Mode.IS_EXCLUDE, G)]


def test_general_query_to_one_host_is_ignored(host: Host) -> None:
    host.host.join(G, 0.0)
    host.run(5)
    host.host.receive(wire.Query(), SRC, host.now)
    assert host.run(11) == []


@pytest.mark.parametrize("version", [1, 2])
def test_older_querier_for_a_while(host: Host, version: int) -> None:
    host.host.join(G, 0.0)
    host.run(5)
    host.ask(wire.Query(code=10 if version == 2 else 0, version=version))
    assert host.run(11) == [(G, wire.Report(G, version))]
    host.host.leave(G, host.now)
    assert host.run(11) == [(wire.ALL_ROUTERS, wire.Report(G, 2, True))] or version == 1
    host.run(300)
    host.host.join(G, host.now)
    assert host.run(5) == [report(wire.Mode.TO_EXCLUDE, G)] * 2


def test_another_hosts_report_is_enough_in_version_2(host: Host) -> None:
    host.host.join(G, 0.0)
    host.run(5)
    host.ask(wire.Query(version=2))
    host.host.receive(wire.Report(G), G, host.now)
    assert host.run(11) == []
    assert host.host.groups.statistics().suppressed == 1


def test_floods_are_bounded(host: Host) -> None:
    joined = [host.host.join(b"\xef\1" + n.to_bytes(2), 0.0) for n in range(100)]
    assert sum(joined) == 64
    many = tuple(n.to_bytes(4) for n in range(100))
    for _ in range(10):
        host.ask(wire.Query(b"\xef\1\0\0", sources=many))
    sources = [len(r.sources) for _, m in host.run(11) for r in getattr(m, "records", ())]
    assert max(sources) <= 64


def test_all_hosts_is_never_reported(host: Host) -> None:
    assert host.host.join(wire.ALL_HOSTS, 0.0)
    assert wire.ALL_HOSTS in host.host
    assert host.run(5) == []


def test_mld_reports_and_silent_groups() -> None:
    host = mld.Host(random.Random(1))
    for group in (G6, ip.ALL_NODES, ip.parse_address("ff01::5")):
        assert host.join(group, 0.0)
        assert group in host
    (packet,) = host.transmit(None, 0.0)
    assert packet[8:24] == ip.UNSPECIFIED_V6
    message = wire6.parse(packet[48:], packet[8:24], packet[24:40], 1)
    assert message == wire6.ReportV2((wire6.Record(wire6.Mode.TO_EXCLUDE, G6),))
    host.leave(ip.parse_address("ff01::5"), 1.0)
    assert ip.parse_address("ff01::5") not in host


def test_mld_version_1_querier() -> None:
    host = mld.Host(random.Random(1))
    host.join(G6, 0.0)
    host.receive(wire6.Query(code=1000, version=1), ip.ALL_NODES, 0.0)
    packets = host.transmit(G6, 1.0)
    assert {p[24:40] for p in packets} == {G6}
    assert {p[48] for p in packets} == {131}
    assert groups.Groups(mld.CONFIG, random.Random(1)).deadline() is None
