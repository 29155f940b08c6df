"""Packing in the background, so that loose objects stay bounded and packs few.

Theory of operation.  The store tells which objects it wrote and made reachable.  When these exceed
`limit`, or 64 MiB, a thread of low priority writes them into a pack; when the pack is durable, and
only then, it removes the loose files of the objects that are in it.  Every object was read and its
id checked on the way; one that is damaged is left where it is.  Objects that others wrote (plain
git, another process) are packed too, but only when they are older than `grace` seconds: somebody
may be about to make them reachable, and `git repack -a -d` drops what is packed and not reachable.

Packs are merged geometrically: each is to have twice as many objects as all smaller ones together,
so their number grows with the logarithm of history, and an object is copied that many times.
Merging copies entries as they are.  Packs of groups (`grouppack`) are taken apart before, as if
their objects were loose.  Left alone are packs with a `.keep`, `.promisor` or `.bitmap` beside
them, cruft packs, packs above `merge_max` octets, those that a multi-pack-index may name, and all
of them while a `git gc` runs (gc.pid).  A reader that finds a pack gone looks again which there
are, and git does the same.

A crash leaves temporary files that `git gc` sweeps, objects that are both loose and packed, or a
pack beside the larger one it was merged into: nothing that anybody misses, and all of it goes the
next time.  One process packs at a time (flock(2) on `dataflow/pack.lock`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from ..errors import ObjectCorruptError
from .background import Breath, Foreground, Stopped, alone, come_last
from .base import Oid
from .grouppack import load
from .loose import decode, object_id
from .packfile import Deltas, PackWriter, Step

log = logging.getLogger(__name__)

LIMIT = 2000
GROUPS = 32  # packs of groups from which on they are taken apart
SIZE_LIMIT = 64 << 20  # octets of our loose objects, inflated, from which on they are packed too
GRACE = 600.0
MERGE_MAX = 1 << 30
FACTOR = 2
PATIENCE = 4  # times the limit, from which on packing takes as much time as writing
_GC_PID_AGE = 12 * 3600  # seconds after which git takes a gc.pid for a dead one's
_LEFTOVER_AGE = 24 * 3600
_UNTOUCHABLE = (".keep", ".promisor", ".bitmap", ".mtimes")
_HEX = frozenset("0123456789abcdef")
_IDX_FIXED, _IDX_ENTRY = 8 + 1024 + 40, 28  # octets of an index, version 2


@dataclass(frozen=True, slots=True)
class Packing:
    """What was done since the store was opened."""

    rounds: int = 0
    packed: int = 0  # objects that went from loose files into packs
    merged: int = 0  # packs that went into larger ones
    failures: int = 0
    error: str = ""  # of the last failure


class Packer:
    """Packs the object directory `root` of the Git directory `git_dir`.

    `settled` and `written` are called by the writer; they start the thread when it is time.
    """

    def __init__(
        self,
        root: str,
        git_dir: str,
        *,
        limit: int = LIMIT,
        grace: float = GRACE,
        merge_max: int = MERGE_MAX,
        clock: Callable[[], float] = time.time,
        step: Step = lambda name: None,
        foreground: Foreground | None = None,
    ) -> None:
        self.root = root
        self.limit = limit
        self.grace = grace
        self.merge_max = merge_max
        self.statistics = Packing()
        self.packs = os.path.join(root, "pack")
        self._git_dir = git_dir
        self._clock = clock
        self._step = step
        self._settled: set[Oid] = set()
        self._grouped: dict[str, None] = {}  # packs to be taken apart, without suffix, in order
        self._left: int | None = None  # packs to be merged that others left
        self._size = 0  # octets of all these, inflated
        self._others: int | None = None  # loose objects that are not ours to pack now; about
        self._looked = 0.0
        self._lock = threading.Lock()
        self._breathe = Breath(foreground)
        self._thread: threading.Thread | None = None

    # When.

    def settled(self, oids: Sequence[Oid], size: int = 0) -> None:
        """Take note of loose objects, `size` octets, that a reference leads to now."""
        with self._lock:
            self._settled.update(oids)
            self._size += size
            self._breathe.patient = self._backlog() < PATIENCE
        self._start_if_due()

    def grouped(self, path: str, size: int = 0) -> None:
        """Take note of a group's pack, `size` octets inflated, that a reference leads to now."""
        with self._lock:
            self._grouped[path] = None
            self._size += size
            self._breathe.patient = self._backlog() < PATIENCE
        self._start_if_due()

    @property
    def may_group(self) -> bool:
        """Say whether a group may be written as a pack: somebody packs, and keeps up."""
        return self.limit > 0 and self._small_packs() < PATIENCE * GROUPS

    def _small_packs(self) -> int:
        if self._left is None:
            self._left = self._leftover()
        return len(self._grouped) + self._left

    def _leftover(self) -> int:
        """Return how many packs are to be merged now."""
        with contextlib.suppress(OSError):
            return geometric([count for count, _ in self._mergeable()], FACTOR)
        return 0

    def written(self, count: int) -> None:
        """Take note of loose objects that nothing leads to yet."""
        self._others = self._estimate() + count
        self._start_if_due()

    def _estimate(self) -> int:
        """Return about how many loose objects others left: those of one directory, as git does."""
        if self._others is None:
            with contextlib.suppress(OSError):
                self._others = 256 * len(os.listdir(os.path.join(self.root, "17")))
        return self._others or 0

    def _backlog(self) -> float:
        """Return how much of ours is loose, in units of the limits."""
        loose = len(self._settled) / max(1, self.limit)
        return max(loose, self._small_packs() / GROUPS, self._size / SIZE_LIMIT)

    def _start_if_due(self) -> None:
        if not self.limit or (self._thread is not None and self._thread.is_alive()):
            return
        old = self._estimate() >= self.limit and self._clock() - self._looked > self.grace
        if self._backlog() >= 1 or old:
            thread = threading.Thread(target=self._run, name="dataflow-pack", daemon=True)
            with contextlib.suppress(RuntimeError):  # no thread to be had: another time
                thread.start()
                self._thread = thread

    def _run(self) -> None:
        come_last()
        self.try_to_pack()

    def try_to_pack(self) -> None:
        """Pack; a failure is logged and counted, for writing can go on with loose objects."""
        try:
            self.pack()
        except Stopped:
            pass
        except Exception as exc:
            log.warning("packing %s: %s", self.root, exc)
            self._count(failures=1, error=str(exc))

    def close(self) -> None:
        """Stop the thread between two objects; nothing is lost by that."""
        self._breathe.stop()
        if self._thread is not None:
            self._thread.join()

    # What.

    def pack(self, *, grace: float | None = None) -> Packing:
        """Pack loose objects and merge packs, here and now; does nothing while another does it."""
        self._looked = self._clock()
        with self.alone() as mine:
            if mine:
                self._sweep()
                self._pack_loose(self.grace if grace is None else grace)
                self._merge()
                self._left = 0
                self._count(rounds=1)
        return self.statistics

    def alone(self) -> AbstractContextManager[bool]:
        """Hold the lock of whoever packs; gives False if somebody else does."""
        return alone(os.path.join(self._git_dir, "dataflow", "pack.lock"))

    def _count(
        self,
        *,
        rounds: int = 0,
        packed: int = 0,
        merged: int = 0,
        failures: int = 0,
        error: str = "",
    ) -> None:
        s = self.statistics
        self.statistics = Packing(
            s.rounds + rounds,
            s.packed + packed,
            s.merged + merged,
            s.failures + failures,
            error or s.error,
        )

    def _pack_loose(self, grace: float) -> None:
        with self._lock:
            ours, self._settled = self._settled, set()
            size, self._size = self._size, 0
            groups = list(self._grouped)[::-1]
        found = self._loose()
        before = self._clock() - grace
        chosen = [(mtime, oid) for mtime, oid in found if oid in ours or mtime <= before]
        chosen.sort(reverse=True)  # the newest version of a tree whole, those before as deltas
        try:
            packed, taken = self._write([oid for _, oid in chosen], groups)
        except BaseException:
            with self._lock:
                self._settled |= ours
                self._size += size
            raise
        self._others = len(found) - len(packed)
        for oid in packed:
            with contextlib.suppress(Stopped):  # what is in the pack is of no use any more
                self._breathe()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path(oid))
        self._step("loose removed")
        for path in taken:
            remove_pack(path)
        with self._lock:
            for path in groups:
                del self._grouped[path]
        self._count(packed=len(packed))

    def _path(self, oid: Oid) -> str:
        return f"{self.root}/{oid[:2]}/{oid[2:]}"

    def _loose(self) -> list[tuple[float, Oid]]:
        """Return all loose objects with their times."""
        found: list[tuple[float, Oid]] = []
        for number in range(256):
            self._breathe()
            first = f"{number:02x}"
            with (
                contextlib.suppress(FileNotFoundError),
                os.scandir(f"{self.root}/{first}") as names,
            ):
                for entry in names:
                    if len(entry.name) == 38 and _HEX.issuperset(entry.name):
                        with contextlib.suppress(FileNotFoundError):
                            found.append((entry.stat().st_mtime, first + entry.name))
        return found

    def _write(self, oids: Sequence[Oid], groups: Sequence[str]) -> tuple[list[Oid], list[str]]:
        """Write loose objects and groups' packs into one pack; return those in it, durably."""
        writer = PackWriter(self.packs, step=self._step)
        deltas = Deltas()
        try:
            packed = [oid for oid in oids if self._add_loose(writer, deltas, oid)]
            taken = [path for path in groups if self._add_group(writer, deltas, path)]
            made = writer.finish() if len(writer) else ""
        finally:
            writer.abort()  # does nothing once it has its name
        return packed, [path for path in taken if path != made]

    def _add_loose(self, writer: PackWriter, deltas: Deltas, oid: Oid) -> bool:
        self._breathe()
        try:
            with open(self._path(oid), "rb") as f:
                kind, data = decode(oid, f.read())
        except (FileNotFoundError, ObjectCorruptError):
            return False
        if object_id(kind, data) != oid:
            return False
        deltas.add(writer, oid, kind, data)
        return True

    def _add_group(self, writer: PackWriter, deltas: Deltas, path: str) -> bool:
        """Write what a group's pack has and `writer` has not; False if that is not all of it."""
        pack = load(path)
        if pack is None:
            return False
        try:
            for oid, kind, data in reversed(list(pack.objects())):
                self._breathe()
                if object_id(kind, data) != oid:
                    return False
                if bytes.fromhex(oid) not in writer:
                    deltas.add(writer, oid, kind, data)
        except (ValueError, zlib.error):
            return False
        return True

    # Merging.

    def _merge(self) -> None:
        packs = self._mergeable()
        chosen = geometric([count for count, _ in packs], FACTOR)
        if chosen < 2:
            return
        paths = [path for _, path in packs[:chosen]]
        writer = PackWriter(self.packs, step=self._step)
        try:
            for path in reversed(paths):  # the largest first: its deltas stay together
                writer.copy(path, self._breathe)
            made = writer.finish()
        finally:
            writer.abort()
        for path in paths:
            if path != made:
                remove_pack(path)
        self._step("packs removed")
        self._count(merged=len(paths))

    def _mergeable(self) -> list[tuple[int, str]]:
        """Return the packs that may be merged, with their numbers of objects, smallest first."""
        if self._gc_runs():
            return []
        names = set(os.listdir(self.packs))
        midx = os.path.join(self.packs, "multi-pack-index")
        named_until = os.stat(midx).st_mtime if "multi-pack-index" in names else 0.0
        packs: list[tuple[int, str]] = []
        for name in names:
            stem, suffix = os.path.splitext(name)
            if suffix != ".idx" or stem + ".pack" not in names:
                continue
            path = os.path.join(self.packs, stem)
            info = os.stat(path + ".idx")
            small = os.stat(path + ".pack").st_size <= self.merge_max
            free = path not in self._grouped and not self._kept(stem, names)
            if small and info.st_mtime > named_until and free:
                packs.append(((info.st_size - _IDX_FIXED) // _IDX_ENTRY, path))
        return sorted(packs)

    @staticmethod
    def _kept(stem: str, names: set[str]) -> bool:
        return any(stem + suffix in names for suffix in _UNTOUCHABLE)

    def _gc_runs(self) -> bool:
        try:
            age = self._clock() - os.stat(os.path.join(self._git_dir, "gc.pid")).st_mtime
        except OSError:
            return False
        return age < _GC_PID_AGE

    def _sweep(self) -> None:
        """Remove what a crash left: our temporary files, and packs that were half removed."""
        names = set(os.listdir(self.packs)) if os.path.isdir(self.packs) else set()
        for name in names:
            stem, suffix = os.path.splitext(name)
            half = suffix == ".pack" and stem + ".idx" not in names
            if half or name.startswith(("tmp_pack_", "tmp_idx_")):
                path = os.path.join(self.packs, name)
                with contextlib.suppress(OSError):
                    if self._clock() - os.stat(path).st_mtime > _LEFTOVER_AGE:
                        os.unlink(path)


def geometric(counts: Sequence[int], factor: int) -> int:
    """Return how many of the smallest packs to merge, so that each left is `factor` times the rest.

    `counts` ascends.  0 or 1 is none.
    """
    total, chosen = 0, 0
    for i, count in enumerate(counts):
        if i and count < factor * total:
            chosen = i + 1
        total += count
    return chosen


def remove_pack(path: str) -> None:
    """Remove a pack, its index first: a pack without an index is none, and is swept later."""
    for suffix in (".idx", ".rev", ".pack"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + suffix)
