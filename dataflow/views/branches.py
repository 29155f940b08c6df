"""branch/: every branch a directory; names with slashes are directories in directories."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Callable, Sequence

from ..errors import ExistsError, NotFoundError
from ..p9.errors import P9Error
from ..p9.nodes import StreamFile
from ..p9.tree import Buffer, Context, Directory, Entry, Node, Qid, path_id
from ..store.objects import EMPTY_TREE
from ..tree.paths import ROOT, Path, check_name, text
from ..tree.tree import find
from .base import DirsOnly, FixedDir, Hub, answers
from .files import TextFile, command_file, head_lines, reflog_lines, tree_lines
from .logs import LogDir, log_file
from .ro import TreeDir, commit_or_missing, head_source
from .transactions import DiffDir, TransactionsDir, tree_differs

_NAMES = (
    "head",
    "head.live",
    "reflog",
    "log.live",
    "log",
    "fast-forward",
    "ro",
    "watch",
    "transactions",
    "diff",
)
_WATCHED = ("tree.live", "log.live", "log")
Source = Callable[[Context], AsyncIterator[Buffer]]


class BranchesDir(DirsOnly):
    """The branches whose names begin with `prefix` ("" or "release/")."""

    def __init__(self, hub: Hub, prefix: str = "") -> None:
        self._hub = hub
        self._prefix = prefix
        self._qid_path = path_id("branch", prefix)

    @answers
    async def lookup(self, name: str, ctx: Context) -> Node:
        """Return a branch, or the directory of those that share this part of their names."""
        full = self._prefix + name
        names = await self._hub.branches()
        if full in names:
            return BranchDir(self._hub, full)
        if any(other.startswith(full + "/") for other in names):
            return BranchesDir(self._hub, full + "/")
        raise NotFoundError(full)

    @answers
    async def entries(self, ctx: Context) -> Sequence[Entry]:
        """Return the branches, empty ones too."""
        names = await self._hub.branches()
        below = {n[len(self._prefix) :] for n in names if n.startswith(self._prefix)}
        first = sorted({n.split("/", 1)[0] for n in below})
        return [Entry(n, self._qid(n, n in below)) for n in first]

    def _qid(self, name: str, is_branch: bool) -> Qid:
        full = self._prefix + name
        node = BranchDir(self._hub, full) if is_branch else BranchesDir(self._hub, full + "/")
        return node.qid

    @answers
    async def mkdir(self, name: str, mode: int, ctx: Context) -> Node:
        """Make a branch without commits; it is in Git from its first commit on."""
        full = self._prefix + name
        if full in await self._hub.branches():
            raise ExistsError(full)
        self._hub.make_branch(full)
        return BranchDir(self._hub, full)

    @answers
    async def unlink(self, name: str, is_dir: bool, ctx: Context) -> None:
        """Delete a branch."""
        full = self._prefix + name
        if full in self._hub.empty:
            del self._hub.empty[full]
        else:
            await self._hub.repo.branch(full).delete()

    @answers
    async def rename(self, name: str, to: Directory, new_name: str, ctx: Context) -> None:
        """Rename a branch, in one step; an existing name is refused."""
        if not isinstance(to, BranchesDir):
            raise P9Error(errno.EXDEV)
        old, new = self._prefix + name, to._prefix + new_name
        if new in await self._hub.branches():
            raise ExistsError(new)
        if old in self._hub.empty:
            self._hub.make_branch(new)
            del self._hub.empty[old]
        else:
            await self._hub.repo.branch(old).rename(new)


class BranchDir(FixedDir):
    """One branch.  While it has no commit, mkdir in it makes a branch below its name instead."""

    mode = 0o755

    def __init__(self, hub: Hub, branch: str) -> None:
        self._hub = hub
        self._branch = branch
        self._key = ("branch", branch)
        self._qid_path = path_id(*self._key)

    @answers
    async def lookup(self, name: str, ctx: Context) -> Node:
        """Return one of the fixed names."""
        if name not in _NAMES:
            return await BranchesDir(self._hub, self._branch + "/").lookup(name, ctx)
        return await self._present(name, ctx)

    @answers
    async def entries(self, ctx: Context) -> Sequence[Entry]:
        """Return the fixed names."""
        return [Entry(name, (await self._present(name, ctx)).qid) for name in _NAMES]

    async def _present(self, name: str, ctx: Context) -> Node:
        """Return the node of a fixed name, its qid with the version it has now."""
        node = self._node(name)
        if name in {"head", "ro"}:
            await node.attr(ctx)
        return node

    @answers
    async def mkdir(self, name: str, mode: int, ctx: Context) -> Node:
        """Turn an empty branch `a` into the directory of branch `a/<name>`, as mkdir -p needs."""
        if name in _NAMES:
            raise ExistsError(name)
        if self._hub.repo.branch(self._branch).head is not None:
            raise P9Error(errno.EPERM, "Directory is read-only")
        self._hub.make_branch(f"{self._branch}/{name}")
        self._hub.empty.pop(self._branch, None)
        return BranchDir(self._hub, f"{self._branch}/{name}")

    def _node(self, name: str) -> Node:
        hub, branch, key = self._hub, self._branch, (*self._key, name)
        match name:
            case "head":
                return TextFile(key, self._head)
            case "head.live":
                return stream(key, lambda ctx: head_lines(hub, branch))
            case "reflog":
                return stream(key, lambda ctx: reflog_lines(hub, branch))
            case "log.live":
                return log_file(hub, branch)
            case "log":
                return LogDir(hub, branch)
            case "fast-forward":
                return command_file(key, self._fast_forward, mode=0o200)
            case "ro":
                return TreeDir(hub, "branch/" + branch, head_source(hub, branch))
            case "watch":
                return WatchDir(hub, branch)
            case "diff":
                engine = hub.repo.engine
                differs = tree_differs(hub, lambda: engine.tree(engine.head(branch)).oid)
                return DiffDir(hub, key, differs)
        return TransactionsDir(hub, branch)

    async def _head(self) -> bytes:
        head = await self._hub.repo.worker.read(self._hub.repo.engine.head, self._branch)
        return f"{head or ''}\n".encode()

    async def _fast_forward(self, commit: str) -> str:
        repo = self._hub.repo
        if len(commit) == len(EMPTY_TREE):  # of an id that is well-formed, ENOENT if unknown
            await repo.worker.read(commit_or_missing, self._hub, commit)
        await repo.branch(self._branch).fast_forward(commit)
        return ""


class WatchDir(Directory):
    """watch/: the streams of a path, and `<name>.node` for each name below, there or not."""

    mode = 0o555

    def __init__(self, hub: Hub, branch: str, path: Path = ROOT) -> None:
        self._hub = hub
        self._branch = branch
        self._path = path
        self._qid_path = path_id("watch", branch, *path)

    @answers
    async def lookup(self, name: str, ctx: Context) -> Node:
        """Return a stream, or the directory for a name below."""
        if name in _WATCHED:
            return self._node(name)
        if not name.endswith(".node"):
            raise NotFoundError(name)
        below = check_name(name.removesuffix(".node").encode("utf-8", "surrogateescape"))
        return WatchDir(self._hub, self._branch, (*self._path, below))

    def _node(self, name: str) -> Node:
        hub, branch, path = self._hub, self._branch, self._path
        if name == "log.live":
            return log_file(hub, branch, path)
        if name == "log":
            return LogDir(hub, branch, path)
        key = ("tree.live", branch, text(path))
        return stream(key, lambda ctx: tree_lines(hub, branch, path))

    @answers
    async def entries(self, ctx: Context) -> Sequence[Entry]:
        """Return the streams and the names that are there now."""

        def job() -> list[bytes]:
            engine = self._hub.repo.engine
            root = engine.tree(engine.head(self._branch)).oid
            entry = find(engine.objects, root, self._path)
            return sorted(engine.objects.tree(entry.oid)) if entry and entry.is_dir else []

        names = await self._hub.repo.worker.read(job)
        nodes = [
            Entry(text((n,)) + ".node", WatchDir(self._hub, self._branch, (*self._path, n)).qid)
            for n in names
        ]
        return [*(Entry(name, self._node(name).qid) for name in _WATCHED), *nodes]


def stream(key: tuple[str, ...], source: Source) -> StreamFile:
    """Return a stream file with a stable qid."""
    file = StreamFile(source)
    file._qid_path = path_id(*key)
    return file
