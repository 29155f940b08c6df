"""Helpers to build trees and histories in memory."""

from __future__ import annotations

from dataflow.store.base import Store
from dataflow.store.memory import MemoryStore
from dataflow.store.objects import Objects
from dataflow.tree.overlay import Overlay
from dataflow.tree.paths import parse


def tree(objects: Objects, files: dict[str, str | tuple[int, str]]) -> str:
    """Store a tree of small files; a value is the content, or (mode, content)."""
    overlay = Overlay(objects)
    for path, value in files.items():
        mode, content = value if isinstance(value, tuple) else (None, value)
        overlay.write(parse(path), content.encode(), mode=mode)
    return overlay.store()


class Graph:
    """Commits by short names: `g.add("c", "a", "b")` makes c with parents a and b."""

    def __init__(self, store: Store | None = None) -> None:
        self.objects = Objects(store or MemoryStore())
        self.ids: dict[str, str] = {}
        self.clock = 1000

    def add(self, name: str, *parents: str, files=None, when: int | None = None) -> str:
        self.clock += 1
        root = tree(self.objects, files if files is not None else {"f": name})
        oid = self.objects.put_commit(
            root,
            tuple(self.ids[p] for p in parents),
            "t <t@t>",
            name + "\n",
            self.clock if when is None else when,
        )
        self.ids[name] = oid
        return oid

    def names(self, oids) -> list[str]:
        back = {v: k for k, v in self.ids.items()}
        return [back[o] for o in oids]
