"""Conflicts as data: what kind, where, what each side has there, and a sentence for people."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from ..store.objects import Entry
from .paths import ROOT, Path, text

BOTH_CHANGED = "Changed on both branches"
FILE_VS_DIR = "File vs dir"
ADD_DEL = "option: add/del"
ADD_ADD = "default: add/add and no common ancestor"


class Kind(enum.Enum):
    """Why a path does not merge; the values are the words of Git's messages."""

    CONTENT = "content"
    BINARY = "binary"
    ADD_ADD = "add/add"
    MODIFY_DELETE = "modify/delete"
    RENAME_DELETE = "rename/delete"
    RENAME_RENAME = "rename/rename"  # one file, two new names
    RENAME_ADD = "rename/add"  # the new name was taken by the other side, by adding or renaming
    FILE_DIRECTORY = "file/directory"
    TYPES = "distinct types"
    MODE = "mode"
    SYMLINK = "symlink"
    SUBMODULE = "submodule"
    DRIVER = "driver"  # the path's merge driver gave up or failed


_REASONS = {
    Kind.MODIFY_DELETE: ADD_DEL,
    Kind.RENAME_DELETE: ADD_DEL,
    Kind.FILE_DIRECTORY: FILE_VS_DIR,
}


@dataclass(frozen=True, slots=True)
class Conflict:
    """A path that does not merge.

    `base`, `ours` and `theirs` are Git's stages 1 to 3 (None: nothing is there); after a rename
    they are what the file was under the name it had on that side.  `paths` lists all names that
    are involved, the old name of a renamed file first.  `marked` is the text with conflict markers
    where lines were merged.  A driver returns `Conflict("what is wrong")`; the rest is filled in.
    """

    message: str
    kind: Kind = Kind.DRIVER
    path: Path = ROOT
    base: Entry | None = None
    ours: Entry | None = None
    theirs: Entry | None = None
    paths: tuple[Path, ...] = ()
    marked: bytes | None = None

    @property
    def reason(self) -> str:
        """DataKit's word for it, one of four."""
        return _REASONS.get(self.kind) or (BOTH_CHANGED if self.base else ADD_ADD)

    def content(self) -> bytes:
        """Return what the conflicting file holds until somebody resolves it."""
        return f"** Conflict **\n{self.reason}\n".encode()

    def as_json(self) -> dict[str, object]:
        """Return what `--json` prints."""
        stages = {"base": self.base, "ours": self.ours, "theirs": self.theirs}
        return {
            "path": text(self.path),
            "kind": self.kind.value,
            "reason": self.reason,
            "message": self.message,
            "paths": [text(p) for p in self.paths or (self.path,)],
            **{k: e and {"mode": f"{e.mode:06o}", "id": e.oid} for k, e in stages.items()},
        }

    def __str__(self) -> str:
        return f"CONFLICT ({self.kind.value}): {self.message}"
