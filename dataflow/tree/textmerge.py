"""Three-way merge of the lines of a text, as `git merge-file` does it.

Theory of operation.  Both differences from the base are walked together.  A change that touches
none of the other side is taken; the same change on both sides is taken once; changes that touch
are a conflict.  A conflict is then refined: both sides of it are compared with each other, what
they agree on leaves it, and pieces with three lines or fewer between them become one again.
With `Style.DIFF3` the base is shown, so nothing is refined.

Markers take the line ends of the text around them.  A text with a NUL in its first 8,000 octets
is binary, as for Git, and is not merged by lines.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass

from .lines import Budget, Change, difference, split_lines

MARKER_SIZE = 7
_BINARY_WINDOW = 8000
_GAP_MAX = 3
_ALNUM = re.compile(rb"[0-9A-Za-z]")
_END = Change(1 << 60, 1 << 60, 0, 0)  # stands behind the last change


class Style(enum.Enum):
    """How a conflict is shown: both sides, or both and the base between them."""

    MERGE = "merge"
    DIFF3 = "diff3"


class Favor(enum.Enum):
    """What becomes of a conflict: nothing, one side, or both sides one after the other."""

    NONE = "none"
    OURS = "ours"
    THEIRS = "theirs"
    UNION = "union"


@dataclass(frozen=True, slots=True)
class Labels:
    """What the markers call the three sides; an empty one is left out."""

    base: str = "base"
    ours: str = "ours"
    theirs: str = "theirs"


@dataclass(frozen=True, slots=True)
class MergedText:
    """The merged text; `conflicts` counts the places that have markers in it."""

    data: bytes
    conflicts: int


@dataclass(slots=True)
class Hunk:
    """Lines (start, length) of base, ours and theirs; `side` 1 takes ours, 2 theirs, 0 clashes."""

    side: int
    i0: int
    n0: int
    i1: int
    n1: int
    i2: int
    n2: int


Lines = Sequence[bytes]


def is_binary(data: bytes) -> bool:
    """Say whether Git would take this for no text."""
    return b"\0" in data[:_BINARY_WINDOW]


def merge_text(
    base: bytes,
    ours: bytes,
    theirs: bytes,
    *,
    style: Style = Style.MERGE,
    favor: Favor = Favor.NONE,
    labels: Labels | None = None,
    marker_size: int = MARKER_SIZE,
    join: bool = True,
    budget: Budget | None = None,
) -> MergedText:
    """Merge the changes from `base` to `theirs` into `ours`, line by line.

    With `join` conflicts become one also where only lines without a letter or digit stand between
    them, as `git merge-file` has it and `git merge` has not.
    """
    if ours == theirs or base == theirs:
        return MergedText(ours, 0)
    if base == ours:
        return MergedText(theirs, 0)
    budget = budget or Budget()
    b, o, t = split_lines(base), split_lines(ours), split_lines(theirs)
    hunks = hunks_of(difference(b, o, budget), difference(b, t, budget), o, t)
    if style is not Style.DIFF3:
        hunks = _simplify(_refine(hunks, o, t, budget), o, join)
    writer = _Writer(b, o, t, style, favor, labels or Labels(), marker_size)
    return MergedText(writer.run(hunks), writer.conflicts)


def hunks_of(
    ours: list[Change], theirs: list[Change], o: Sequence[object], t: Sequence[object]
) -> list[Hunk]:
    """Walk both lists of changes from one base together."""
    out: list[Hunk] = []
    shift1 = shift2 = 0  # line numbers of ours and theirs minus those of the base, so far
    i = j = 0
    while i < len(ours) or j < len(theirs):
        x = ours[i] if i < len(ours) else _END
        y = theirs[j] if j < len(theirs) else _END
        if x.a1 < y.a0:
            _append(out, 1, x.a0, x.a1, x.b0, x.b1, x.a0 + shift2, x.a1 + shift2)
        elif y.a1 < x.a0:
            _append(out, 2, y.a0, y.a1, y.a0 + shift1, y.a1 + shift1, y.b0, y.b1)
        elif (x.a0, x.a1) != (y.a0, y.a1) or o[x.b0 : x.b1] != t[y.b0 : y.b1]:
            _clash(out, x, y)
        if y.a1 <= x.a1:
            shift2, j = y.b1 - y.a1, j + 1
        if x.a1 <= y.a1:
            shift1, i = x.b1 - x.a1, i + 1
    return out


def _clash(out: list[Hunk], x: Change, y: Change) -> None:
    """Append the conflict of two changes that touch, over all lines of either."""
    first, last = min(x.a0, y.a0), max(x.a1, y.a1)
    _append(
        out, 0, first, last,
        x.b0 - (x.a0 - first), x.b1 + (last - x.a1), y.b0 - (y.a0 - first), y.b1 + (last - y.a1),
    )  # fmt: skip


def _append(
    out: list[Hunk], side: int, a0: int, a1: int, b0: int, b1: int, c0: int, c1: int
) -> None:
    """Append a hunk, or widen the last one if both touch."""
    if out and (b0 <= out[-1].i1 + out[-1].n1 or c0 <= out[-1].i2 + out[-1].n2):
        last = out[-1]
        if side != last.side:
            last.side = 0
        last.n0, last.n1, last.n2 = a1 - last.i0, b1 - last.i1, c1 - last.i2
    else:
        out.append(Hunk(side, a0, a1 - a0, b0, b1 - b0, c0, c1 - c0))


def _refine(hunks: list[Hunk], o: Lines, t: Lines, budget: Budget) -> list[Hunk]:
    """Take out of conflicts what both sides agree on."""
    out = []
    for h in hunks:
        if h.side or not h.n1 or not h.n2:
            out.append(h)
            continue
        found = difference(o[h.i1 : h.i1 + h.n1], t[h.i2 : h.i2 + h.n2], budget)
        out += [
            Hunk(0, h.i0, h.n0, h.i1 + c.a0, c.a1 - c.a0, h.i2 + c.b0, c.b1 - c.b0) for c in found
        ]
    return out


def _simplify(hunks: list[Hunk], o: Lines, join: bool) -> list[Hunk]:
    """Join conflicts with little between them: few markers read better than many."""
    out: list[Hunk] = []
    for h in hunks:
        last = out[-1] if out else None
        if last and not last.side and not h.side and _near(o[last.i1 + last.n1 : h.i1], join):
            last.n1 = h.i1 + h.n1 - last.i1
            last.n2 = h.i2 + h.n2 - last.i2
        else:
            out.append(h)
    return out


def _near(between: Lines, join: bool) -> bool:
    if len(between) <= _GAP_MAX:
        return True
    return join and not any(_ALNUM.search(line) for line in between)


class _Writer:
    """Writes ours with every hunk's result in its place."""

    def __init__(
        self, base: Lines, ours: Lines, theirs: Lines,
        style: Style, favor: Favor, labels: Labels, size: int,
    ) -> None:  # fmt: skip
        self.base, self.ours, self.theirs = base, ours, theirs
        self.style, self.favor, self.labels, self.size = style, favor, labels, size
        self.conflicts = 0

    def run(self, hunks: Sequence[Hunk]) -> bytes:
        """Return the whole text."""
        out: list[bytes] = []
        at = 0
        for h in hunks:
            out += self.ours[at : h.i1]
            out += self._hunk(h)
            at = h.i1 + h.n1
        return b"".join([*out, *self.ours[at:]])

    def _hunk(self, h: Hunk) -> Lines:
        ours, theirs = self.ours[h.i1 : h.i1 + h.n1], self.theirs[h.i2 : h.i2 + h.n2]
        if h.side == 1 or (not h.side and self.favor is Favor.OURS):
            return ours
        if h.side == 2 or self.favor is Favor.THEIRS:
            return theirs
        end = b"\r\n" if self._crlf(h) else b"\n"
        if self.favor is Favor.UNION:
            return [*_ended(ours, end), *theirs]
        self.conflicts += 1
        out = [self._marker(b"<", self.labels.ours, end), *_ended(ours, end)]
        if self.style is Style.DIFF3:
            base = self.base[h.i0 : h.i0 + h.n0]
            out += [self._marker(b"|", self.labels.base, end), *_ended(base, end)]
        out += [self._marker(b"=", "", end), *_ended(theirs, end)]
        return [*out, self._marker(b">", self.labels.theirs, end)]

    def _marker(self, sign: bytes, label: str, end: bytes) -> bytes:
        name = b" " + label.encode("utf-8", "surrogateescape") if label else b""
        return sign * self.size + name + end

    def _crlf(self, h: Hunk) -> bool:
        """Take the line end before the hunk on both sides and, of the base, the first one."""
        sides = ((self.ours, h.i1), (self.theirs, h.i2), (self.base, 0))
        found = [_has_crlf(lines, max(0, at - 1)) for lines, at in sides]
        return False not in found and found[-1] is True


def _has_crlf(lines: Lines, at: int) -> bool | None:
    """Say whether line `at` ends in CRLF; None where no line end is there to tell."""
    if not lines:
        return None
    line = lines[at]
    if not line.endswith(b"\n"):
        if at == 0:
            return None
        line = lines[at - 1]
    return line.endswith(b"\r\n")


def _ended(lines: Lines, end: bytes) -> Lines:
    """Return the lines with the last one ended."""
    if not lines or lines[-1].endswith(b"\n"):
        return lines
    return [*lines[:-1], lines[-1] + end]
