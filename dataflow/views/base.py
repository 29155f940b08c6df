"""What the nodes of the served tree share: the hub of state, and how errors become answers."""

from __future__ import annotations

import asyncio
import errno
import functools
import itertools
import pwd
import re
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ParamSpec, TypeVar

from ..branch.repository import Repository
from ..branch.transaction import Transaction
from ..errors import DataflowError, ExistsError, NotFoundError, UsageError
from ..p9.const import OpenFlag
from ..p9.errors import P9Error
from ..p9.nodes import StaticDir
from ..p9.tree import Context, Directory, File, Handle, Node, SessionScope, path_id

P = ParamSpec("P")
T = TypeVar("T")

TRANSACTIONS_MAX = 1024
EMPTY_BRANCHES_MAX = 4096
LEASE = 300.0  # seconds a transaction outlives the last connection that used it

_numbers = itertools.count(1)
_UNSAFE = re.compile(r"[<>\n\0]")


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


class Lease:
    """A transaction by its name, kept while a connection uses it and `LEASE` seconds longer."""

    def __init__(self, hub: Hub, transaction: Transaction) -> None:
        self.transaction = transaction
        self.times: dict[tuple[bytes, ...], int] = {}  # of files written, ns
        self.number = next(_numbers)
        self.node: Node | None = None  # the directory that shows it, kept for its control files
        self.opened_ns = hub.now_ns()
        self._hub = hub
        self._users: set[SessionScope] = set()
        self._timer: asyncio.TimerHandle | None = None

    def now_ns(self) -> int:
        """Return the present time in nanoseconds."""
        return self._hub.now_ns()

    def use(self, session: SessionScope) -> None:
        """Keep the transaction while `session` lives."""
        if session in self._users:
            return
        self._users.add(session)
        session.on_close(lambda: self._left(session))
        self.stop_timer()

    def _left(self, session: SessionScope) -> None:
        self._users.discard(session)
        if not self._users and not self.transaction.closed:
            self._timer = asyncio.get_running_loop().call_later(self._hub.lease, self._expire)

    def _expire(self) -> None:
        self.transaction.close()
        if not self.transaction.closed:  # a commit runs; if it fails, the lease runs again
            self._timer = asyncio.get_running_loop().call_later(self._hub.lease + 1, self._expire)

    def stop_timer(self) -> None:
        """Stop the clock that would close the transaction."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Hub:
    """What all connections to one repository share beside the repository itself.

    Branches made with mkdir live here until their first commit, open transactions until they end;
    both tables are bounded.
    """

    def __init__(self, repo: Repository, *, lease: float = LEASE) -> None:
        self.repo = repo
        self.lease = lease
        self.empty: dict[str, None] = {}
        self.leases: dict[tuple[str, str], Lease] = {}

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

    def open(self, branch: str, name: str, ctx: Context) -> Lease:
        """Open a transaction by name; `ExistsError`."""
        key = (branch, name)
        if key in self.leases:
            raise ExistsError(name)
        if len(self.leases) >= TRANSACTIONS_MAX:
            raise UsageError(f"more than {TRANSACTIONS_MAX} open transactions")
        transaction = self.repo.branch(branch).transaction(author=author_of(ctx))
        transaction.on_close(lambda: self._closed(key))
        lease = self.leases[key] = Lease(self, transaction)
        lease.use(ctx.session)
        return lease

    def find(self, branch: str, name: str, ctx: Context) -> Lease:
        """Return an open transaction; `NotFoundError`."""
        lease = self.leases.get((branch, name))
        if lease is None:
            raise NotFoundError(name)
        lease.use(ctx.session)
        return lease

    def _closed(self, key: tuple[str, str]) -> None:
        self.leases.pop(key).stop_timer()


def author_of(ctx: Context) -> str | None:
    """Name who attached: the user the kernel vouches for, else the name given; None if neither."""
    name = ctx.uname
    if ctx.peer.uid is not None:
        try:
            name = pwd.getpwuid(ctx.peer.uid).pw_name
        except KeyError:
            name = f"uid{ctx.peer.uid}"
    name = _UNSAFE.sub("", name).strip()
    return f"{name} <{name.replace(' ', '.')}@localhost>" if name else None
