"""What a store of Git objects and references is to the layers above.

A store keeps objects by content and moves references by compare-and-set.  Writing has two steps,
so that one sync can serve many commits (group commit): `put` makes an object readable in this
process, `update` makes all that was put durable and moves references to it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

Oid = str  # 40 lower-case hexadecimal digits
HEADS = "refs/heads/"


class Link(NamedTuple):
    """What a walk over history asks of a commit; `generation` 0 is unknown."""

    parents: tuple[Oid, ...]
    time: int
    generation: int = 0


class History(Protocol):
    """What a store may know of commits without reading them: see `index`."""

    def get(self, oid: Oid) -> Link | None:
        """Return what is known of a commit; None if nothing is."""

    def generation(self, oid: Oid) -> int:
        """Return a commit's generation, above its parents'; 0 if it is not known."""

    def back(self, oid: Oid, steps: int) -> Oid | None:
        """Return the commit so many first parents back; None if that is not known."""

    def distance(self, old: Oid, new: Oid) -> int | None:
        """Return how many first parents `old` is behind `new`; None if it is not, or unknown."""

    def follow(self, oids: Sequence[Oid], read: Callable[[Oid], Link]) -> None:
        """Make these commits and all behind them known, now or soon."""


class Kind(enum.IntEnum):
    """The four kinds of Git objects, with their numbers in packs (gitformat-pack)."""

    COMMIT = 1
    TREE = 2
    BLOB = 3
    TAG = 4


@dataclass(frozen=True, slots=True)
class RefUpdate:
    """Move `name` from `old` to `new`; None means that it does not exist before, or after."""

    name: str
    old: Oid | None
    new: Oid | None


@runtime_checkable
class Store(Protocol):
    """Objects and references; every method blocks and may be called from any thread.

    `put`, `flush` and `update` are for one writer at a time, which the caller sees to.
    """

    @property
    def history(self) -> History | None:
        """What is known of commits without reading them, if anything."""

    def get(self, oid: Oid) -> tuple[Kind, bytes]:
        """Return an object's kind and content; `ObjectMissingError` if it is not there."""

    def has(self, oid: Oid) -> bool:
        """Say whether the object is there."""

    def put(self, kind: Kind, data: bytes) -> Oid:
        """Keep an object and return its id; durable only after `update`."""

    def flush(self) -> None:
        """Write what was put, or raise `OSError` and forget it; not yet durable by itself."""

    def ref(self, name: str) -> Oid | None:
        """Return what the reference `name` (in full: `refs/heads/main`) points at."""

    def refs(self, prefix: str = HEADS) -> dict[str, Oid]:
        """Return all references whose full name starts with `prefix`."""

    def update(self, updates: Sequence[RefUpdate]) -> None:
        """Make durable what was put and move references: all, or if one has another value none.

        Raises `RefChangedError`, `RefLockedError` (a lock stayed too long), `OSError` (a full
        disk: what was put is forgotten).
        """

    def stat(self, names: Iterable[str]) -> dict[str, Oid | None]:
        """Return the present value of each name; cheap enough to be polled."""

    def checkpoint(self) -> None:
        """Put what is durable where other gits find it after a power cut; called when idle."""

    def close(self) -> None:
        """Release descriptors; what was not flushed is lost."""
