"""Which deleted file of one side is which added one: renames, found as Git's merge finds them.

Theory of operation.  Only files that one side removed and that side added take part.  Equal ids
come first, an equal last name decides between several.  Of what is left, only removed files that
the other side changed matter (`relevant`): for the others the merge is the same with and without
the rename.  A file whose last name is unique among removed and among added ones is paired if it
is alike by 75 %; then every removed file is compared with every added one, and the most alike
pairs of at least 50 % are taken, best first.  Where the table of pairs would have more than
`limit` squared cells this last step is left out, and behind `OCTETS_MAX` octets or `WORK_MAX`
pieces nothing is alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..store.base import Oid
from ..store.objects import EXECUTABLE, FILE, Entry, Objects
from .paths import Path
from .similarity import HALF, SCORE_MAX, Pieces, pieces, possible, score
from .textmerge import is_binary

LIMIT = 400
OCTETS_MAX = 64 << 20
WORK_MAX = 20_000_000  # pieces compared: some seconds
EMPTY_BLOB: Oid = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
_PER_TARGET = 4  # so many candidates a target are kept
_REGULAR = (FILE, EXECUTABLE)

Files = Mapping[Path, Entry]


@dataclass(frozen=True, slots=True)
class Rename:
    """A file that moved; `score` is its likeness of 60,000."""

    old: Path
    new: Path
    score: int

    @property
    def percent(self) -> int:
        """The likeness in percent, as `git diff -M` prints it."""
        return self.score * 100 // SCORE_MAX


@dataclass(slots=True)
class _Finder:
    objects: Objects
    removed: dict[Path, Entry]
    added: dict[Path, Entry]
    limit: int
    least: int
    octets: int = 0  # read so far
    work: int = 0  # pieces compared so far
    found: list[Rename] = field(default_factory=list)
    cache: dict[Oid, tuple[Pieces, int]] = field(default_factory=dict)

    def take(self, old: Path, new: Path, points: int) -> None:
        del self.removed[old], self.added[new]
        self.found.append(Rename(old, new, points))

    def exact(self) -> None:
        by_id: dict[Oid, list[Path]] = {}
        for old, entry in self.removed.items():
            by_id.setdefault(entry.oid, []).append(old)
        for new, entry in list(self.added.items()):
            match = self._same(new, entry, by_id.get(entry.oid, []))
            if match is not None:
                by_id[entry.oid].remove(match)
                self.take(match, new, SCORE_MAX)

    def _same(self, new: Path, entry: Entry, olds: list[Path]) -> Path | None:
        fit = [old for old in olds if _modes_fit(self.removed[old].mode, entry.mode)]
        return next((old for old in fit if old[-1] == new[-1]), fit[0] if fit else None)

    def by_last_name(self) -> None:
        olds, news = _unique_names(self.removed), _unique_names(self.added)
        least = self.least + (SCORE_MAX - self.least) // 2
        for name, old in olds.items():
            new = news.get(name)
            if new is not None and (points := self.score(old, new)) >= least:
                self.take(old, new, points)

    def by_content(self) -> None:
        if len(self.removed) * len(self.added) > self.limit**2:
            return
        candidates = [c for new in self.added for c in self._best(new)]
        candidates.sort(key=lambda c: (-c[0], -c[1]))
        for points, _, old, new in candidates:
            if old in self.removed and new in self.added:
                self.take(old, new, points)

    def _best(self, new: Path) -> list[tuple[int, bool, Path, Path]]:
        """Return the candidates most like the target `new`."""
        scored = [(self.score(old, new), old[-1] == new[-1], old, new) for old in self.removed]
        scored = [s for s in scored if s[0] >= self.least]
        return sorted(scored, key=lambda c: (-c[0], -c[1]))[:_PER_TARGET]

    def score(self, old: Path, new: Path) -> int:
        a, b = self.removed[old], self.added[new]
        if a.mode not in _REGULAR or b.mode not in _REGULAR:
            return 0
        sizes = self.objects.size(a.oid), self.objects.size(b.oid)
        if not possible(*sizes, self.least) or self.octets > OCTETS_MAX:
            return 0
        if self.work > WORK_MAX:
            return 0
        (x, old_size), (y, new_size) = self._pieces(a.oid), self._pieces(b.oid)
        self.work += min(len(x), len(y))
        return score(x, old_size, y, new_size)

    def _pieces(self, oid: Oid) -> tuple[Pieces, int]:
        if oid not in self.cache:
            data = self.objects.blob(oid)
            self.octets += len(data)
            self.cache[oid] = pieces(data, binary=is_binary(data)), len(data)
        return self.cache[oid]


def find_renames(
    objects: Objects,
    removed: Files,
    added: Files,
    *,
    relevant: frozenset[Path] | None = None,
    limit: int = LIMIT,
    least: int = HALF,
) -> list[Rename]:
    """Pair removed files with added ones; only `relevant` removed ones by likeness (None: all).

    Empty files are never renamed: every empty file is like every other.
    """
    olds = {p: e for p, e in sorted(removed.items()) if e.oid != EMPTY_BLOB}
    news = {p: e for p, e in sorted(added.items()) if e.oid != EMPTY_BLOB}
    finder = _Finder(objects, olds, news, limit, least)
    finder.exact()
    if relevant is not None:
        for old in [p for p in finder.removed if p not in relevant]:
            del finder.removed[old]
    finder.by_last_name()
    finder.by_content()
    return finder.found


def _modes_fit(a: int, b: int) -> bool:
    return a == b or (a in _REGULAR and b in _REGULAR)


def _unique_names(files: Files) -> dict[bytes, Path]:
    count = Counter(path[-1] for path in files)
    return {path[-1]: path for path in files if count[path[-1]] == 1}
