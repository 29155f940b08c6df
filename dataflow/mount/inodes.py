"""The nodes that the kernel knows, and the fids that stand for them.

A node is known by its directory and its name, for qids say whether it is still the same thing
there, not what it is: a file that moved away and the next one of that name may share theirs.  Each
name the kernel is told of counts; FUSE_FORGET counts down, and at nothing the fid is clunked.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..fuse.const import ROOT_ID
from ..p9.tree import Qid


class Policy(enum.Enum):
    """What the kernel may keep of a place in the tree, found by the way that leads there."""

    PLAIN = enum.auto()  # nothing by the place: files with a version are kept by that
    TOP = enum.auto()  # the root of a dataflow tree
    OBJECTS = enum.auto()  # snapshots, trees, commits: what is below never changes
    FOREVER = enum.auto()
    BRANCH = enum.auto()  # branch and what is below it
    TRANSACTIONS = enum.auto()
    TRANSACTION = enum.auto()
    WORK = enum.auto()  # a transaction's rw: a file's pages may be kept until its next open

    def below(self, name: str) -> Policy:
        """Return the policy of a child of that name."""
        if self is Policy.BRANCH:
            return _IN_BRANCH.get(name, Policy.BRANCH)
        if self is Policy.TOP:
            return _IN_TOP.get(name, Policy.PLAIN)
        if self is Policy.TRANSACTION:
            return Policy.WORK if name == "rw" else Policy.PLAIN
        return _STEPS.get(self, self)

    @property
    def valid(self) -> int:
        """How many seconds the kernel may believe names and attributes."""
        return 3600 if self is Policy.FOREVER else 0


_IN_TOP = {
    "branch": Policy.BRANCH,
    "snapshots": Policy.OBJECTS,
    "trees": Policy.OBJECTS,
    "commits": Policy.OBJECTS,
}
_IN_BRANCH = {
    "transactions": Policy.TRANSACTIONS,
    "ro": Policy.PLAIN,
    "watch": Policy.PLAIN,
    "diff": Policy.PLAIN,
}
_STEPS = {Policy.OBJECTS: Policy.FOREVER, Policy.TRANSACTIONS: Policy.TRANSACTION}


class Held:
    """A fid that is clunked when it was dropped and nobody uses it any more."""

    __slots__ = ("_clunk", "_dropped", "_users", "fid")

    def __init__(self, fid: int, clunk: Callable[[int], object]) -> None:
        self.fid = fid
        self._clunk = clunk
        self._users = 0
        self._dropped = False

    @contextmanager
    def use(self) -> Iterator[int]:
        """Keep the fid for the block."""
        self._users += 1
        try:
            yield self.fid
        finally:
            self._users -= 1
            self._settle()

    def drop(self) -> None:
        """Clunk the fid as soon as it is not in use."""
        self._dropped = True
        self._settle()

    def _settle(self) -> None:
        if self._dropped and not self._users:
            self._users = -1  # once
            self._clunk(self.fid)


class Inode:
    """One node that the kernel knows."""

    __slots__ = ("held", "kept_version", "key", "lookups", "nodeid", "owners", "policy", "qid")

    def __init__(self, nodeid: int, policy: Policy, qid: Qid, held: Held) -> None:
        self.nodeid = nodeid
        self.policy = policy
        self.qid = qid
        self.held = held
        self.key: tuple[int, str] | None = None
        self.lookups = 0
        self.kept_version = 0  # of the pages that the kernel may still have
        self.owners: set[int] = set()  # who holds record locks


class Inodes:
    """All nodes that the kernel knows, by number and by name."""

    def __init__(self, root: int, qid: Qid, policy: Policy, clunk: Callable[[int], object]) -> None:
        self._clunk = clunk
        self._next = ROOT_ID
        self._by_id: dict[int, Inode] = {}
        self._by_name: dict[tuple[int, str], Inode] = {}
        self._new(policy, qid, Held(root, clunk)).lookups = 1

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, nodeid: int) -> Inode | None:
        """Return a node by its number."""
        return self._by_id.get(nodeid)

    def put(self, parent: Inode, name: str, fid: int, qid: Qid) -> Inode:
        """Count that the kernel is told of a name; the fid found there is ours from now on."""
        key = (parent.nodeid, name)
        inode = self._by_name.get(key)
        held = Held(fid, self._clunk)
        if inode is not None and (inode.qid.type, inode.qid.path) == (qid.type, qid.path):
            inode.held.drop()  # the old fid may show what was there before
            inode.held, inode.qid = held, qid
        else:
            self.unlink(parent, name)
            inode = self._new(parent.policy.below(name), qid, held)
            inode.key = key
            self._by_name[key] = inode
        inode.lookups += 1
        return inode

    def unlink(self, parent: Inode, name: str) -> None:
        """Note that a name is gone; who has the node open keeps it."""
        inode = self._by_name.pop((parent.nodeid, name), None)
        if inode is not None:
            inode.key = None

    def rename(self, parent: Inode, name: str, to: Inode, new_name: str) -> None:
        """Note that a name moved, over what was there."""
        inode = self._by_name.pop((parent.nodeid, name), None)
        self.unlink(to, new_name)
        if inode is not None:
            inode.key = (to.nodeid, new_name)
            self._by_name[inode.key] = inode

    def forget(self, nodeid: int, count: int) -> None:
        """Count down; at nothing the node is forgotten."""
        inode = self._by_id.get(nodeid)
        if inode is None or nodeid == ROOT_ID:
            return
        inode.lookups -= count
        if inode.lookups <= 0:
            del self._by_id[nodeid]
            if inode.key is not None:
                del self._by_name[inode.key]
            inode.held.drop()

    def _new(self, policy: Policy, qid: Qid, held: Held) -> Inode:
        inode = self._by_id[self._next] = Inode(self._next, policy, qid, held)
        self._next += 1
        return inode
