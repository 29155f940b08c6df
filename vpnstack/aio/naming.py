"""What a host knows of names: literal addresses, hosts it was told of, and the DNS."""

from __future__ import annotations

import asyncio
import ipaddress
import random
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..errors import LinkError, UsageError
from ..proto import addrsel
from ..stack.interface import Interface
from . import stub

Info = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[str, int]]
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
VERSIONS = {0: (6, 4), int(socket.AF_INET): (4,), int(socket.AF_INET6): (6,)}


class Naming:
    """Names of one host; `known` go before the DNS, whose servers `dns_changed` replaces."""

    def __init__(
        self, net: stub.Net, interface: Interface, known: Mapping[str, Sequence[bytes]],
        rng: random.Random,
    ) -> None:  # fmt: skip
        self.stub = stub.Stub(net, [], rng)
        self.known = known
        self._interface = interface

    def dns_changed(self, servers: Sequence[bytes], search: Sequence[str]) -> None:
        """Ask these servers from now on."""
        self.stub.servers = [str(ipaddress.ip_address(addr)) for addr in servers]
        self.stub.config = replace(self.stub.config, search=tuple(search))

    def at_once(self, name: str) -> list[bytes] | None:
        """Return the addresses of a literal or of a known host; None for the DNS to say."""
        known = self.known.get(name)
        if known:
            return list(known)
        try:
            return [ipaddress.ip_address(name).packed]
        except ValueError:
            return None

    def resolve(self, name: str) -> bytes:
        """Return the first address of what `at_once` knows; raises `UsageError`."""
        found = self.at_once(name)
        if found is None:
            names = ", ".join(self.known) or "none"
            raise UsageError(f"no host {name!r}: expected an address or one of: {names}")
        return found[0]

    async def addresses(self, name: str, family: int) -> list[bytes]:
        """Return the addresses of IP version `family`; see `Stub.addresses`."""
        found = self.at_once(name)
        if found is None:
            return await self.stub.addresses(name, family)
        return [addr for addr in found if len(addr) == (4 if family == 4 else 16)]

    async def lookup(self, name: str, versions: Sequence[int] = (6, 4)) -> list[bytes]:
        """Return all addresses of `name` in the order to try them (RFC 6724).

        Raises `NameNotFound` and `NoAnswer`.
        """
        if not self.stub.servers and self.at_once(name) is None:
            self.resolve(name)
        asked = [self.addresses(name, version) for version in versions]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        found = [addr for answer in answers if isinstance(answer, list) for addr in answer]
        errors = [answer for answer in answers if isinstance(answer, BaseException)]
        serious = [e for e in errors if not isinstance(e, LinkError)]
        if serious or (errors and not found):
            raise (serious or errors)[0]
        if not found:
            raise stub.NameNotFound(f"dns: expected an address of {name!r}, found none")
        return addrsel.sort(dict.fromkeys(found), self._candidate)

    def _candidate(self, dst: bytes) -> addrsel.Candidate | None:
        src = self._interface.source_for(dst)
        return None if src is None else addrsel.Candidate(src)

    async def getaddrinfo(
        self, host: str, port: int, family: int, kind: int, proto: int
    ) -> list[Info]:
        """Return what `loop.getaddrinfo` would."""
        if family not in VERSIONS:
            raise UsageError(f"expected AF_UNSPEC, AF_INET or AF_INET6, found {family}")
        kinds = [socket.SocketKind(kind)] if kind else [socket.SOCK_STREAM, socket.SOCK_DGRAM]
        found = await self.lookup(host, VERSIONS[family])
        return [
            (FAMILIES[4 if len(a) == 4 else 6], k, proto, "", (str(ipaddress.ip_address(a)), port))
            for a in found
            for k in kinds
        ]
