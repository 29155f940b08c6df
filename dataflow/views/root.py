"""The root of the served tree, and the parts of it that do not hang on a branch."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
from collections.abc import Sequence

from ..branch.repository import Repository
from ..errors import ExistsError, InvalidHashError, NotFoundError, UsageError
from ..p9.errors import P9Error
from ..p9.nodes import StaticFile
from ..p9.tree import Context, Directory, Entry, Node
from ..store import objects as git
from ..store.base import Kind, Oid
from .base import Hub, NamedDir, answers
from .branches import BranchesDir
from .files import LETTERS, EditFile, TextFile
from .lease import LEASE, Limits
from .ro import TreeDir, file_node, fixed_source
from .transactions import DiffDir, lines, tree_differs

REMOTES_MAX = 256
_MODES = {letter: mode for mode, letter in LETTERS.items()}
_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "quiet": logging.CRITICAL + 1,
}


def repository_root(
    repo: Repository, *, lease: float = LEASE, limits: Limits | None = None
) -> Node:
    """Return the root of the tree that 9P clients of `repo` see: `Server(repository_root(repo))`.

    The tree is DataKit's, plus nested branch names and branch/B/diff.  A transaction outlives the
    last connection that used it by `lease` seconds; `limits` says that and more.
    """
    hub = Hub(repo, limits or Limits(lease=lease))
    with contextlib.suppress(RuntimeError):  # no loop runs: at the first use, then
        asyncio.get_running_loop()
        hub.leases.restore()
    debug = {"dataflow": debug_dir("dataflow")}
    return NamedDir(
        ("root",),
        {
            "branch": BranchesDir(hub),
            "snapshots": SnapshotsDir(hub),
            "trees": TreesDir(hub),
            "commits": CommitsDir(hub),
            "remotes": RemotesDir(hub),
            "debug": NamedDir(("debug",), {"src": NamedDir(("src",), debug)}),
        },
    )


class SnapshotsDir(Directory):
    """snapshots/<commit>: any commit's tree and what it says; ls shows nothing."""

    mode = 0o555

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    @answers
    async def lookup(self, name: str, ctx: Context) -> Node:
        """Return the directory of a commit."""
        repo = self._hub.repo
        commit = await repo.worker.read(commit_or_missing, self._hub, name)
        key = ("snapshots", name)
        return NamedDir(
            key,
            {
                "ro": TreeDir(
                    self._hub, commit.tree, fixed_source(commit.tree, commit.commit_time)
                ),
                "hash": StaticFile(f"{name}\n".encode()),
                "msg": StaticFile(commit.message.encode("utf-8", "surrogateescape")),
                "parents": StaticFile(lines(commit.parents).encode()),
                "diff": DiffDir(
                    self._hub, (*key, "diff"), tree_differs(self._hub, lambda: commit.tree)
                ),
            },
        )


class CommitsDir(Directory):
    """commits/<commit>: a commit as JSON; ls shows nothing."""

    mode = 0o555

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    @answers
    async def lookup(self, name: str, ctx: Context) -> Node:
        """Return the file of a commit."""
        commit = await self._hub.repo.worker.read(commit_or_missing, self._hub, name)

        async def content() -> bytes:
            return (json.dumps(commit_json(commit)) + "\n").encode()

        return TextFile(("commits", name), content)


class TreesDir(Directory):
    """trees/<letter>-<id>: what `tree.live` names, by its id; ls shows nothing."""

    mode = 0o555

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    @answers
    async def lookup(self, name: str, ctx: Context) -> Node:
        """Return the directory, file or link of that id."""
        return await self._hub.repo.worker.read(self._find, name)

    def _find(self, name: str) -> Node:
        letter, _, oid = name.partition("-")
        engine = self._hub.repo.engine
        if letter not in _MODES:
            raise InvalidHashError(name)
        mode = _MODES[letter]
        if oid != git.EMPTY_TREE or mode != git.DIRECTORY:
            wanted = Kind.TREE if mode == git.DIRECTORY else Kind.BLOB
            if engine.kind(oid) is not wanted:
                raise InvalidHashError(name)
        if mode == git.DIRECTORY:
            return TreeDir(self._hub, "trees/" + name, fixed_source(oid))
        return file_node(self._hub, ("trees", name), git.Entry(mode, oid), 0)


