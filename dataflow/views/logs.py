"""log.live and log/<place>: every commit a line, in order, none missing, to be resumed anywhere.

A line is `commit <place> <id>`; `cut <place> <id>` where history the reader had seen is not the
branch's any more (the id is the common ancestor, `-` if there is none, and what is new follows);
`deleted <place>` where the branch is gone.  `log/<place>` goes on behind that line, after a restart
of the reader or of the server; a commit id is a place too.  `log/all` begins at the beginning.

    while read -r kind place commit; do
        work "$commit" && echo "$place" > done.new && mv done.new done
    done < /db/branch/main/log/$(cat done 2>/dev/null || echo all)

Below watch/ the same, of the commits that change something at that path.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Self

from ..branch.change import Change
from ..branch.watch import Watch, place_of
from ..errors import InvalidHashError, NotFoundError, UsageError
from ..p9.nodes import StreamFile
from ..p9.tree import Buffer, Context, Directory, Entry, Node, path_id
from ..tree.paths import ROOT, Path, text
from .base import Hub, answers

PIECE_MAX = 1 << 16  # octets of lines handed over at once
_SINCE = {"live": None, "all": ""}


def log_line(change: Change) -> bytes:
    """Return an event as a line."""
    commit = () if change.kind.value == "deleted" else (change.commit or "-",)
    return " ".join((change.kind.value, change.cursor or "all", *commit)).encode() + b"\n"


class LogLines:
    """The lines of a watch; those that are ready come together."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Buffer:
        piece = log_line(await anext(self._watch))
        while len(piece) < PIECE_MAX and (change := self._watch.next_nowait()) is not None:
            piece += log_line(change)
        return piece

    async def aclose(self) -> None:
        """End the watch."""
        await self._watch.aclose()


def log_file(hub: Hub, branch: str, path: Path = ROOT, name: str = "live") -> StreamFile:
    """Return the file of the lines behind a place, "live" for now or "all" for the beginning."""

    def lines(ctx: Context) -> AsyncIterator[Buffer]:
        at = b"/".join(path)
        return LogLines(hub.repo.branch(branch).watch(at, since=_SINCE.get(name, name)))

    file = StreamFile(lines)
    file._qid_path = path_id("log", branch, text(path), name)
    return file


class LogDir(Directory):
    """log/: `live`, `all`, and every place by its name; ls shows the first two."""

    mode = 0o555

    def __init__(self, hub: Hub, branch: str, path: Path = ROOT) -> None:
        self._hub = hub
        self._branch = branch
        self._path = path
        self._qid_path = path_id("log", branch, *path)

    @answers
    async def lookup(self, name: str, ctx: Context) -> Node:
        """Return the file of the lines behind a place; `NotFoundError` for what is none."""
        engine = self._hub.repo.engine
        since = _SINCE.get(name, name)
        try:
            await self._hub.repo.worker.read(place_of, engine, self._branch, since)
        except (InvalidHashError, UsageError) as err:
            raise NotFoundError(str(err)) from err
        return log_file(self._hub, self._branch, self._path, name)

    @answers
    async def entries(self, ctx: Context) -> Sequence[Entry]:
        """Return `live` and `all`."""
        files = [(name, log_file(self._hub, self._branch, self._path, name)) for name in _SINCE]
        return [Entry(name, file.qid) for name, file in files]
