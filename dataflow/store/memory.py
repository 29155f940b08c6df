"""A store that lives and dies with the process: for tests and for scratch trees."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from ..errors import ObjectMissingError, RefChangedError
from .base import HEADS, History, Kind, Oid, RefUpdate
from .loose import object_id


class MemoryStore:
    """Objects and references in two dicts."""

    history: History | None = None

    def __init__(self) -> None:
        self._objects: dict[Oid, tuple[Kind, bytes]] = {}
        self._refs: dict[str, Oid] = {}
        self._lock = threading.Lock()

    def get(self, oid: Oid) -> tuple[Kind, bytes]:
        """Return an object's kind and content."""
        try:
            return self._objects[oid]
        except KeyError:
            raise ObjectMissingError(oid) from None

    def has(self, oid: Oid) -> bool:
        """Say whether the object is there."""
        return oid in self._objects

    def put(self, kind: Kind, data: bytes) -> Oid:
        """Keep an object and return its id."""
        oid = object_id(kind, data)
        self._objects.setdefault(oid, (kind, bytes(data)))
        return oid

    def flush(self) -> None:
        """Do nothing: memory is as durable as it gets."""

    def ref(self, name: str) -> Oid | None:
        """Return what the reference points at."""
        return self._refs.get(name)

    def refs(self, prefix: str = HEADS) -> dict[str, Oid]:
        """Return all references below `prefix`."""
        with self._lock:
            return {k: v for k, v in sorted(self._refs.items()) if k.startswith(prefix)}

    def update(self, updates: Sequence[RefUpdate]) -> None:
        """Move all references, or none."""
        with self._lock:
            for u in updates:
                found = self._refs.get(u.name)
                if found != u.old:
                    raise RefChangedError(u.name, u.old, found)
            for u in updates:
                if u.new is None:
                    self._refs.pop(u.name, None)
                else:
                    self._refs[u.name] = u.new

    def stat(self, names: Iterable[str]) -> dict[str, Oid | None]:
        """Return the present value of each name."""
        return {name: self._refs.get(name) for name in names}

    def checkpoint(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""
