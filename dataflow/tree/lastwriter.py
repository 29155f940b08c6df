"""Which side wrote a path last: what the merge driver `last-writer` asks."""

from __future__ import annotations

from collections.abc import Callable

from ..store.base import Oid
from ..store.objects import Objects
from .paths import Path
from .tree import find

DEPTH_MAX = 10_000

Newer = Callable[[Path, Path], bool | None]
"""(name on our side, name on theirs) -> whether theirs was written later; None: not known."""


def changed_at(objects: Objects, head: Oid, path: Path) -> int:
    """Return the time of the commit that gave `path` what `head` has there.

    Follows parents that have the same there already, at most `DEPTH_MAX` of them.
    """
    commit = objects.commit(head)
    entry = find(objects, commit.tree, path)
    for _ in range(DEPTH_MAX):
        parents = (objects.commit(p) for p in commit.parents)
        same = next((p for p in parents if find(objects, p.tree, path) == entry), None)
        if same is None:
            break
        commit = same
    return commit.commit_time


def by_time(objects: Objects, ours: Oid, ours_tree: Oid, theirs: Oid) -> Newer:
    """Compare by commit time, equal times by object id, so that both directions agree.

    What `ours_tree` has unlike the commit `ours` is being written now.
    """

    def newer(ours_name: Path, theirs_name: Path) -> bool:
        mine = find(objects, ours_tree, ours_name)
        if mine != find(objects, objects.commit(ours).tree, ours_name):
            return False
        other = find(objects, objects.commit(theirs).tree, theirs_name)
        return (changed_at(objects, theirs, theirs_name), other.oid if other else "") > (
            changed_at(objects, ours, ours_name),
            mine.oid if mine else "",
        )

    return newer
