"""Who asked for which part of a tree: a trie of paths, matched against what a commit changed."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

from .paths import ROOT, Path


class PrefixNode:
    """A path that somebody asked for, or that leads to one; `parked` are those who wait there."""

    __slots__ = ("_children", "_name", "_parent", "_users", "parked")

    def __init__(self, parent: PrefixNode | None = None, name: bytes = b"") -> None:
        self._parent = parent
        self._name = name
        self._children: dict[bytes, PrefixNode] = {}
        self._users = 0
        self.parked: set[Parked] = set()

    def enter(self, path: Path) -> PrefixNode:
        """Return the node of `path` below this one, made as needed; pair it with `leave`."""
        node = self
        for name in path:
            found = node._children.get(name)
            if found is None:
                found = node._children[name] = PrefixNode(node, name)
            node = found
        node._users += 1
        return node

    def leave(self) -> None:
        """Undo one `enter`; nodes that nobody needs go away."""
        self._users -= 1
        node = self
        while node._parent is not None and not node._users and not node._children:
            del node._parent._children[node._name]
            node = node._parent

    def everything(self) -> Iterator[PrefixNode]:
        """Yield this node and all below."""
        todo = [self]
        while todo:
            node = todo.pop()
            yield node
            todo += node._children.values()

    def match(self, paths: Sequence[Path]) -> Iterator[PrefixNode]:
        """Yield the nodes at or above some of `paths`, which are sorted; this one always."""
        yield from self._match(paths, 0, len(paths), ROOT)

    def _match(
        self, paths: Sequence[Path], low: int, high: int, prefix: Path
    ) -> Iterator[PrefixNode]:
        yield self
        if not self._children:
            return
        depth = len(prefix)
        if len(self._children) < high - low:
            names = list(self._children)
        else:
            names = list({p[depth]: None for p in paths[low:high] if len(p) > depth})
        for name in names:
            child = self._children.get(name)
            if child is not None:
                path = (*prefix, name)
                first, last = span(paths, path, low, high)
                if first < last:
                    yield from child._match(paths, first, last, path)

    def __len__(self) -> int:
        return sum(1 for _ in self.everything())


class Parked:
    """Whoever waits for a change at or below a path."""

    __slots__ = ()


def span(
    paths: Sequence[Path], prefix: Path, low: int = 0, high: int | None = None
) -> tuple[int, int]:
    """Return which of the sorted `paths` lie at or below `prefix`: first index, last index + 1."""
    depth = len(prefix)
    end = len(paths) if high is None else high
    first = bisect_left(paths, prefix, low, end)
    return first, bisect_right(paths, prefix, first, end, key=lambda p: p[:depth])
