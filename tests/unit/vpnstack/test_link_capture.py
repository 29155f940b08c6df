"""pcapng files and lines of text: what passes a tracer, with names, directions and times."""

from __future__ import annotations

import asyncio
import io
import struct
from collections.abc import Iterator

import dpkt
import pytest

from vpnstack.aio.network import Network
from vpnstack.core import pure
from vpnstack.link.capture import EPB, IDB, INBOUND, OUTBOUND, SHB, PcapngWriter, Tracer
from vpnstack.link.port import Port
from vpnstack.link.text import TextWriter, describe
from vpnstack.wire import arp, ethernet, icmp, ip


async def talk(lan: Network) -> None:
    a, b = lan.host("a"), lan.host("b")
    lan.link(a, b, latency=0.01)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read())
        writer.close()

    await b.start_server(echo, 7)
    reader, writer = await a.open_connection("b", 7)
    writer.write(bytes(100_000))
    writer.write_eof()
    assert len(await reader.read()) == 100_000
    writer.close()
    there, _ = await b.create_datagram_endpoint(asyncio.DatagramProtocol, ("", 9))
    here, _ = await a.create_datagram_endpoint(asyncio.DatagramProtocol)
    for port in (9, 10):
        here.sendto(b"hello", ("fd00::2", port))
    await asyncio.sleep(1)
    there.close()


def capture(seed: int = 7) -> bytes:
    file = io.BytesIO()
    writer = PcapngWriter(file)

    def wrap(port: Port) -> Port:
        return Tracer(port, writer, lambda: lan.loop.time())

    lan = Network(seed=seed, wrap=wrap)
    lan.run(talk)
    return file.getvalue()


def blocks(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        kind, size = struct.unpack_from("<II", data)
        assert size % 4 == 0
        assert struct.unpack_from("<I", data, size - 4) == (size,)
        yield kind, data[8 : size - 4]
        data = data[size:]


def options(data: bytes) -> dict[int, bytes]:
    out = {}
    while True:
        code, size = struct.unpack_from("<HH", data)
        if not code:
            assert len(data) == 4
            return out
        out[code] = data[4 : 4 + size]
        data = data[4 + size + -size % 4 :]


def packets(data: bytes) -> Iterator[tuple[int, float, bytes, dict[int, bytes]]]:
    for kind, body in blocks(data):
        if kind == EPB:
            interface, high, low, size, original = struct.unpack_from("<5I", body)
            assert size == original
            end = 20 + size + -size % 4
            yield interface, (high << 32 | low) / 1e9, body[20 : 20 + size], options(body[end:])


def test_same_seed_same_file() -> None:
    assert capture() == capture()
    assert capture(8) != capture()


def test_blocks_and_interfaces() -> None:
    found = list(blocks(capture()))
    assert [kind for kind, _ in found[:3]] == [SHB, IDB, IDB]
    assert [options(body[8:])[2] for kind, body in found if kind == IDB] == [b"a-b", b"b-a"]
    assert options(found[1][1][8:])[9] == b"\x09"


def test_directions_and_times() -> None:
    sent = {}
    for interface, at, frame, opts in packets(capture()):
        (direction,) = struct.unpack("<I", opts[2])
        if (interface, direction) == (0, OUTBOUND):
            sent.setdefault(frame, at)
        elif (interface, direction) == (1, INBOUND):
            assert at - sent[frame] == pytest.approx(0.01, abs=1e-6)
    assert sent


def test_checksums_are_complete_and_super_segments_noted() -> None:
    noted = 0
    for _, _, frame, opts in packets(capture()):
        assert pure.parse(bytes(12), frame).verdict == 0
        noted += opts.get(1, b"").startswith(b"super-segment: 1448 bytes")
    assert noted


def test_dpkt_reads_it() -> None:
    reader = dpkt.pcapng.Reader(io.BytesIO(capture()))
    kinds = [type(dpkt.ethernet.Ethernet(frame).data).__name__ for _, frame in reader]
    assert {"ARP", "IP", "IP6"} <= set(kinds)


def test_snaplen_cuts() -> None:
    file = io.BytesIO()
    writer = PcapngWriter(file, snaplen=64, epoch=100.0)
    writer.frame(writer.interface("x"), OUTBOUND, bytes(1000), 2.5)
    *_, (_, body) = blocks(file.getvalue())
    assert struct.unpack_from("<5I", body) == (
        0, 102_500_000_000 >> 32, 102_500_000_000 & 0xFFFFFFFF, 64, 1000,
    )  # fmt: skip


def test_lines_read_as_tcpdumps() -> None:
    lines: list[str] = []
    sink = TextWriter(lines.append)
    lan = Network(seed=7, wrap=lambda port: Tracer(port, sink, lan.loop.time))
    lan.run(talk)
    text = "\n".join(lines)
    assert "a-b > ARP, Request who-has 10.0.0.2 tell 10.0.0.1" in text
    assert "b-a > ARP, Reply 10.0.0.1" not in text
    assert ".7: Flags [S], seq " in text
    assert "mss 1460,sackOK,TS val " in text
    assert " b-a < IP6 fd00::1." in text
    assert "UDP, length 5" in text
    assert "ICMP port unreachable" in text
    assert "(super-segment: 1448 bytes a packet)" in text


@pytest.mark.parametrize(
    ("kind", "body", "line"),
    [
        (0x88B5, bytes(50), "00:00:00:00:00:00 > 00:00:00:00:00:00, ethertype 0x88b5, length 64"),
        (0x0806, bytes(28), "arp"),
        (0x0800, b"E", "ethertype 0x0800, length 15"),
        (
            0x0800,
            ip.emit(ip.Repr(bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]), 253), b"hi"),
            "IP 10.0.0.1 > 10.0.0.2: proto 253, length 2",
        ),
        (
            0x0800,
            ip.emit(ip.Repr(bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]), 17, offset=8), b"hi"),
            "frag 0:2@8, proto 17",
        ),
    ],
)
def test_anything_can_be_described(kind: int, body: bytes, line: str) -> None:
    assert line in describe(ethernet.emit(ethernet.Repr(bytes(6), bytes(6), kind), body))


def test_short_and_known_frames_are_described() -> None:
    assert "length 3" in describe(b"abc")
    a, b = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])
    echo = icmp.emit(icmp.Echo(False, 1, 2, b"x"), a, b)
    frame = ethernet.emit(
        ethernet.Repr(bytes(6), bytes(6), 0x0800), ip.emit(ip.Repr(a, b, ip.ICMP), echo)
    )
    assert describe(frame) == "IP 10.0.0.1 > 10.0.0.2: ICMP echo request, id 1, seq 2, length 9"
    question = arp.emit(arp.Repr(arp.Op.REQUEST, b"\2" + bytes(5), a, bytes(6), b))
    line = describe(ethernet.emit(ethernet.Repr(b"\xff" * 6, b"\2" + bytes(5), 0x0806), question))
    assert line == "ARP, Request who-has 10.0.0.2 tell 10.0.0.1"
