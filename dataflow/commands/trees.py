"""What the subcommands ask of a repository, be it opened here or served elsewhere."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple, Protocol


class Name(NamedTuple):
    """One name in a directory; `kind` is dir, file, executable or link."""

    name: str
    kind: str
    id: str | None = None  # of the object, where the server says it


class Result(NamedTuple):
    """What a commit came to: itself, and the branch's head with it, which a merge may be."""

    commit: str
    head: str


class Put(NamedTuple):
    """Make or replace a file; `executable` None leaves that as it is."""

    path: str
    data: bytes
    executable: bool | None = None


class Remove(NamedTuple):
    """Remove a file, or a directory if `recursive`."""

    path: str
    recursive: bool = False


class Move(NamedTuple):
    """Rename a file or a directory."""

    old: str
    new: str


class MakeDir(NamedTuple):
    """Make a directory with an empty `.gitkeep`, for Git holds no empty ones."""

    path: str


Edit = Put | Remove | Move | MakeDir


class Commit(NamedTuple):
    """A commit as `log` shows it."""

    oid: str
    tree: str
    parents: Sequence[str]
    author: str
    author_time: int
    message: str


class Detail(enum.Enum):
    """What `diff` tells of a file beside its name."""

    NONE = "none"
    COUNTS = "counts"  # lines added and removed
    PATCH = "patch"


class Shown(NamedTuple):
    """A file that differs, as JSON and as octets for people."""

    told: dict[str, Any]
    octets: bytes


class Tree(Protocol):
    """A repository's branches; branches and commits are named alike where both will do."""

    async def names(self, at: str, path: str) -> Sequence[Name]:
        """List a directory."""

    async def read(self, at: str, path: str) -> bytes:
        """Return a file's octets."""

    async def stat(self, at: str, path: str) -> dict[str, Any]:
        """Tell what is at a path: path, type, id, size."""

    async def edit(self, branch: str, message: str, edits: Sequence[Edit]) -> Result:
        """Do all edits in one commit."""

    async def merge(self, branch: str, other: str, message: str) -> Result:
        """Merge a branch or a commit into a branch."""

    def log(self, at: str, limit: int | None, path: str) -> AsyncIterator[Commit]:
        """Yield the own line of commits, or those of it that changed the path, newest first."""

    async def diff(self, old: str, new: str, path: str) -> Sequence[tuple[str, str]]:
        """Return (status, path) of the files that differ."""

    async def deltas(
        self, old: str, new: str, path: str, renames: bool, detail: Detail
    ) -> Sequence[Shown]:
        """Return the files that differ, with renames and what their lines say."""

    async def branches(self) -> dict[str, str]:
        """Return all branches with their heads, "" for one without commits."""

    async def make_branch(self, name: str, start: str) -> str:
        """Make a branch, or move it forward; return its head."""

    async def delete_branch(self, name: str) -> None:
        """Delete a branch."""

    async def rename_branch(self, old: str, new: str) -> None:
        """Rename a branch."""

    def watch(self, branch: str, path: str, since: str | None) -> AsyncIterator[dict[str, Any]]:
        """Yield every commit that changes the path, as JSON has it, with `commit` and `paths`."""

    async def transactions(self) -> Sequence[dict[str, Any]]:
        """Return the open transactions: branch, name, message, parents."""
