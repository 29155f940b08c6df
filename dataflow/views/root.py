"""The root of the served tree, and the parts of it that do not hang on a branch."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
from collections.abc import Sequence

from ..branch.repository import Repository
from ..errors import InvalidHashError, UsageError
from ..p9.errors import P9Error
from ..p9.nodes import StaticFile
from ..p9.tree import Context, Directory, Entry, Node, path_id
from ..store import objects as git
from ..store.base import Kind, Oid
from .base import Hub, NamedDir, answers
from .branches import BranchesDir
from .files import LETTERS, EditFile, TextFile
from .lease import LEASE, Limits
from .remotes import RemotesDir
from .ro import TreeDir, commit_or_missing, file_node, fixed_source
from .transactions import DiffDir, lines, tree_differs

_MODES = {letter: mode for mode, letter in LETTERS.items()}
_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "quiet": logging.CRITICAL + 1,
}
_cut: set[str] = set()  # levels that were cut to nothing: a shell truncates before it writes


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
    return NamedDir(
        ("root",),
        {
            "branch": BranchesDir(hub),
            "snapshots": SnapshotsDir(hub),
            "trees": TreesDir(hub),
            "commits": CommitsDir(hub),
            "remotes": RemotesDir(hub),
            "debug": NamedDir(("debug",), {"src": LoggersDir()}),
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


class LoggersDir(Directory):
    """debug/src: the loggers of this kit, each with its level, which can be written."""

    mode = 0o555
    _qid_path = path_id("debug", "src")

    async def lookup(self, name: str, ctx: Context) -> Node:
        """Return the directory of a logger."""
        if name not in _loggers():
            raise P9Error(errno.ENOENT)
        return debug_dir(name)

    async def entries(self, ctx: Context) -> Sequence[Entry]:
        """Return the loggers there are."""
        return [Entry(name, debug_dir(name).qid) for name in _loggers()]


def _loggers() -> list[str]:
    known = logging.Logger.manager.loggerDict
    return ["dataflow", *sorted(name for name in known if name.startswith("dataflow."))]


def debug_dir(name: str) -> Directory:
    """Return debug/src/<name>: what it logs, and its level, which can be written."""
    key = ("debug", "src", name)
    doc = StaticFile(f"everything {name} logs\n".encode())
    doc._qid_path = path_id(*key, "doc")
    level = EditFile((*key, "level"), lambda: _level(name), lambda text: _set_level(name, text))
    return NamedDir(key, {"doc": doc, "level": level})


def _level(name: str) -> str:
    if name in _cut:
        return ""
    level = logging.getLogger(name).getEffectiveLevel()
    return next((k for k, v in _LEVELS.items() if v >= level), "quiet") + "\n"


def _set_level(name: str, text: str) -> None:
    word = text.strip()
    _cut.discard(name)
    if not word:
        _cut.add(name)
        return
    if word not in _LEVELS:
        raise UsageError(f"level: expected one of {', '.join(_LEVELS)}, found {word!r}")
    logging.getLogger(name).setLevel(_LEVELS[word])
