"""branch/<B>/transactions: a directory a transaction, with its tree and its files of control."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Sequence

from ..branch.engine import check_author
from ..branch.transaction import Transaction
from ..errors import NotFoundError, NotPermittedError
from ..p9.errors import P9Error
from ..p9.tree import Context, Directory, Entry, Node, path_id
from ..store.base import Oid
from ..tree.diff import Difference, diff
from ..tree.paths import check_name
from .base import DirsOnly, FixedDir, Hub, answers
from .files import EditFile, TextFile, command_file
from .lease import Lease
from .ro import TreeDir, fixed_source
from .rw import RwDir, RwTree

_ALWAYS = ("rw", "msg", "parents", "ctl", "merge", "diff", "origin", "author", "lease")
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
        return self._node(name, self._hub.leases.find(self._branch, name))

    @answers
    async def entries(self, ctx: Context) -> Sequence[Entry]:
        """Return the open transactions of this branch."""
        return [
            Entry(name, self._node(name, lease).qid)
            for name, lease in self._hub.leases.of(self._branch).items()
        ]

    @answers
    async def mkdir(self, name: str, mode: int, ctx: Context) -> Node:
        """Open a transaction."""
        check_name(name.encode("utf-8", "surrogateescape"))
        return self._node(name, self._hub.leases.open(self._branch, name, ctx))

    @answers
    async def unlink(self, name: str, is_dir: bool, ctx: Context) -> None:
        """Give a transaction up (DataKit: only `close` in ctl does)."""
        lease = self._hub.leases.find(self._branch, name)
        self._hub.leases.check(lease, ctx)
        lease.transaction.close()

    async def rename(self, name: str, to: Directory, new_name: str, ctx: Context) -> None:
        """Refuse: a transaction keeps its name."""
        raise P9Error(errno.EPERM, "Directory is read-only")


class TransactionDir(FixedDir):
    """One transaction."""

    mode = 0o755

    def __init__(self, hub: Hub, branch: str, name: str, lease: Lease) -> None:
        self._hub = hub
        self._lease = lease
        self._transaction: Transaction = lease.transaction
        self._key = ("transaction", str(lease.number))
        self._qid_path = path_id(*self._key)
        self._rw = RwTree(hub.leases, lease)
        self._author: str | None = None
        self._ctl = command_file((*self._key, "ctl"), lease.control)
        self._merge = command_file((*self._key, "merge"), self._merges)

    async def _merges(self, command: str) -> str:
        return "".join(f"{path}\n" for path in await self._transaction.merge(command))

    def _names(self) -> tuple[str, ...]:
        return _ALWAYS + (_MERGING if self._transaction.theirs is not None else ())

    @answers
    async def lookup(self, name: str, ctx: Context) -> Node:
        """Return one of the fixed names."""
        if name not in self._names():
            raise NotFoundError(name)
        if name != "lease":  # everybody may see whose it is, and that keeps nothing alive
            self._hub.leases.check(self._lease, ctx)
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
                return EditFile(key, lambda: t.message, self._set_message)
            case "author":
                return EditFile(key, self._get_author, self._set_author)
            case "lease":
                return TextFile(key, self._lease_text)
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

    def _set_message(self, text: str) -> None:
        self._lease.used()
        self._transaction.message = text

    def _set_author(self, text: str) -> None:
        """Name another author, nothing for who commits, who stays in the commit as that."""
        if not self._hub.leases.limits.set_author:
            raise NotPermittedError("the author is who commits")
        t = self._transaction
        t.author = check_author(text.strip()) if text.strip() else t.committer
        self._author = text

    def _get_author(self) -> str:
        """Return what was written, be it nothing: a shell truncates before it writes."""
        t = self._transaction
        return f"{t.author or t.engine.author}\n" if self._author is None else self._author

    async def _lease_text(self) -> bytes:
        return self._lease.text().encode("utf-8", "surrogateescape")

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
