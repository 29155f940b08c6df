"""Differences for people: renames found, lines counted, and the unified format `git apply` reads.

Format: git-diff's "generating patch text with -p"; names with unusual octets are quoted as Git
quotes them (core.quotePath).  Binary files are only named, as by `git diff` without --binary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..store.objects import SUBMODULE, Entry, Objects
from .diff import Difference
from .lines import Budget, Change, difference, split_lines
from .paths import Path, text
from .renames import find_renames
from .textmerge import is_binary

CONTEXT = 3
_ESCAPES = {7: "a", 8: "b", 9: "t", 10: "n", 11: "v", 12: "f", 13: "r", 34: '"', 92: "\\"}


@dataclass(frozen=True, slots=True)
class Stat:
    """Lines added and removed; `binary` files have none."""

    added: int
    removed: int
    binary: bool

    def __str__(self) -> str:
        return "binary" if self.binary else f"+{self.added} -{self.removed}"


@dataclass(frozen=True, slots=True)
class Delta:
    """A difference, or two of them that are one renamed file (`percent` alike)."""

    old_path: Path
    new_path: Path
    old: Entry | None
    new: Entry | None
    percent: int | None = None

    @property
    def status(self) -> str:
        """The letter of `git diff --name-status`; R for a rename."""
        return "R" if self.percent is not None else Difference(self.new_path, *self.sides).status

    @property
    def sides(self) -> tuple[Entry | None, Entry | None]:
        """Both entries."""
        return self.old, self.new

    def line(self, lines: Stat | None = None) -> str:
        """Return DataKit's line, a sign and the path; with `lines` also their numbers."""
        sign = {"A": "+", "D": "-", "R": ">"}.get(self.status, "*")
        name = text(self.new_path)
        if self.percent is not None:
            name = f"{text(self.old_path)} => {name} ({self.percent}%)"
        return f"{sign} {name}" + (f" {lines}" if lines else "")

    def as_json(self, lines: Stat | None = None) -> dict[str, object]:
        """Return what `--json` prints."""
        found: dict[str, object] = {"path": text(self.new_path), "status": self.status}
        if self.percent is not None:
            found |= {"from": text(self.old_path), "percent": self.percent}
        if lines is not None:
            found |= {"added": lines.added, "removed": lines.removed, "binary": lines.binary}
        return found


def deltas(objects: Objects, found: Sequence[Difference], *, renames: bool) -> list[Delta]:
    """Return differences by new path, with `renames` removed and added files paired."""
    pairs = {}
    if renames:
        removed = {d.path: d.old for d in found if d.old and d.new is None}
        added = {d.path: d.new for d in found if d.new and d.old is None}
        pairs = {r.new: r for r in find_renames(objects, removed, added)}
    olds = {r.old for r in pairs.values()}
    moved = {d.path: d.old for d in found if d.path in olds}
    out = []
    for d in found:
        rename = pairs.get(d.path)
        if rename is not None:
            out.append(Delta(rename.old, d.path, moved[rename.old], d.new, rename.percent))
        elif d.path not in moved:
            out.append(Delta(d.path, d.path, d.old, d.new))
    return out


def stat(objects: Objects, delta: Delta) -> Stat:
    """Count the lines that were added and removed."""
    old, new = (_content(objects, e) for e in delta.sides)
    if is_binary(old) or is_binary(new):
        return Stat(0, 0, True)
    changes = difference(split_lines(old), split_lines(new), Budget())
    return Stat(sum(c.b1 - c.b0 for c in changes), sum(c.a1 - c.a0 for c in changes), False)


def unified(objects: Objects, delta: Delta) -> bytes:
    """Return the patch of one file; a change of type is a removal and an addition."""
    old, new = delta.sides
    if old and new and (old.mode ^ new.mode) & 0o170000:
        gone = Delta(delta.old_path, delta.old_path, old, None)
        come = Delta(delta.new_path, delta.new_path, None, new)
        return unified(objects, gone) + unified(objects, come)
    a, b = _quoted("a/", delta.old_path), _quoted("b/", delta.new_path)
    head = [f"diff --git {a} {b}", *_headers(delta)]
    body = [] if old and new and old.oid == new.oid else _body(objects, delta, a, b)
    return "".join(line + "\n" for line in head).encode() + b"".join(body)


