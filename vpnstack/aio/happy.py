"""Happy eyeballs (RFC 8305): connect to a name over whichever family works first.

Both families are asked for at once; attempts start a quarter of a second apart, the families in
turn; the first connection wins and the others are given up.  It needs something that connects to
an address and something that knows names, and nothing else of either.

asyncio makes one protocol for a connection, whatever was tried for it: attempts are held by a
`Waiting`, and the winner gets its protocol with `adopt`.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from ..proto import addrsel

T = TypeVar("T")
P = TypeVar("P", bound=asyncio.BaseProtocol)
Source = Callable[[bytes], bytes | None]
Open = Callable[[bytes], Coroutine[Any, Any, T]]


class Names(Protocol):
    """What knows addresses."""

    async def addresses(self, name: str, family: int) -> Sequence[bytes]:
        """Return packed addresses of IP version `family`; raises `OSError` for none."""


@dataclass(frozen=True, slots=True)
class Config:
    """RFC 8305 8, in seconds."""

    resolution_delay: float = 0.05
    attempt_delay: float = 0.25


async def connect(
    open: Open[T], names: Names, host: str, *, discard: Callable[[T], None],
    source: Source = lambda dst: None, config: Config | None = None,
) -> T:  # fmt: skip
    """Return what `open` makes of the first address of `host` that lets us in.

    `open` raises `OSError`; `discard` ends a connection that came second.  `source` is our address
    for a destination (`Interface.source_for`) and orders them by RFC 6724; without it the name
    server's order stands, IPv6 first.  Raises the last attempt's `OSError`.
    """
    return await _Race(open, names, host, discard, source, config or Config()).run()


class Waiting(asyncio.Protocol):
    """Holds a connection that may still lose the race: nothing of it is read."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close the window."""
        assert isinstance(transport, asyncio.ReadTransport)
        transport.pause_reading()


def adopt(transport: asyncio.Transport, factory: Callable[[], P]) -> P:
    """Give the connection of a `Waiting` to the protocol that `factory` makes; returns it."""
    if transport.is_closing():
        raise ConnectionResetError(errno.ECONNRESET, "the peer reset the connection")
    try:
        protocol = factory()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
    except BaseException:
        transport.abort()
        raise
    transport.resume_reading()
    return protocol


class _Race(Generic[T]):
    def __init__(
        self, open: Open[T], names: Names, host: str, discard: Callable[[T], None],
        source: Source, config: Config,
    ) -> None:  # fmt: skip
        self._open, self._names, self._host, self._discard = open, names, host, discard
        self._source, self._config = source, config
        self._waiting: list[bytes] = []
        self._tried: set[bytes] = set()
        self._latest = 0  # octets of the address tried last
        self._error: Exception | None = None

    async def run(self) -> T:
        queries: dict[asyncio.Task[Sequence[bytes]], int] = {
            asyncio.ensure_future(self._names.addresses(self._host, family)): family
            for family in (6, 4)
        }
        attempts: set[asyncio.Task[T]] = set()
        try:
            await self._first_answers(queries)
            return await self._connect(queries, attempts)
        finally:
            for task in (*queries, *attempts):
                task.cancel()
            await asyncio.gather(*queries, return_exceptions=True)
            for late in await asyncio.gather(*attempts, return_exceptions=True):
                if not isinstance(late, BaseException):
                    self._discard(late)

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
        attempts: set[asyncio.Task[T]],
    ) -> T:  # fmt: skip
        while self._waiting or attempts or queries:
            if self._waiting:
                addr = self._waiting.pop(0)
                self._tried.add(addr)
                self._latest = len(addr)
                attempts.add(asyncio.ensure_future(self._open(addr)))
            delay = self._config.attempt_delay if self._waiting else None
            events: set[asyncio.Task[object]] = {*attempts, *queries}
            await asyncio.wait(events, timeout=delay, return_when=asyncio.FIRST_COMPLETED)
            winner = self._finished(attempts)
            if winner is not None:
                return winner
            self._take(queries)
        raise self._error or OSError(f"no address of {self._host} could be tried")

    def _finished(self, attempts: set[asyncio.Task[T]]) -> T | None:
        """Return the first connection there is; a second one that came with it is closed."""
        winner: T | None = None
        for task in [task for task in attempts if task.done()]:
            attempts.discard(task)
            try:
                found = task.result()
            except Exception as e:
                self._error = e
                continue
            if winner is None:
                winner = found
            else:
                self._discard(found)
        return winner
