"""What the nodes of the served tree share: the hub of state, and how errors become answers."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ParamSpec, TypeVar

from ..branch.repository import Repository
from ..errors import DataflowError, UsageError
from ..p9.const import OpenFlag
from ..p9.errors import P9Error
from ..p9.nodes import StaticDir
from ..p9.tree import Context, Directory, File, Handle, Node, path_id
from .lease import Leases, Limits

P = ParamSpec("P")
T = TypeVar("T")

EMPTY_BRANCHES_MAX = 4096


def answers(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Turn what dataflow raises into the answer a 9P client gets: its errno and its text."""

    @functools.wraps(method)
    async def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await method(*args, **kwargs)
        except DataflowError as err:
            raise P9Error(err.errno, str(err)) from err

    return wrapped


class DirsOnly(Directory):
    """A directory that only mkdir can add to."""

    mode = 0o755

    async def create(self, name: str, flags: int, mode: int, ctx: Context) -> tuple[Node, Handle]:
        """Refuse a file."""
        raise P9Error(errno.EPERM, "Can only contain directories")

    async def symlink(self, name: str, target: str, ctx: Context) -> Node:
        """Refuse a link."""
        raise P9Error(errno.EPERM, "Can only contain directories")


class FixedDir(Directory):
    """A directory whose files exist by themselves: creating one opens it, as `>` in shells asks."""

    mode = 0o755

    async def create(self, name: str, flags: int, mode: int, ctx: Context) -> tuple[Node, Handle]:
        """Open the file of that name; EPERM if there is none."""
        try:
            node = await self.lookup(name, ctx)
        except P9Error as err:
            raise P9Error(errno.EPERM, "Directory is read-only") from err
        if flags & OpenFlag.EXCL:
            raise P9Error(errno.EEXIST, "Already exists")
        if not isinstance(node, File):
            raise P9Error(errno.EISDIR, "Is a directory")
        return node, await node.open(flags & ~OpenFlag.CREAT, ctx)


class NamedDir(FixedDir, StaticDir):
    """A `StaticDir` with a stable number."""

    def __init__(self, key: tuple[str, ...], children: Mapping[str, Node]) -> None:
        super().__init__(children)
        self._qid_path = path_id(*key)


class Hub:
    """What all connections to one repository share beside the repository itself.

    Branches made with mkdir live here until their first commit, open transactions until they end;
    both tables are bounded.
    """

    def __init__(self, repo: Repository, limits: Limits | None = None) -> None:
        self.repo = repo
        self.empty: dict[str, None] = {}
        self.leases = Leases(repo, limits or Limits())

    def now_ns(self) -> int:
        """Return the present time in nanoseconds, by the repository's clock."""
        return int(self.repo.engine.clock() * 1e9)

    async def branches(self) -> set[str]:
        """Return the names of all branches, empty ones too."""
        found = await self.repo.branches()
        for name in [name for name in self.empty if name in found]:
            del self.empty[name]
        return {*found, *self.empty}

    def make_branch(self, name: str) -> None:
        """Make a branch without commits."""
        self.repo.branch(name)  # checks the name
        if len(self.empty) >= EMPTY_BRANCHES_MAX:
            raise UsageError(f"more than {EMPTY_BRANCHES_MAX} branches without commits")
        self.empty[name] = None