def _headers(delta: Delta) -> Iterator[str]:
    old, new = delta.sides
    if old and new and old.mode != new.mode:
        yield f"old mode {old.mode:06o}"
        yield f"new mode {new.mode:06o}"
    if delta.percent is not None:
        yield f"similarity index {delta.percent}%"
        yield f"rename from {_quoted('', delta.old_path)}"
        yield f"rename to {_quoted('', delta.new_path)}"
    if old is None and new:
        yield f"new file mode {new.mode:06o}"
    if new is None and old:
        yield f"deleted file mode {old.mode:06o}"
    ids = [e.oid if e else "0" * 40 for e in delta.sides]
    if ids[0] != ids[1]:
        same = f" {old.mode:06o}" if old and new and old.mode == new.mode else ""
        yield f"index {ids[0]}..{ids[1]}{same}"


def _body(objects: Objects, delta: Delta, a: str, b: str) -> list[bytes]:
    old, new = (_content(objects, e) for e in delta.sides)
    a, b = (a if delta.old else "/dev/null"), (b if delta.new else "/dev/null")
    if is_binary(old) or is_binary(new):
        return [f"Binary files {a} and {b} differ\n".encode()]
    before, after = split_lines(old), split_lines(new)
    changes = difference(before, after, Budget())
    if not changes:
        return []
    out = [f"--- {a}\n+++ {b}\n".encode()]
    for group in _groups(changes):
        out += _hunk(group, before, after)
    return out


def _groups(changes: list[Change]) -> list[list[Change]]:
    """Put changes whose context touches into one hunk."""
    groups: list[list[Change]] = []
    for change in changes:
        if groups and change.a0 - groups[-1][-1].a1 <= 2 * CONTEXT:
            groups[-1].append(change)
        else:
            groups.append([change])
    return groups


def _hunk(group: list[Change], old: list[bytes], new: list[bytes]) -> Iterator[bytes]:
    first, last = group[0], group[-1]
    lead, trail = min(CONTEXT, first.a0), min(CONTEXT, len(old) - last.a1)
    old_range = _range(first.a0 - lead, last.a1 + trail)
    yield f"@@ -{old_range} +{_range(first.b0 - lead, last.b1 + trail)} @@\n".encode()
    at = first.a0 - lead
    for c in group:
        yield from _lines(b" ", old[at : c.a0])
        yield from _lines(b"-", old[c.a0 : c.a1])
        yield from _lines(b"+", new[c.b0 : c.b1])
        at = c.a1
    yield from _lines(b" ", old[at : last.a1 + trail])


def _range(start: int, end: int) -> str:
    size = end - start
    shown = start + 1 if size else start
    return f"{shown}" if size == 1 else f"{shown},{size}"


def _lines(sign: bytes, lines: list[bytes]) -> Iterator[bytes]:
    for line in lines:
        yield sign + line if line.endswith(b"\n") else (
            sign + line + b"\n\\ No newline at end of file\n"
        )  # fmt: skip


def _content(objects: Objects, entry: Entry | None) -> bytes:
    if entry is None:
        return b""
    if entry.mode == SUBMODULE:
        return f"Subproject commit {entry.oid}\n".encode()
    return objects.blob(entry.oid)


def _quoted(prefix: str, path: Path) -> str:
    octets = prefix.encode() + b"/".join(path)
    if all(31 < c < 127 and c not in b'"\\' for c in octets):
        return octets.decode()
    shown = (
        "\\" + _ESCAPES[c] if c in _ESCAPES else chr(c) if 31 < c < 127 else f"\\{c:03o}"
        for c in octets
    )
    return '"' + "".join(shown) + '"'
