"""A repository opened by the command itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from typing import Any

from ..branch.change import Change
from ..branch.engine import Committed
from ..branch.repository import Repository
from ..branch.transaction import Transaction
from ..errors import NotFoundError, UsageError
from ..store.objects import DIRECTORY, EXECUTABLE, SYMLINK
from ..tree.patch import deltas, stat, unified
from ..tree.paths import parse, text
from ..tree.tree import Tree as GitTree
from ..tree.tree import find
from .trees import Commit, Detail, Edit, Move, Name, Put, Remove, Result, Shown

KINDS = {DIRECTORY: "dir", EXECUTABLE: "executable", SYMLINK: "link"}


class LocalTree:
    """See `trees.Tree`."""

    def __init__(self, repo: Repository) -> None:
        self._repo = repo

    def _at(self, name: str) -> GitTree:
        engine = self._repo.engine
        return engine.tree(engine.resolve(name))

    async def names(self, at: str, path: str) -> Sequence[Name]:
        """List a directory."""
        found = sorted(self._at(at).entries(parse(path)).items())
        return [Name(text((n,)), KINDS.get(e.mode, "file"), e.oid) for n, e in found]

    async def read(self, at: str, path: str) -> bytes:
        """Return a file's octets."""
        return self._at(at).read(parse(path))

    async def stat(self, at: str, path: str) -> dict[str, Any]:
        """Tell what is at a path."""
        objects = self._repo.engine.objects
        entry = find(objects, self._at(at).oid, parse(path))
        if entry is None:
            raise NotFoundError(path)
        size = 0 if entry.is_dir else objects.size(entry.oid)
        kind = KINDS.get(entry.mode, "file")
        return {"path": path, "type": kind, "id": entry.oid, "size": size}

    async def edit(self, branch: str, message: str, edits: Sequence[Edit]) -> Result:
        """Do all edits in one commit."""
        async with self._repo.branch(branch).transaction(message) as t:
            for edit in edits:
                _apply(t, edit)
        assert t.result is not None  # the block ended without an error
        return _result(t.result)

    async def merge(self, branch: str, other: str, message: str) -> Result:
        """Merge a branch or a commit into a branch."""
        return _result(await self._repo.branch(branch).merge(other, message))

    async def log(self, at: str, limit: int | None, path: str) -> AsyncIterator[Commit]:
        """Yield the own line of commits, or those of it that changed the path, newest first."""
        engine = self._repo.engine
        for c in engine.log(engine.resolve(at), limit=limit, path=parse(path)):
            yield Commit(c.oid, c.tree, c.parents, c.author, c.author_time, c.message)

    async def diff(self, old: str, new: str, path: str) -> Sequence[tuple[str, str]]:
        """Return (status, path) of the files that differ."""
        return [(d.status, text(d.path)) for d in await self._repo.diff(old, new, path)]

    async def deltas(
        self, old: str, new: str, path: str, renames: bool, detail: Detail
    ) -> Sequence[Shown]:
        """Return the files that differ, with renames and what their lines say."""
        objects = self._repo.engine.objects
        shown = []
        for d in deltas(objects, tuple(await self._repo.diff(old, new, path)), renames=renames):
            lines = stat(objects, d) if detail is Detail.COUNTS else None
            octets = (d.line(lines) + "\n").encode("utf-8", "surrogateescape")
            if detail is Detail.PATCH:
                octets = unified(objects, d)
            shown.append(Shown(d.as_json(lines), octets))
        return shown

    async def branches(self) -> dict[str, str]:
        """Return all branches with their heads."""
        return dict(await self._repo.branches())

    async def make_branch(self, name: str, start: str) -> str:
        """Make a branch, or move it forward."""
        target = self._repo.engine.resolve(start)
        await self._repo.branch(name).fast_forward(target)
        return target

    async def delete_branch(self, name: str) -> None:
        """Delete a branch."""
        await self._repo.branch(name).delete()

    async def rename_branch(self, old: str, new: str) -> None:
        """Rename a branch."""
        await self._repo.branch(old).rename(new)

    async def watch(
        self, branch: str, path: str, since: str | None
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield every commit that changes the path."""
        async for change in self._repo.branch(branch).watch(path, since=since):
            yield change_json(change)

    async def transactions(self) -> Sequence[dict[str, Any]]:
        """Refuse: a transaction lives in the server that opened it."""
        raise UsageError("tx: open transactions are a server's: expected --server ADDRESS")


def change_json(change: Change) -> dict[str, Any]:
    """Return an event as JSON has it."""
    return {**asdict(change), "kind": change.kind.value, "paths": list(change.paths)}


def _result(found: Committed) -> Result:
    return Result(found.commit, found.head)


def _apply(t: Transaction, edit: Edit) -> None:
    if isinstance(edit, Put):
        t.write(edit.path, edit.data, executable=edit.executable)
    elif isinstance(edit, Remove):
        t.remove(edit.path, recursive=edit.recursive)
    elif isinstance(edit, Move):
        if parse(edit.new)[:-1]:
            t.mkdir(text(parse(edit.new)[:-1]), parents=True)
        t.rename(edit.old, edit.new)
    else:
        t.mkdir(edit.path, parents=True)
        t.create(f"{edit.path}/.gitkeep")
