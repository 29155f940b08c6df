"""A repository served over 9P, through its file tree."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from ..aio.client import Client
from ..errors import (
    DataflowError,
    ExistsError,
    IsDirectoryError,
    MergeConflictError,
    NotDirectoryError,
    NotEmptyError,
    NotFoundError,
    UsageError,
)
from ..p9.const import OpenFlag
from ..p9.errors import P9Error
from ..p9.tree import SetAttr
from ..tree.paths import parse, text
from .trees import Commit, Detail, Edit, MakeDir, Move, Name, Put, Remove, Result, Shown

_HASH = re.compile("[0-9a-f]{40}")
_FIXED = frozenset(("head", "head.live", "ro", "transactions"))
_STATUS = {"+": "A", "-": "D", "*": "M"}
_TYPES = {"D": "dir", "F": "file", "X": "executable", "L": "link"}
_ERRORS = {
    errno.ENOENT: NotFoundError,
    errno.EISDIR: IsDirectoryError,
    errno.ENOTDIR: NotDirectoryError,
    errno.EEXIST: ExistsError,
    errno.ENOTEMPTY: NotEmptyError,
}


class RemoteTree:
    """See `trees.Tree`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def _ro(self, at: str, path: str) -> str:
        base = f"snapshots/{at}" if _HASH.fullmatch(at) else f"branch/{at}"
        return f"{base}/ro/{text(parse(path))}".rstrip("/")

    async def names(self, at: str, path: str) -> Sequence[Name]:
        """List a directory."""
        await self._resolve(at)
        where = self._ro(at, path)
        with _named(path):
            names = sorted(await self._client.listdir(where))
        return [Name(n, _kind((await self._client.stat(f"{where}/{n}")).mode)) for n in names]

    async def read(self, at: str, path: str) -> bytes:
        """Return a file's octets."""
        await self._resolve(at)
        with _named(path):
            return await self._client.read(self._ro(at, path))

    async def stat(self, at: str, path: str) -> dict[str, Any]:
        """Tell what is at a path; the object's id is known of branches only."""
        await self._resolve(at)
        with _named(path):
            found = await self._client.stat(self._ro(at, path))
        told = {"path": path, "type": _kind(found.mode), "id": None, "size": found.size}
        if not _HASH.fullmatch(at):
            nodes = "".join(f"{n.decode(errors='surrogateescape')}.node/" for n in parse(path))
            line = (await self._first_line(f"branch/{at}/watch/{nodes}tree.live")).partition("-")
            told.update(type=_TYPES.get(line[0], told["type"]), id=line[2] or None)
        return told

    async def edit(self, branch: str, message: str, edits: Sequence[Edit]) -> Result:
        """Do all edits in one commit."""
        async with self._transaction(branch, message) as t:
            for edit in edits:
                await self._apply(f"{t}/rw", edit)
            return await self._commit(branch, t)

    async def merge(self, branch: str, other: str, message: str) -> Result:
        """Merge a branch or a commit into a branch; forward where that is enough."""
        theirs = await self._resolve(other)
        with contextlib.suppress(P9Error):
            if not message:
                await self._forward(branch, theirs)
                return Result(theirs, theirs)
        async with self._transaction(branch, message or "Merge") as t:
            await self._client.write(f"{t}/merge", theirs.encode())
            conflicts = (await self._client.read(f"{t}/conflicts")).decode().split("\n")[:-1]
            if conflicts:
                raise MergeConflictError(tuple(conflicts), "Changed on both branches")
            return await self._commit(branch, t)

    async def log(self, at: str, limit: int | None, path: str) -> AsyncIterator[Commit]:
        """Yield the own line of commits, newest first; a path is refused: it would walk it all."""
        if path:
            raise UsageError("log PATH walks history where it is: expected --git DIR")
        oid = await self._resolve(at)
        while oid and limit != 0:
            c = json.loads(await self._client.read(f"commits/{oid}"))
            parents = c["parents"]
            yield Commit(oid, c["tree"], parents, c["author"], c["time"], c["message"])
            oid = parents[0] if parents else ""
            limit = None if limit is None else limit - 1

    async def diff(self, old: str, new: str, path: str) -> Sequence[tuple[str, str]]:
        """Return (status, path) of the files that differ."""
        a, b = await self._resolve(old), await self._resolve(new)
        lines = (await self._client.read(f"snapshots/{b}/diff/{a}")).decode(
            "utf-8", "surrogateescape"
        )
        found = [(_STATUS.get(line[:1], "M"), line[2:]) for line in lines.split("\n")[:-1]]
        return [(status, name) for status, name in found if _below(name, text(parse(path)))]

    async def deltas(
        self, old: str, new: str, path: str, renames: bool, detail: Detail
    ) -> Sequence[Shown]:
        """Refuse: a server tells names only."""
        raise UsageError("diff -M, --stat and -p read the objects: expected --git DIR")

    async def branches(self) -> dict[str, str]:
        """Return all branches with their heads."""
        return {name: await self._head(name) async for name in self._walk_branches("")}

    async def _walk_branches(self, prefix: str) -> AsyncIterator[str]:
        for name in sorted(await self._client.listdir(f"branch/{prefix}")):
            full = prefix + name
            inside = set(await self._client.listdir(f"branch/{full}"))
            if inside >= _FIXED:
                yield full
            else:
                async for below in self._walk_branches(full + "/"):
                    yield below

    async def make_branch(self, name: str, start: str) -> str:
        """Make a branch, or move it forward."""
        target = await self._resolve(start)
        await self._make(name)
        try:
            await self._forward(name, target)
        except P9Error as err:
            bad = f"not-fast-forward: {name} is at {await self._head(name)}, {target} does not "
            raise UsageError(bad + "contain it") from err
        return target

    async def delete_branch(self, name: str) -> None:
        """Delete a branch."""
        with _named(f"branch {name}"):
            await self._client.remove(f"branch/{name}")

    async def rename_branch(self, old: str, new: str) -> None:
        """Rename a branch."""
        with _named(f"branch {old}"):
            await self._client.rename(f"branch/{old}", f"branch/{new}")

    async def watch(
        self, branch: str, path: str, since: str | None
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield every commit that changes the path, from the lossless log of the tree."""
        nodes = "".join(f"{n.decode(errors='surrogateescape')}.node/" for n in parse(path))
        place = "live" if since is None else since or "all"
        await self._make(branch)
        with _named(f"--since {place}"):
            log = await self._client.open(f"branch/{branch}/watch/{nodes}log/{place}")
        async with log:
            rest = b""
            async for piece in log.follow():
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    kind, cursor, commit = f"{line.decode()}  ".split(" ")[:3]
                    told = await self._change(commit, path) if kind == "commit" else {}
                    head = {"kind": kind, "commit": commit.strip("-"), "paths": []}
                    yield {**head, **told, "cursor": cursor}

    async def _change(self, oid: str, path: str) -> dict[str, Any]:
        c = json.loads(await self._client.read(f"commits/{oid}"))
        if c["parents"]:
            paths = [name for _, name in await self.diff(c["parents"][0], oid, path)]
        else:
            paths = [name async for name in self._files(f"snapshots/{oid}/ro", "")]
            paths = [name for name in paths if _below(name, text(parse(path)))]
        return {**c, "paths": paths}

    async def _files(self, top: str, path: str) -> AsyncIterator[str]:
        for name in sorted(await self._client.listdir(f"{top}/{path}")):
            if stat.S_ISDIR((await self._client.stat(f"{top}/{path}{name}")).mode):
                async for below in self._files(top, f"{path}{name}/"):
                    yield below
            else:
                yield path + name

    async def transactions(self) -> Sequence[dict[str, Any]]:
        """Return the open transactions."""
        found: list[dict[str, Any]] = []
        async for branch in self._walk_branches(""):
            for name in await self._client.listdir(f"branch/{branch}/transactions"):
                t = f"branch/{branch}/transactions/{name}"
                message = (await self._client.read(f"{t}/msg")).decode(errors="surrogateescape")
                parents = (await self._client.read(f"{t}/parents")).decode().split()
                what = {"branch": branch, "name": name, "message": message, "parents": parents}
                found.append(what)
        return found

    async def _resolve(self, name: str) -> str:
        if _HASH.fullmatch(name):
            with _named(f"commit {name}"):
                await self._client.stat(f"snapshots/{name}")
            return name
        head = await self._head(name)
        if not head:
            raise NotFoundError(f"branch {name}")
        return head

    async def _head(self, branch: str) -> str:
        with _named(f"branch {branch}"):
            return (await self._client.read(f"branch/{branch}/head")).decode().strip()

    async def _forward(self, branch: str, commit: str) -> None:
        async with await self._client.open(
            f"branch/{branch}/fast-forward", OpenFlag.WRONLY
        ) as file:
            await file.write(0, commit.encode())

    async def _make(self, branch: str) -> None:
        """Make a branch if it is not there, and what stands above it."""
        parts = branch.split("/")
        for i in range(len(parts)):
            await self._ensure("branch/" + "/".join(parts[: i + 1]))

    async def _ensure(self, path: str) -> None:
        try:
            await self._client.stat(path)
        except P9Error as err:
            if err.errno != errno.ENOENT:
                raise
            await self._client.mkdir(path)

    @contextlib.asynccontextmanager
    async def _transaction(self, branch: str, message: str) -> AsyncIterator[str]:
        await self._make(branch)
        t = f"branch/{branch}/transactions/{os.getpid()}-{os.urandom(4).hex()}"
        await self._client.mkdir(t)
        try:
            await self._client.write(f"{t}/msg", message.encode("utf-8", "surrogateescape"))
            yield t
        except BaseException:
            with contextlib.suppress(P9Error):
                await self._client.command(f"{t}/ctl", "close")
            raise

    async def _commit(self, branch: str, t: str) -> Result:
        try:
            head = (await self._client.command(f"{t}/ctl", "commit")).decode().strip()
        except P9Error as err:
            said = (await self._client.read(f"{t}/ctl")).decode(errors="surrogateescape").strip()
            conflict = re.fullmatch(r"Merge conflict: (.*) \((.*)\)", said)
            if conflict:
                raise MergeConflictError((conflict[2],), conflict[1]) from err
            raise UsageError(said or err.text) from err
        return Result(head, head)

    async def _apply(self, rw: str, edit: Edit) -> None:
        if isinstance(edit, Put):
            await self._put(rw, edit)
        elif isinstance(edit, Remove):
            with _named(edit.path):
                await self._remove(f"{rw}/{text(parse(edit.path))}", edit.recursive)
        elif isinstance(edit, Move):
            await self._parents(rw, edit.new)
            with _named(edit.old):
                old, new = text(parse(edit.old)), text(parse(edit.new))
                await self._client.rename(f"{rw}/{old}", f"{rw}/{new}")
        elif isinstance(edit, MakeDir):
            await self._put(rw, Put(f"{text(parse(edit.path))}/.gitkeep", b""))

    async def _put(self, rw: str, edit: Put) -> None:
        path = text(parse(edit.path))
        await self._parents(rw, path)
        with _named(edit.path):
            await self._client.write(f"{rw}/{path}", edit.data)
            if edit.executable is not None:
                change = SetAttr(mode=0o755 if edit.executable else 0o644)
                await self._client.setattr(f"{rw}/{path}", change)

    async def _parents(self, rw: str, path: str) -> None:
        parts = text(parse(path)).split("/")[:-1]
        for i in range(len(parts)):
            with _named("/".join(parts[: i + 1])):
                await self._ensure("/".join([rw, *parts[: i + 1]]))

    async def _remove(self, path: str, recursive: bool) -> None:
        if recursive and stat.S_ISDIR((await self._client.stat(path)).mode):
            for name in await self._client.listdir(path):
                await self._remove(f"{path}/{name}", True)
        await self._client.remove(path)

    async def _first_line(self, path: str) -> str:
        async with await self._client.open(path) as file:
            return bytes(await file.pread(0, file.chunk)).decode().split("\n")[0]


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "dir"
    if stat.S_ISLNK(mode):
        return "link"
    return "executable" if mode & 0o111 else "file"


def _below(name: str, path: str) -> bool:
    return not path or name == path or name.startswith(path + "/")


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Say of what an error is: 9P2000.L sends but a number."""
    try:
        yield
    except P9Error as err:
        known = _ERRORS.get(err.errno)
        error: DataflowError = known(path) if known else UsageError(f"{err.text}: {path}")
        raise error from err
