"""The graph of commits: ancestry, merge bases, and what lies between two heads in order.

Merge bases.  Colours run from both heads towards the roots, newest commit first (by commit time);
a commit with both colours is a common ancestor, and everything behind it is stale.  The walk ends
when only stale commits wait.  Clocks that run backwards can let a base through that is an ancestor
of another one, so the candidates are checked against each other at the end.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from ..errors import HistoryTooDeepError
from ..store.base import History, Oid
from ..store.objects import Commit, Objects
from .paths import Path
from .tree import find

FOLLOW_FROM = 1000  # commits walked from which on it is worth to have them in the index
NEAR = 300  # commits looked at before the whole question is asked
WALK_MAX = 2_000_000  # commits one question may visit

_OURS, _THEIRS, _STALE = 1, 2, 4


class _Painter:
    """Colours the history of two sides, newest commit first; ties by id, so every run agrees."""

    def __init__(self, objects: Objects, limit: int) -> None:
        self.objects = objects
        self.parents: dict[Oid, tuple[Oid, ...]] = {}
        self.flags: dict[Oid, int] = {}
        self.common: list[Oid] = []
        self._heap: list[tuple[int, Oid]] = []
        self._queued: set[Oid] = set()
        self._fresh = 0  # commits waiting that are not stale
        self._floor = 1 << 62  # the oldest commit time that was passed unstale
        self._left = limit

    def mark(self, oid: Oid, colour: int) -> None:
        """Add colours to a commit; it is (again) to be passed if they are new to it."""
        old = self.flags.get(oid, 0)
        new = old | colour
        if new == old:
            return
        self.flags[oid] = new
        if oid in self._queued:
            self._fresh -= bool(colour & _STALE and not old & _STALE)
            return
        self._left -= 1
        if self._left < 0:
            raise HistoryTooDeepError(f"no answer within the limit of commits, last {oid}")
        self._queued.add(oid)
        self._fresh += not new & _STALE
        link = self.objects.link(oid)
        self.parents[oid] = link.parents
        heapq.heappush(self._heap, (-link.time, oid))

    def run(self) -> None:
        """Pass commits until nothing that waits can change the answer.

        Commits of one second come in any order, so a stale one may still reach a commit that was
        passed before it; hence the floor.
        """
        while self._heap and (self._fresh or -self._heap[0][0] >= self._floor):
            self._step()

    def _step(self) -> None:
        when, oid = heapq.heappop(self._heap)
        self._queued.discard(oid)
        colour = self.flags[oid]
        if not colour & _STALE:
            self._fresh -= 1
            if colour == _OURS | _THEIRS:
                self.common.append(oid)
                colour = self.flags[oid] = colour | _STALE
            else:
                self._floor = min(self._floor, -when)
        for parent in self.parents[oid]:
            self.mark(parent, colour)


def _paint(objects: Objects, ours: Oid, theirs: Oid, limit: int) -> _Painter:
    painter = _Painter(objects, limit)
    painter.mark(ours, _OURS)
    painter.mark(theirs, _THEIRS)
    painter.run()
    return painter


def merge_bases(objects: Objects, ours: Oid, theirs: Oid, *, limit: int = WALK_MAX) -> list[Oid]:
    """Return the best common ancestors: none, one, or several (criss-cross), newest first."""
    if ours == theirs:
        return [ours]
    common = _paint(objects, ours, theirs, limit).common
    if len(common) < 2:
        return common
    return [
        c
        for c in common
        if not any(o != c and is_ancestor(objects, c, o, limit=limit) for o in common)
    ]


def is_ancestor(objects: Objects, old: Oid, new: Oid, *, limit: int = WALK_MAX) -> bool:
    """Say whether `old` is `new` or reachable from it."""
    if old == new:
        return True
    if old in objects.link(new).parents:
        return True
    known = _known_ancestor(objects, old, new, limit)
    if known is not None:
        return known
    painter = _paint(objects, old, new, limit)
    if len(painter.flags) > FOLLOW_FROM:
        objects.follow(new)
    return bool(painter.flags[old] & _THEIRS)


def _known_ancestor(objects: Objects, old: Oid, new: Oid, limit: int) -> bool | None:
    """Answer by generations, which stop a walk where `old` cannot be any more; None if unknown."""
    history = objects.store.history
    floor = history.generation(old) if history is not None else 0
    if history is None or not floor:
        return None
    if history.distance(old, new) is not None:
        return True
    seen, todo = {new}, [new]
    while todo:
        link = objects.link(todo.pop())
        generation = link.generation or _above(history, link.parents)
        if generation == 0:
            return None
        if generation <= floor:
            continue
        if old in link.parents:
            return True
        todo += [p for p in link.parents if p not in seen]
        seen.update(link.parents)
        if len(seen) > limit:
            raise HistoryTooDeepError(f"no answer within the limit of commits, last {new}")
    return False


def passed_from(objects: Objects, commit: Oid, head: Oid, *, limit: int = NEAR) -> Oid | None:
    """Return the merge base of a commit made a moment ago, whose parent `head` has passed since.

    That is its only parent, if `head`'s line of first parents comes to it within `limit` steps and
    nothing on that line took the commit in; then it is `commit` itself.  None: not so simple.
    Histories of many commits a second, which `commit_time` does not tell apart, cost nothing so.
    """
    parents = objects.commit(commit).parents
    here: Oid | None = head
    for _ in range(limit if len(parents) == 1 else 0):
        if here is None or here == parents[0]:
            return here
        above = objects.commit(here).parents
        if commit in (here, *above):
            return commit
        here = above[0] if above else None
    return None


def _above(history: History, parents: tuple[Oid, ...]) -> int:
    """Return the generation of a commit that is not in the index yet, if its parents are."""
    known = [history.generation(p) for p in parents]
    return 1 + max(known) if known and all(known) else 0


def between(objects: Objects, old: Oid | None, new: Oid, *, limit: int = WALK_MAX) -> list[Oid]:
    """Return the commits reachable from `new` and not from `old`: parents first, oldest first.

    The order depends on the commits alone, so a reader that stopped in the middle finds its
    place again.
    """
    members = _members(objects, old, new, limit)
    waiting: dict[Oid, int] = {}
    above: dict[Oid, list[Oid]] = {}
    for oid in members:
        parents = members.intersection(objects.link(oid).parents)
        waiting[oid] = len(parents)
        for parent in parents:
            above.setdefault(parent, []).append(oid)
    heap = [(objects.link(oid).time, oid) for oid, n in waiting.items() if n == 0]
    heapq.heapify(heap)
    out: list[Oid] = []
    while heap:
        oid = heapq.heappop(heap)[1]
        out.append(oid)
        for child in above.get(oid, ()):
            waiting[child] -= 1
            if waiting[child] == 0:
                heapq.heappush(heap, (objects.link(child).time, child))
    return out


def _members(objects: Objects, old: Oid | None, new: Oid, limit: int) -> set[Oid]:
    if old is not None:
        flags = _paint(objects, old, new, limit).flags
        return {oid for oid, colour in flags.items() if colour == _THEIRS}
    seen = {new}
    todo = [new]
    while todo:
        for parent in objects.link(todo.pop()).parents:
            if parent not in seen:
                seen.add(parent)
                todo.append(parent)
                if len(seen) > limit:
                    raise HistoryTooDeepError(f"more than {limit} commits behind {new}")
    return seen


def touching(objects: Objects, head: Oid | None, path: Path) -> Iterator[Commit]:
    """Yield the commits of a branch's own line that changed what is at `path`, newest first."""
    here = objects.commit(head) if head is not None else None
    found = find(objects, here.tree, path) if here is not None else None
    while here is not None:
        above = objects.commit(here.parents[0]) if here.parents else None
        before = find(objects, above.tree, path) if above is not None else None
        if before != found:
            yield here
        here, found = above, before
