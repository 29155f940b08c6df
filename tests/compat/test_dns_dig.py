"""The DNS forwarder asked by `dig`, with a real upstream on loopback behind it."""

from __future__ import annotations

import asyncio
import shutil
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import dns.message
import dns.rrset
import pytest

from vpnstack.services.dns import Forwarder
from vpnstack.services.resolver import Config, Resolver

pytestmark = [
    pytest.mark.compat,
    pytest.mark.skipif(shutil.which("dig") is None, reason="needs dig (bind9-dnsutils)"),
]

V4, V6 = b"\xc0\xa8\x7f\xfe", bytes.fromhex("fd0001270000000000000000000000fe")
OWN = {"host.internal": (V4, V6)}


def upstream_answer(wire: bytes, tcp: bool) -> bytes:
    """A tiny server: `big.example` has 60 addresses, everything else one; UDP truncates."""
    query = dns.message.from_wire(wire)
    asked = query.question[0]
    answer = dns.message.make_response(query, recursion_available=True)
    count = 60 if asked.name.to_text() == "big.example." else 1
    texts = [f"192.0.2.{i + 1}" for i in range(count)]
    if asked.rdtype == 1:
        answer.answer = [dns.rrset.from_text_list(asked.name, 60, "IN", "A", texts)]
    size = 65535 if tcp else 512
    return answer.to_wire(max_size=size, prefer_truncation=True)


class Udp(asyncio.DatagramProtocol):
    """Serves what an async callable answers."""

    def __init__(self, answer: Forwarder | None) -> None:
        self.answer = answer
        self.tasks = set[asyncio.Task[None]]()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        task = asyncio.get_running_loop().create_task(self.reply(data, addr))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def reply(self, data: bytes, addr: tuple[str, int]) -> None:
        wire = await respond(self.answer, data, tcp=False)
        if wire is not None:
            self.transport.sendto(wire, addr)


async def respond(answer: Forwarder | None, data: bytes, *, tcp: bool) -> bytes | None:
    return upstream_answer(data, tcp) if answer is None else await answer.answer(data, tcp=tcp)


@asynccontextmanager
async def serve(answer: Forwarder | None) -> AsyncIterator[tuple[str, int]]:
    async def on_tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        wire = await respond(answer, await reader.readexactly(length), tcp=True)
        writer.write(struct.pack("!H", len(wire or b"")) + (wire or b""))
        writer.close()

    tcp = await asyncio.start_server(on_tcp, "127.0.0.1", 0)
    address = tcp.sockets[0].getsockname()
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: Udp(answer), local_addr=address
    )
    try:
        yield address
    finally:
        transport.close()
        tcp.close()
        await tcp.wait_closed()


async def dig(*args: str) -> str:
    async with serve(None) as upstream:
        forwarder = Forwarder(OWN, Resolver(Config(servers=(upstream,))), hosts=None)
        async with serve(forwarder) as (host, port):
            process = await asyncio.create_subprocess_exec(
                "dig", f"@{host}", "-p", str(port), "+tries=1", "+time=5", *args,
                stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            out, _ = await process.communicate()
        await forwarder.close()
    assert process.returncode == 0
    assert b"Warning" not in out
    assert b"malformed" not in out
    return out.decode()


async def test_own_name_both_families_and_pointer() -> None:
    assert await dig("+short", "host.internal", "A") == "192.168.127.254\n"
    assert await dig("+short", "host.internal", "AAAA") == "fd00:127::fe\n"
    assert await dig("+short", "-x", "192.168.127.254") == "host.internal.\n"


async def test_wrong_type_is_noerror_and_empty() -> None:
    out = await dig("host.internal", "MX")
    assert "status: NOERROR" in out
    assert "ANSWER: 0" in out


async def test_upstream_name() -> None:
    assert await dig("+short", "a.example") == "192.0.2.1\n"


async def test_big_answer_goes_to_tcp_by_itself() -> None:
    out = await dig("+noedns", "big.example")
    assert "ANSWER: 60" in out
    assert "(TCP)" in out or "Truncated" in out


async def test_big_answer_fits_into_edns() -> None:
    out = await dig("+bufsize=1232", "+ignore", "big.example")
    assert "ANSWER: 60" in out
    assert "(UDP)" in out


async def test_tcp_cookie_and_dnssec_bits_do_not_disturb() -> None:
    out = await dig("+tcp", "+cookie", "+dnssec", "+cd", "a.example")
    assert "status: NOERROR" in out
    assert "192.0.2.1" in out


async def test_edns_version_is_negotiated() -> None:
    assert "status: BADVERS" in await dig("+edns=1", "+noednsnegotiation", "a.example")
    assert "status: NOERROR" in await dig("+edns=1", "a.example")
