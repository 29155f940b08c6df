"""Happy eyeballs (RFC 8305): connect to a name over whichever family works first.

Both families are asked for at once; attempts start a quarter of a second apart, the families in
turn; the first connection wins and the others are given up.  It needs a network that opens
connections and something that knows names, and nothing else of either.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..proto import addrsel

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Source = Callable[[bytes], bytes | None]


class Connector(Protocol):
    """What opens a connection to an address written as text."""

    async def open_connection(self, host: str, port: int) -> Streams:
        """Connect; raises `OSError`."""


class Names(Protocol):
    """What knows addresses."""

    async def addresses(self, name: str, family: int) -> Sequence[bytes]:
        """Return packed addresses of IP version `family`; raises `OSError` for none."""


@dataclass(frozen=True, slots=True)
class Config:
    """RFC 8305 8, in seconds."""

    resolution_delay: float = 0.05
    attempt_delay: float = 0.25


async def open_connection(
    net: Connector, names: Names, host: str, port: int, *,
    source: Source = lambda dst: None, config: Config | None = None,
) -> Streams:  # fmt: skip
    """Connect to `host` and return streams.

    `source` is our address for a destination (`Interface.source_for`) and orders them by
    RFC 6724; without it the name server's order stands, IPv6 first.  Raises the last attempt's
    `OSError`.
    """
    return await _Race(net, names, host, port, source, config or Config()).run()


class _Race:
    def __init__(
        self, net: Connector, names: Names, host: str, port: int, source: Source, config: Config
    ) -> None:
        self._net, self._names, self._host, self._port = net, names, host, port
        self._source, self._config = source, config
        self._waiting: list[bytes] = []
        self._tried: set[bytes] = set()
        self._latest = 0  # octets of the address tried last
        self._error: Exception | None = None

    async def run(self) -> Streams:
        queries: dict[asyncio.Task[Sequence[bytes]], int] = {
            asyncio.ensure_future(self._names.addresses(self._host, family)): family
            for family in (6, 4)
        }
        attempts: set[asyncio.Task[Streams]] = set()
        try:
            await self._first_answers(queries)
            return await self._connect(queries, attempts)
        finally:
            for task in (*queries, *attempts):
                task.cancel()
            await asyncio.gather(*queries, *attempts, return_exceptions=True)

    async def _first_answers(self, queries: dict[asyncio.Task[Sequence[bytes]], int]) -> None:
        """Wait for IPv6's answer, or shortly longer than for IPv4's (3)."""
        six = next(task for task, family in queries.items() if family == 6)
        while queries and not self._waiting:
            await asyncio.wait(queries, return_when=asyncio.FIRST_COMPLETED)
            if not six.done():
                await asyncio.wait([six], timeout=self._config.resolution_delay)
            self._take(queries)

    def _take(self, queries: dict[asyncio.Task[Sequence[bytes]], int]) -> None:
        """Take the answers that are there."""
        for task in [task for task in queries if task.done()]:
            del queries[task]
            try:
                fresh = task.result()
            except Exception as e:
                self._error = e
            else:
                self._waiting += [a for a in fresh if a not in self._tried]
                self._waiting = self._ordered(self._waiting)

    def _ordered(self, addresses: list[bytes]) -> list[bytes]:
        """Sort by RFC 6724, then let the families take turns (4)."""
        ordered = addrsel.sort(dict.fromkeys(addresses), self._candidate)
        if not any(map(self._source, ordered)):
            ordered.sort(key=len, reverse=True)
        if not ordered:
            return []
        first = [a for a in ordered if len(a) == len(ordered[0])]
        other = [a for a in ordered if len(a) != len(ordered[0])]
        if other and len(first[0]) == self._latest:
            first, other = other, first
        turns = itertools.chain.from_iterable(itertools.zip_longest(first, other))
        return [a for a in turns if a is not None]

    def _candidate(self, dst: bytes) -> addrsel.Candidate | None:
        src = self._source(dst)
        return None if src is None else addrsel.Candidate(src)

    async def _connect(
        self, queries: dict[asyncio.Task[Sequence[bytes]], int],
        attempts: set[asyncio.Task[Streams]],
    ) -> Streams:  # fmt: skip
        while self._waiting or attempts or queries:
            if self._waiting:
                addr = self._waiting.pop(0)
                self._tried.add(addr)
                self._latest = len(addr)
                text = str(ipaddress.ip_address(addr))
                attempts.add(asyncio.ensure_future(self._net.open_connection(text, self._port)))
            delay = self._config.attempt_delay if self._waiting else None
            events: set[asyncio.Task[object]] = {*attempts, *queries}
            await asyncio.wait(events, timeout=delay, return_when=asyncio.FIRST_COMPLETED)
            winner = self._finished(attempts)
            if winner is not None:
                return winner
            self._take(queries)
        raise self._error or OSError(f"no address of {self._host} could be tried")

    def _finished(self, attempts: set[asyncio.Task[Streams]]) -> Streams | None:
        """Return the first connection there is; a second one that came with it is closed."""
        winner: Streams | None = None
        for task in [task for task in attempts if task.done()]:
            attempts.discard(task)
            try:
                streams = task.result()
            except Exception as e:
                self._error = e
                continue
            if winner is None:
                winner = streams
            else:
                streams[1].close()
        return winner
