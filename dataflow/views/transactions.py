"""branch/<B>/transactions: a directory a transaction, with its tree and its files of control."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Sequence

from ..branch.transaction import Transaction
from ..errors import NotFoundError, UnknownCommandError
from ..p9.errors import P9Error
from ..p9.tree import Context, Directory, Entry, Node, path_id
from ..store.base import Oid
from ..tree.diff import Difference, diff
from ..tree.paths import check_name
from .base import DirsOnly, FixedDir, Hub, Lease, answers
from .files import EditFile, TextFile, command_file
from .ro import TreeDir, fixed_source
from .rw import RwDir, RwTree

_ALWAYS = ("rw", "msg", "parents", "ctl", "merge", "diff", "origin")
_MERGING = ("ours", "theirs", "base", "conflicts")

Differs = Callable[[str], Awaitable[Sequence[Difference]]]
TreeOf = Callable[[], Oid]


class TransactionsDir(DirsOnly):
    """The open transactions of a branch; mkdir opens one."""

    def __init__(self, hub: Hub, branch: str) -> None:
        self._hub = hub
        self._branch = branch
        self._qid_path = path_id("branch", branch, "transactions")

    def _node(self, name: str, lease: Lease) -> Node:
        node = lease.node
        if not isinstance(node, TransactionDir):
            node = lease.node = TransactionDir(self._hub, self._branch, name, lease)
        return node

    @answers
    async def lookup(self, name: str, ctx: Context) -> Node:
        """Return an open transaction."""
        return self._node(name, self._hub.find(self._branch, name, ctx))

    @answers
    async def entries(self, ctx: Context) -> Sequence[Entry]:
        """Return the open transactions of this branch."""
        return [
            Entry(name, self._node(name, lease).qid)
            for (branch, name), lease in self._hub.leases.items()
            if branch == self._branch
        ]

    @answers
    async def mkdir(self, name: str, mode: int, ctx: Context) -> Node:
        """Open a transaction."""
        check_name(name.encode("utf-8", "surrogateescape"))
        return self._node(name, self._hub.open(self._branch, name, ctx))

    @answers
    async def unlink(self, name: str, is_dir: bool, ctx: Context) -> None:
        """Give a transaction up (DataKit: only `close` in ctl does)."""
        self._hub.find(self._branch, name, ctx).transaction.close()

    async def rename(self, name: str, to: Directory, new_name: str, ctx: Context) -> None:
        """Refuse: a transaction keeps its name."""
        raise P9Error(errno.EPERM, "Directory is read-only")


class TransactionDir(FixedDir):
    """One transaction."""

    mode = 0o755

    def __init__(self, hub: Hub, branch: str, name: str, lease: Lease) -> None:
        self._hub = hub
        self._transaction: Transaction = lease.transaction
        self._key = ("transaction", str(lease.number))
        self._qid_path = path_id(*self._key)
        self._rw = RwTree(lease)
        self._ctl = command_file((*self._key, "ctl"), self._control)
        self._merge = command_file((*self._key, "merge"), self._merges)

    async def _control(self, command: str) -> str:
        if command == "commit":
            return (await self._transaction.commit()).head + "\n"
        if command == "close":
            self._transaction.close()
            return ""
        raise UnknownCommandError(command)

    async def _merges(self, command: str) -> str:
        return "".join(f"{path}\n" for path in await self._transaction.merge(command))

    def _names(self) -> tuple[str, ...]:
        return _ALWAYS + (_MERGING if self._transaction.theirs is not None else ())

    @answers
    async def lookup(self, name: str, ctx: Context) -> Node:
        """Return one of the fixed names."""
        if name not in self._names():
            raise NotFoundError(name)
        return self._node(name)

    @answers
    async def entries(self, ctx: Context) -> Sequence[Entry]:
        """Return the fixed names."""
        return [Entry(name, self._node(name).qid) for name in self._names()]

    def _node(self, name: str) -> Node:
        t = self._transaction
        key = (*self._key, name)
        match name:
            case "rw":
                return RwDir(self._rw)
            case "ctl":
                return self._ctl
            case "merge":
                return self._merge
            case "msg":
                return EditFile(key, lambda: t.message, lambda text: setattr(t, "message", text))
            case "parents":
                return EditFile(key, lambda: lines(t.parents), self._set_parents)
            case "diff":
                return DiffDir(self._hub, key, self._diff)
            case "origin":
                return TextFile(key, _empty)
            case "conflicts":
                return TextFile(key, self._conflicts)
        tree: Oid | None = getattr(t, name)
        return TreeDir(self._hub, "/".join((*key, tree or "")), fixed_source(tree or ""))

    def _set_parents(self, text: str) -> None:
        self._transaction.set_parents(text.split())

    async def _conflicts(self) -> bytes:
        return lines(self._transaction.conflicts).encode("utf-8", "surrogateescape")

    async def _diff(self, commit: str) -> Sequence[Difference]:
        return await self._transaction.diff(commit)


class DiffDir(Directory):
    """diff/<commit>: what differs against a commit; ls shows nothing."""

    mode = 0o555

    def __init__(self, hub: Hub, key: tuple[str, ...], differs: Differs) -> None:
        self._hub = hub
        self._key = key
        self._qid_path = path_id(*key)
        self._differs = differs

    @answers
    async def lookup(self, name: str, ctx: Context) -> Node:
        """Return the file of differences against a commit."""
        await self._hub.repo.worker.read(self._hub.repo.engine.check_commit, name)

        async def content() -> bytes:
            found = await self._differs(name)
            return lines([str(d) for d in found]).encode("utf-8", "surrogateescape")

        return TextFile((*self._key, name), content)


def tree_differs(hub: Hub, tree: TreeOf) -> Differs:
    """Return the function behind `diff/` for a tree that is asked for each time; blocking."""

    async def differs(commit: str) -> Sequence[Difference]:
        def job() -> Sequence[Difference]:
            engine = hub.repo.engine
            return tuple(diff(engine.objects, engine.tree(commit).oid, tree()))

        return await hub.repo.worker.read(job)

    return differs


def lines(items: Sequence[str]) -> str:
    """Return one item a line."""
    return "".join(f"{item}\n" for item in items)


async def _empty() -> bytes:
    return b""