class RemotesDir(Directory):
    """remotes/<R>/url: names for other repositories, in memory for now; fetch is not there yet."""

    mode = 0o755

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def _node(self, name: str) -> Node:
        remotes = self._hub.remotes

        async def head() -> bytes:
            return b"\n"

        key = ("remotes", name)
        return NamedDir(
            key,
            {
                "url": EditFile(
                    (*key, "url"),
                    lambda: remotes.get(name, ""),
                    lambda text: remotes.__setitem__(name, text),
                ),
                "head": TextFile((*key, "head"), head),
            },
        )

    @answers
    async def lookup(self, name: str, ctx: Context) -> Node:
        """Return a remote."""
        if name not in self._hub.remotes:
            raise NotFoundError(name)
        return self._node(name)

    @answers
    async def entries(self, ctx: Context) -> Sequence[Entry]:
        """Return the remotes."""
        return [Entry(name, self._node(name).qid) for name in self._hub.remotes]

    @answers
    async def mkdir(self, name: str, mode: int, ctx: Context) -> Node:
        """Add a remote."""
        if name in self._hub.remotes:
            raise ExistsError(name)
        if len(self._hub.remotes) >= REMOTES_MAX:
            raise UsageError(f"more than {REMOTES_MAX} remotes")
        self._hub.remotes[name] = ""
        return self._node(name)

    @answers
    async def unlink(self, name: str, is_dir: bool, ctx: Context) -> None:
        """Remove a remote."""
        if self._hub.remotes.pop(name, None) is None:
            raise NotFoundError(name)

    @answers
    async def rename(self, name: str, to: Directory, new_name: str, ctx: Context) -> None:
        """Rename a remote."""
        if to is not self:
            raise P9Error(errno.EXDEV)
        if new_name in self._hub.remotes:
            raise ExistsError(new_name)
        self._hub.remotes[new_name] = self._hub.remotes.pop(name)


def commit_or_missing(hub: Hub, name: str) -> git.Commit:
    """Return a commit; `NotFoundError` for what is none, as a walk wants it.  Blocking."""
    try:
        return hub.repo.engine.objects.commit(hub.repo.engine.check_commit(name))
    except InvalidHashError as err:
        raise NotFoundError(str(err)) from err


def commit_json(commit: git.Commit) -> dict[str, Oid | int | list[Oid]]:
    """Return a commit as JSON has it."""
    return {
        "commit": commit.oid,
        "tree": commit.tree,
        "parents": list(commit.parents),
        "author": commit.author,
        "time": commit.author_time,
        "message": commit.message,
    }


def debug_dir(name: str) -> Directory:
    """Return debug/src/<name>: what it logs, and its level, which can be written."""
    logger = logging.getLogger(name)

    cut: list[bool] = []

    def get() -> str:
        if cut:
            return ""
        level = logger.getEffectiveLevel()
        return next((k for k, v in _LEVELS.items() if v >= level), "quiet") + "\n"

    def put(text: str) -> None:
        word = text.strip()
        cut.clear()
        if not word:
            cut.append(True)  # a shell truncates before it writes
            return
        if word not in _LEVELS:
            raise UsageError(f"level: expected one of {', '.join(_LEVELS)}, found {word!r}")
        logger.setLevel(_LEVELS[word])

    key = ("debug", "src", name)
    doc = StaticFile(f"everything {name} logs\n".encode())
    return NamedDir(key, {"doc": doc, "level": EditFile((*key, "level"), get, put)})
