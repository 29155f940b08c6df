"""Which lines differ between two texts: Myers' O(ND) difference algorithm, as Git runs it.

Theory of operation.  Lines become numbers.  A common head and tail are cut off; lines that the
other side does not have are changed for certain and leave the search, and so are lines found
everywhere that stand among such (a blank line in a block of new text).  The rest is searched from
both ends at once for the middle of a shortest path, and the halves again (Myers 1986, section 4b).
A search that costs more than the square root of its size takes the furthest point it has.  Last,
each group of changed lines slides down as far as equal lines let it, or to where it stands beside
a group of the other side, and groups that meet become one.

Time is bounded: `Budget` counts steps, and where it is used up the box at hand counts as changed
as a whole, which is a correct difference, only not a small one.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

STEPS_MAX = 4_000_000  # about two seconds
_COST_MIN = 256
_COMMON_MAX = 1024
_WINDOW = 100
_FAR = 1 << 60


class Change(NamedTuple):
    """Lines `a0` to `a1` of the old text became lines `b0` to `b1` of the new one."""

    a0: int
    a1: int
    b0: int
    b1: int


class Budget:
    """Steps that remain; one object may serve several differences."""

    __slots__ = ("left",)

    def __init__(self, steps: int = STEPS_MAX) -> None:
        self.left = steps


def split_lines(data: bytes) -> list[bytes]:
    """Cut at line feeds, which stay; the last line may have none."""
    parts = data.split(b"\n")
    last = parts.pop()
    lines = [part + b"\n" for part in parts]
    if last:
        lines.append(last)
    return lines


def difference(
    old: Sequence[Hashable], new: Sequence[Hashable], budget: Budget | None = None
) -> list[Change]:
    """Return the changes from `old` to `new`, in order, with equal lines between any two."""
    numbers: dict[Hashable, int] = {}
    a = [numbers.setdefault(line, len(numbers)) for line in old]
    b = [numbers.setdefault(line, len(numbers)) for line in new]
    changed_a, changed_b = bytearray(len(a) + 1), bytearray(len(b) + 1)
    _Search(a, b, changed_a, changed_b, len(numbers), budget or Budget()).run()
    _compact(a, changed_a, changed_b)
    _compact(b, changed_b, changed_a)
    return _script(changed_a, changed_b)


def _script(changed_a: bytearray, changed_b: bytearray) -> list[Change]:
    out: list[Change] = []
    i = j = 0
    size_a, size_b = len(changed_a) - 1, len(changed_b) - 1
    while True:
        next_a, next_b = changed_a.find(1, i), changed_b.find(1, j)
        skip = min(next_a - i if next_a >= 0 else _FAR, next_b - j if next_b >= 0 else _FAR)
        if skip == _FAR:
            return out
        i, j = i + skip, j + skip
        a1, b1 = i, j
        while a1 < size_a and changed_a[a1]:
            a1 += 1
        while b1 < size_b and changed_b[b1]:
            b1 += 1
        out.append(Change(i, a1, j, b1))
        i, j = a1, b1


def _root(n: int) -> int:
    """Return about the square root, a power of two."""
    return 1 << ((n.bit_length() + 1) // 2)


class _Search:
    """Marks in `changed_a` and `changed_b` what no shortest path keeps."""

    def __init__(
        self,
        a: list[int],
        b: list[int],
        changed_a: bytearray,
        changed_b: bytearray,
        numbers: int,
        budget: Budget,
    ) -> None:
        self.a, self.b = a, b
        self.changed_a, self.changed_b = changed_a, changed_b
        self.numbers = numbers
        self.budget = budget

    def run(self) -> None:
        """Cut, leave out, search."""
        a, b = self.a, self.b
        head = common_head(a, b)
        tail = common_tail(a, b, min(len(a), len(b)) - head)
        count_a, count_b = [0] * self.numbers, [0] * self.numbers
        for x in a:
            count_a[x] += 1
        for x in b:
            count_b[x] += 1
        self.index_a = _candidates(a, head, len(a) - tail, count_b, self.changed_a)
        self.index_b = _candidates(b, head, len(b) - tail, count_a, self.changed_b)
        self.ha, self.hb = [a[i] for i in self.index_a], [b[j] for j in self.index_b]
        diagonals = len(self.ha) + len(self.hb) + 3
        # Diagonals run from -(len(hb) + 1) to len(ha) + 1: a negative one counts from the end.
        self.forward, self.backward = [0] * diagonals, [0] * diagonals
        self.cost_max = max(_root(diagonals), _COST_MIN)
        boxes = [(0, len(self.ha), 0, len(self.hb), False)]
        while boxes:
            self._box(boxes, *boxes.pop())

    def _box(
        self, boxes: list[tuple[int, int, int, int, bool]],
        a0: int, a1: int, b0: int, b1: int, exact: bool,
    ) -> None:  # fmt: skip
        ha, hb = self.ha, self.hb
        start = a0
        while a0 < a1 and b0 < b1 and ha[a0] == hb[b0]:
            a0, b0 = a0 + 1, b0 + 1
        end = a1
        while a0 < a1 and b0 < b1 and ha[a1 - 1] == hb[b1 - 1]:
            a1, b1 = a1 - 1, b1 - 1
        self.budget.left -= (a0 - start) + (end - a1) + 1
        if a0 == a1 or b0 == b1 or self.budget.left < 0:
            for i in self.index_a[a0:a1]:
                self.changed_a[i] = 1
            for j in self.index_b[b0:b1]:
                self.changed_b[j] = 1
            return
        i, j, low, high = self._middle(a0, a1, b0, b1, exact)
        boxes.append((a0, i, b0, j, low))
        boxes.append((i, a1, j, b1, high))

    def _middle(
        self, a0: int, a1: int, b0: int, b1: int, exact: bool
    ) -> tuple[int, int, bool, bool]:
        """Return a point on a shortest path, and which of the halves must be searched exactly."""
        kf, kb = self.forward, self.backward
        low, high = a0 - b1, a1 - b0
        fmin = fmax = a0 - b0
        bmin = bmax = a1 - b1
        odd = (fmin - bmin) & 1
        kf[fmin], kb[bmin] = a0, a1
        cost = 0
        while True:
            cost += 1
            fmin, fmax = _widen(kf, fmin, fmax, low, high, -1)
            met = self._ahead(fmin, fmax, a1, b1, (bmin, bmax) if odd else None)
            if met is not None:
                return *met, True, True
            bmin, bmax = _widen(kb, bmin, bmax, low, high, _FAR)
            met = self._back(bmin, bmax, a0, b0, None if odd else (fmin, fmax))
            if met is not None:
                return *met, True, True
            self.budget.left -= fmax - fmin + bmax - bmin + 2
            if (cost >= self.cost_max and not exact) or self.budget.left < 0:
                return self._furthest(range(fmax, fmin - 1, -2), range(bmax, bmin - 1, -2),
                                      a0, a1, b0, b1)  # fmt: skip

    def _ahead(
        self, fmin: int, fmax: int, a1: int, b1: int, against: tuple[int, int] | None
    ) -> tuple[int, int] | None:
        ha, hb, kf, kb = self.ha, self.hb, self.forward, self.backward
        run = 0
        for d in range(fmax, fmin - 1, -2):
            i = kf[d - 1] + 1 if kf[d - 1] >= kf[d + 1] else kf[d + 1]
            j = i - d
            before = i
            while i < a1 and j < b1 and ha[i] == hb[j]:
                i, j = i + 1, j + 1
            run += i - before
            kf[d] = i
            if against is not None and against[0] <= d <= against[1] and kb[d] <= i:
                return i, j
        self.budget.left -= run
        return None

    def _back(
        self, bmin: int, bmax: int, a0: int, b0: int, against: tuple[int, int] | None
    ) -> tuple[int, int] | None:
        ha, hb, kf, kb = self.ha, self.hb, self.forward, self.backward
        run = 0
        for d in range(bmax, bmin - 1, -2):
            i = kb[d - 1] if kb[d - 1] < kb[d + 1] else kb[d + 1] - 1
            j = i - d
            before = i
            while i > a0 and j > b0 and ha[i - 1] == hb[j - 1]:
                i, j = i - 1, j - 1
            run += before - i
            kb[d] = i
            if against is not None and against[0] <= d <= against[1] and i <= kf[d]:
                return i, j
        self.budget.left -= run
        return None

    def _furthest(
        self, ahead: range, back: range, a0: int, a1: int, b0: int, b1: int
    ) -> tuple[int, int, bool, bool]:
        """Return the best point of a search that cost too much."""
        best = back_best = (0, 0)
        for n, d in enumerate(ahead):
            i = min(self.forward[d], a1, b1 + d)
            if n == 0 or i + i - d > sum(best):
                best = (i, i - d)
        for n, d in enumerate(back):
            i = max(self.backward[d], a0, b0 + d)
            if n == 0 or i + i - d < sum(back_best):
                back_best = (i, i - d)
        if a1 + b1 - sum(back_best) < sum(best) - a0 - b0:
            return *best, True, False
        return *back_best, False, True


def _widen(k: list[int], least: int, most: int, low: int, high: int, no: int) -> tuple[int, int]:
    """Add a diagonal at either end, or take one off where the box ends."""
    if least > low:
        least -= 1
        k[least - 1] = no
    else:
        least += 1
    if most < high:
        most += 1
        k[most + 1] = no
    else:
        most -= 1
    return least, most


def common_head(a: Sequence[object], b: Sequence[object]) -> int:
    """Return how many items both begin with."""
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        n += 1
    return n


def common_tail(a: Sequence[object], b: Sequence[object], most: int) -> int:
    """Return how many items, at most `most`, both end with."""
    n = 0
    while n < most and a[-1 - n] == b[-1 - n]:
        n += 1
    return n


def _candidates(
    lines: list[int], start: int, end: int, others: list[int], changed: bytearray
) -> list[int]:
    """Return the indices worth searching; mark the others as changed.

    A line is sorted by how often the other side has it: never (0), some times (1), often (2).
    """
    limit = min(_root(len(lines)), _COMMON_MAX)
    counts = [others[line] for line in lines[start:end]]
    if 0 not in counts and max(counts, default=0) < limit:
        return list(range(start, end))
    found = bytearray([0 if n == 0 else 2 if n >= limit else 1 for n in counts])
    out = []
    for at, kind in enumerate(found):
        if kind == 1 or (kind == 2 and not _among_new(found, at)):
            out.append(start + at)
        else:
            changed[start + at] = 1
    return out


def _among_new(found: bytearray, at: int) -> bool:
    """Say whether a frequent line stands in a block in which most lines are new."""
    before_new, before_often = _count(found[max(0, at - _WINDOW) : at][::-1])
    after_new, after_often = _count(found[at + 1 : at + 1 + _WINDOW])
    if not before_new or not after_new:
        return False
    often = before_often + after_often + 2
    return often * 4 < often + before_new + after_new


def _count(kinds: bytearray) -> tuple[int, int]:
    end = kinds.find(1)
    block = kinds if end < 0 else kinds[:end]
    return block.count(0), block.count(2)


class _Group:
    """A run of changed lines, possibly empty, between two unchanged ones."""

    __slots__ = ("changed", "end", "lines", "start")

    def __init__(self, changed: bytearray, lines: list[int]) -> None:
        self.changed = changed
        self.lines = lines
        self.start = self.end = 0
        self._extend()

    def _extend(self) -> None:
        while self.changed[self.end]:
            self.end += 1

    def forward(self) -> bool:
        """Go to the next group."""
        if self.end == len(self.changed) - 1:
            return False
        self.start = self.end = self.end + 1
        self._extend()
        return True

    def backward(self) -> None:
        """Go to the group before; there is one."""
        self.start = self.end = self.start - 1
        while self.changed[self.start - 1]:  # changed[-1] is the guard, never set
            self.start -= 1

    def slide_up(self) -> bool:
        """Move one line towards the beginning, joining a group met there."""
        if not self.start or self.lines[self.start - 1] != self.lines[self.end - 1]:
            return False
        self.start, self.end = self.start - 1, self.end - 1
        self.changed[self.start], self.changed[self.end] = 1, 0
        while self.changed[self.start - 1]:
            self.start -= 1
        return True

    def slide_down(self) -> bool:
        """Move one line towards the end, joining a group met there."""
        if self.end >= len(self.lines) or self.lines[self.start] != self.lines[self.end]:
            return False
        self.changed[self.start], self.changed[self.end] = 0, 1
        self.start, self.end = self.start + 1, self.end + 1
        self._extend()
        return True


def _compact(lines: list[int], changed: bytearray, other: bytearray) -> None:
    """Slide every group of `changed`; `there` is the group of the other side that goes with it."""
    here, there = _Group(changed, lines), _Group(other, [])
    while True:
        if here.end > here.start:
            _settle(here, there)
        if not here.forward():
            return
        there.forward()


def _settle(here: _Group, there: _Group) -> None:
    while True:
        size = here.end - here.start
        while here.slide_up():
            there.backward()
        highest = here.end
        beside = there.end > there.start
        while here.slide_down():
            there.forward()
            beside = beside or there.end > there.start
        if size == here.end - here.start:
            break
    if here.end != highest and beside:
        while there.end == there.start:
            here.slide_up()
            there.backward()
