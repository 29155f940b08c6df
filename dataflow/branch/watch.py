"""The stream of a branch's commits: ordered, unique, without gaps, resumable, bounded.

A watch keeps a place in history, not a queue: whoever reads slowly walks the history when it comes
back.  Waking up carries no data, so a wake-up too many or too few loses nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Self

from ..store.base import Oid
from ..tree.paths import Path, parse
from .change import Change, ChangeKind, commit_change, tree_changes
from .engine import Engine
from .steps import Cursor, Piece, Position, advance
from .worker import Worker

BATCH = 64  # events made ready at once


class Watch:
    """An async iterator of `Change`; made by `Branch.watch`, ends with `aclose` or the repository.

    Cancelling a wait loses nothing; the next `anext` goes on.  One task reads at a time.
    """

    def __init__(
        self,
        engine: Engine,
        worker: Worker,
        branch: str,
        path: str | bytes = "",
        *,
        since: str | None = None,
        first_parent: bool = False,
        on_close: Callable[[Watch], object] = lambda watch: None,
    ) -> None:
        self.branch = branch
        self.wake = asyncio.Event()
        self._engine = engine
        self._worker = worker
        self._prefix: Path = parse(path)
        self._line_only = first_parent
        self._on_close = on_close
        self._position = Position(_start(engine, branch, since))
        self._todo: tuple[tuple[Oid, Cursor], ...] = ()
        self._next = 0  # of _todo
        self._ready: deque[Change] = deque()
        self._gone = False
        self._closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        while not self._ready:
            if self._closed:
                raise StopAsyncIteration
            await self._fill()
        return self._ready.popleft()

    async def _fill(self) -> None:
        self.wake.clear()
        if self._next < len(self._todo):
            todo = self._todo[self._next : self._next + BATCH]
            changes = await self._worker.read(self._events, todo)
            self._next += len(todo)
            self._ready.extend(changes)
            return
        head = await self._worker.read(self._engine.head, self.branch)
        if head is None:
            await self._missing()
        elif self._position == Position(Cursor(head)):
            self._gone = False
            await self.wake.wait()
        else:
            self._gone = False
            self._take(*await self._worker.read(self._advance, head))

    def _advance(self, head: Oid) -> tuple[Piece, tuple[Change, ...]]:
        piece = advance(self._engine.objects, self._position, head, line_only=self._line_only)
        return piece, self._cut(piece)

    def _cut(self, piece: Piece) -> tuple[Change, ...]:
        if piece.cut is None:
            return ()
        (base,) = piece.cut
        last = self._position.cursor.head
        changes = tree_changes(self._engine.objects, last, base, self._prefix)
        cursor = str(piece.position.cursor)
        return (Change(ChangeKind.CUT, self.branch, base or "", (), changes, cursor),)

    def _take(self, piece: Piece, cut: tuple[Change, ...]) -> None:
        self._position, self._todo, self._next = piece.position, piece.commits, 0
        self._ready.extend(cut)

    def _events(self, todo: tuple[tuple[Oid, Cursor], ...]) -> tuple[Change, ...]:
        objects = self._engine.objects
        made = (commit_change(objects, self.branch, o, str(c), self._prefix) for o, c in todo)
        return tuple(change for change in made if change is not None)

    async def _missing(self) -> None:
        """The branch is not there: tell once if it was, and wait until it comes."""
        if self._position.cursor.head is None or self._gone:
            await self.wake.wait()
            return
        self._gone = True
        cursor = str(self._position.cursor)
        self._ready.append(Change(ChangeKind.DELETED, self.branch, "", (), (), cursor))

    async def aclose(self) -> None:
        """End the stream: a reader that waits gets the end."""
        self.close()

    def close(self) -> None:
        """End the stream, from the loop's thread."""
        if not self._closed:
            self._closed = True
            self.wake.set()
            self._on_close(self)


def _start(engine: Engine, branch: str, since: str | None) -> Cursor:
    if since is None:
        return Cursor(engine.head(branch))
    cursor = Cursor.parse(since)
    for oid in (cursor.head, cursor.base, cursor.commit):
        if oid is not None:
            engine.check_commit(oid)
    return cursor
