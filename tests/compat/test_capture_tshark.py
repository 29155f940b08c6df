"""pcapng captures against tshark: every packet is read, none is marked as malformed."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vpnstack.aio.network import Network
from vpnstack.link.capture import PcapngWriter, Tracer

pytestmark = [
    pytest.mark.compat,
    pytest.mark.skipif(shutil.which("tshark") is None, reason="needs tshark"),
]
CHECKS = [
    word
    for name in ("ip.check_checksum", "tcp.check_checksum", "udp.check_checksum")
    for word in ("-o", f"{name}:TRUE")
]


def tshark(file: Path, *args: str) -> str:
    done = subprocess.run(
        ["tshark", "-n", "-r", str(file), *CHECKS, *args],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return done.stdout


def fields(file: Path, *names: str) -> list[list[str]]:
    args = [word for name in names for word in ("-e", name)]
    lines = tshark(file, "-T", "fields", "-E", "separator=|", *args).splitlines()
    return [line.split("|") for line in lines]


def faults(file: Path) -> list[list[str]]:
    """Rows of tshark's expert information about malformed packets and wrong checksums."""
    rows = fields(file, "frame.number", "_ws.malformed", "_ws.expert.message")
    return [row for row in rows if row[1] or "hecksum" in row[2] or "alformed" in row[2]]


async def talk(lan: Network) -> None:
    a, b = lan.host("alice"), lan.host("bob")
    lan.link(a, b, latency=0.01, loss=0.05, rate="20mbit")

    async def sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            pass
        writer.close()

    await b.start_server(sink, 7)
    for addr in ("10.0.0.2", "fd00::2"):
        reader, writer = await a.open_connection(addr, 7)
        writer.write(bytes(300_000))
        writer.write_eof()
        await reader.read()
        writer.close()
        here, _ = await a.create_datagram_endpoint(asyncio.DatagramProtocol)
        here.sendto(bytes(5000), (addr, 9))  # fragments, and port unreachable
    await asyncio.sleep(1)


def test_tshark_reads_a_simulated_network(tmp_path: Path) -> None:
    path = tmp_path / "net.pcapng"
    with path.open("wb") as file:
        writer = PcapngWriter(file, epoch=1_700_000_000)
        lan = Network(seed=7, wrap=lambda port: Tracer(port, writer, lan.loop.time))
        lan.run(talk)
    rows = fields(path, "frame.interface_name", "frame.protocols", "frame.len", "frame.comment")
    assert {row[0] for row in rows} == {"alice-bob", "bob-alice"}
    protocols = {p for row in rows for p in row[1].split(":")}
    assert {"arp", "tcp", "udp", "icmp", "icmpv6", "ip", "ipv6"} <= protocols
    assert any(int(row[2]) > 10_000 and "super-segment" in row[3] for row in rows)
    assert faults(path) == []
    assert "Malformed" not in tshark(path, "-q", "-z", "expert")
    directions = {row[0] for row in fields(path, "frame.packet_flags_direction")}
    assert {int(d, 0) for d in directions} == {1, 2}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_tshark_reads_what_run_captures(tmp_path: Path) -> None:
    path = tmp_path / "run.pcapng"
    main = [sys.executable, "-c", "from vpnstack.cli import main; main()"]
    script = "ping -c 1 -W 2 $(getent ahostsv4 host.internal | head -1 | cut -f1 -d' ')"
    done = subprocess.run(
        [*main, "run", "--capture", str(path), "--", "sh", "-c", script],
        check=False, timeout=60, capture_output=True, text=True,
    )  # fmt: skip
    assert path.stat().st_size > 100, done.stderr
    rows = fields(path, "frame.interface_name", "frame.protocols", "frame.time_epoch")
    assert {row[0] for row in rows} == {"tap0"}
    assert any("dns" in row[1] for row in rows)
    assert faults(path) == []
    assert float(rows[0][2]) > 1_600_000_000
