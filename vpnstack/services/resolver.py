"""Questions to the host's resolvers: the servers of resolv.conf, asked as RFC 5452 wants.

Every query has its own connected socket, so the kernel picks a random source port and drops what
other addresses send; the answer must carry the random id and the very question.  A server that is
silent, refuses or fails is followed by the next; a truncated answer is asked for again over TCP.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Protocol

import dns.flags
import dns.message
import dns.rcode

from ..proto.dnsmatch import NoAnswer, matching

PORT = 53
PAYLOAD = 1232  # the EDNS size that needs no fragments anywhere (RFC 9715)
SERVERS_MAX = 3  # MAXNS of resolv.conf(5)
FILE_MAX = 65536

Server = tuple[str, int]


class Upstream(Protocol):
    """Where questions go that we cannot answer; `Resolver` is one."""

    async def query(self, question: dns.message.Message) -> tuple[dns.message.Message, bytes]:
        """Return the answer and its octets; `question.id` is replaced.  Raises `NoAnswer`."""

    def changed(self) -> bool:
        """Tell whether the servers are others than at the last call."""


@dataclass(frozen=True, slots=True)
class Config:
    """How to ask; times in seconds."""

    path: str = "/etc/resolv.conf"
    servers: tuple[Server, ...] = ()  # used in place of the file where given
    timeout: float = 2.0
    attempts: int = 2


class Watched:
    """A small text file, read again when it changed; a missing one is empty."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._stamp: tuple[int, int, int] | None = None
        self._lines: tuple[str, ...] = ()

    def read(self) -> tuple[tuple[str, ...], bool]:
        """Return the lines, and whether they may differ from those returned last."""
        try:
            info = os.stat(self.path)
            stamp = (info.st_mtime_ns, info.st_ino, info.st_size)
            if stamp == self._stamp:
                return self._lines, False
            with Path(self.path).open("rb") as file:
                text = file.read(FILE_MAX).decode("utf-8", "replace")
        except OSError:
            stamp, text = None, ""
        before, self._lines = self._lines, tuple(text.splitlines())
        self._stamp = stamp
        return self._lines, self._lines != before


class Resolver:
    """The host's resolvers."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or Config()
        self._file = Watched(self.config.path)
        self._known: tuple[Server, ...] | None = None

    def servers(self) -> tuple[Server, ...]:
        """Return the servers as of now; none without a file: then nothing is sent anywhere."""
        if self.config.servers:
            return self.config.servers
        return parse_servers(self._file.read()[0])

    def changed(self) -> bool:
        """Tell whether the servers are others than at the last call."""
        before, self._known = self._known, self.servers()
        return before is not None and before != self._known

    async def query(self, question: dns.message.Message) -> tuple[dns.message.Message, bytes]:
        """Ask the servers in turn, `attempts` times around."""
        reason = f"no nameserver in {self.config.path}"
        servers = self.servers()
        for server in servers * self.config.attempts:
            try:
                answer, wire = await self._ask(question, server)
            except (OSError, EOFError, TimeoutError) as error:
                reason = f"{server[0]}: {error or 'no answer in time'}"
                continue
            if answer.rcode() not in (dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.NOTIMP):
                return answer, wire
            reason = f"{server[0]}: {dns.rcode.to_text(answer.rcode())}"
        raise NoAnswer(f"dns: expected an answer, found none: {reason}")

    async def _ask(
        self, question: dns.message.Message, server: Server
    ) -> tuple[dns.message.Message, bytes]:
        question.id = secrets.randbelow(65536)
        async with asyncio.timeout(self.config.timeout):
            answer, wire = await ask_udp(question, server)
        if not answer.flags & dns.flags.TC:
            return answer, wire
        question.id = secrets.randbelow(65536)
        async with asyncio.timeout(self.config.timeout):
            return await ask_tcp(question, server)


def parse_servers(lines: tuple[str, ...]) -> tuple[Server, ...]:
    """Read the `nameserver` lines of resolv.conf(5); a scope such as `%eth0` stays."""
    found = list[Server]()
    for line in lines:
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            ip_address(words[1])
        except ValueError:
            continue
        found.append((words[1], PORT))
    return tuple(found[:SERVERS_MAX])


class _Exchange(asyncio.DatagramProtocol):
    """One query: resolves `done` with the first datagram that answers it."""

    def __init__(self, accept: Callable[[bytes], dns.message.Message | None]) -> None:
        self._accept = accept
        self.done: asyncio.Future[tuple[dns.message.Message, bytes]]
        self.done = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        answer = self._accept(data)
        if answer is not None and not self.done.done():
            self.done.set_result((answer, data))

    def error_received(self, exc: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(exc)


async def ask_udp(
    question: dns.message.Message, server: Server
) -> tuple[dns.message.Message, bytes]:
    """Ask `server` over UDP from a port of its own; datagrams that do not match are passed over."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(
        lambda: _Exchange(lambda wire: matching(question, wire)), remote_addr=server
    )
    try:
        transport.sendto(question.to_wire())
        return await protocol.done
    finally:
        if protocol.done.done() and not protocol.done.cancelled():
            protocol.done.exception()  # an error after the time-out is nobody's
        transport.close()


async def ask_tcp(
    question: dns.message.Message, server: Server
) -> tuple[dns.message.Message, bytes]:
    """Ask `server` over a TCP connection of its own (RFC 7766)."""
    reader, writer = await asyncio.open_connection(*server)
    try:
        wire = question.to_wire()
        writer.write(struct.pack("!H", len(wire)) + wire)
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        wire = await reader.readexactly(length)
    finally:
        writer.close()
    answer = matching(question, wire)
    if answer is None:
        raise OSError("an answer to another question over TCP")
    return answer, wire
