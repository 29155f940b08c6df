"""An index of history: parents, times and generations of commits, without reading commits.

Theory of operation.  Walks over history ask for parents and times; an object costs about 80 µs to
read, a record here 3.  A record also has the commit's generation (one more than its parents' at
most: whoever has the higher one is no ancestor), its depth on its own line (that of first parents)
and a jump: an earlier commit of that line, chosen as in a skew-binary list, so that the commit a
given number of steps back, however many, is found in a logarithm of steps.  Whether a commit is on
a branch's line, and where a watch goes on that was away for 50,000 commits, needs no walk.

The file is shared memory: a header, a hash table of positions, and records in the order in which
they were added, parents first.  It is a cache of what objects say and nothing else: it is never
synced, whoever finds it missing or damaged goes to the objects, and the next commit fills it again
in the background.  A record's CRC covers its parents' ids too, so that one that a power cut tore,
or whose parents it moved, does not count.  What is not reachable any more may stay in it: callers
begin at commits that they found in the store.

When it is full a file of four times the size takes its place; the old one is marked, and other
processes turn to the new one.  Its writer holds flock(2).
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import struct
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ..errors import DataflowError
from .background import Breath, Foreground, Stopped, alone, come_last
from .base import Link, Oid

log = logging.getLogger(__name__)

CAPACITY = 4096  # records of the first file
GROWTH = 4
PROBES_MAX = 128
FOLLOWED_MAX = 32  # commits that are added at once
LINKS_MAX = 50_000  # commits kept while the way to the root is walked
_HEADER = struct.Struct("<4sIIIQ")  # magic, capacity, count, 1 when replaced, reserved
_RECORD = struct.Struct("<20sIIIIIqI")  # id, parents, jump, depth, generation, time, CRC
_U32 = struct.Struct("<I")
_MAGIC = b"DFH1"
_COUNT_AT, _REPLACED_AT = 8, 12
_NONE, _MANY = 0xFFFFFFFF, 0xFFFFFFFE  # no parent; more than two: see the object


class _Record(NamedTuple):
    oid: bytes
    first: int
    second: int
    jump: int
    depth: int
    generation: int
    time: int
    crc: int


class _File:
    """One mapped file."""

    def __init__(self, fd: int) -> None:
        self.map = mmap.mmap(fd, 0)
        magic, capacity, _, _, _ = _HEADER.unpack_from(self.map)
        self.capacity = capacity
        self.slots = 2 * capacity
        self.table = _HEADER.size
        self.records = self.table + 4 * self.slots
        if magic != _MAGIC or len(self.map) != file_size(capacity):
            self.map.close()
            raise ValueError("no index of history, or one that was cut")

    @property
    def count(self) -> int:
        """Records so far."""
        return int(min(_U32.unpack_from(self.map, _COUNT_AT)[0], self.capacity))

    @property
    def replaced(self) -> bool:
        """True when a larger file has taken its place."""
        return bool(_U32.unpack_from(self.map, _REPLACED_AT)[0])

    def raw(self, position: int) -> bytes:
        """Return the id at a position."""
        at = self.records + _RECORD.size * position
        return self.map[at : at + 20]

    def record(self, position: int) -> _Record | None:
        """Return the record at a position if it is whole."""
        if position >= self.capacity:
            return None
        at = self.records + _RECORD.size * position
        record = _Record._make(_RECORD.unpack_from(self.map, at))
        return record if self._crc(record, at) == record.crc else None

    def _crc(self, record: _Record, at: int) -> int:
        crc = zlib.crc32(self.map[at : at + _RECORD.size - 4], 1)
        for parent in (record.first, record.second):
            if parent < self.capacity:
                crc = zlib.crc32(self.raw(parent), crc)
        return crc

    def find(self, raw: bytes) -> int:
        """Return an id's position, or -1."""
        slot = int.from_bytes(raw[:4], "little")
        for i in range(PROBES_MAX):
            at = self.table + 4 * ((slot + i) % self.slots)
            position = _U32.unpack_from(self.map, at)[0] - 1
            if position < 0:
                return -1
            if position < self.capacity and self.raw(position) == raw:
                return int(position)
        return -1

    def append(self, record: _Record) -> None:
        """Write a record behind the others; there must be room."""
        position = self.count
        at = self.records + _RECORD.size * position
        _RECORD.pack_into(self.map, at, *record)
        _U32.pack_into(self.map, at + _RECORD.size - 4, self._crc(record, at))
        _U32.pack_into(self.map, _COUNT_AT, position + 1)
        self.enter(record.oid, position)

    def enter(self, raw: bytes, position: int) -> None:
        """Make a record findable; one too many in a crowded place stays unknown."""
        slot = int.from_bytes(raw[:4], "little")
        for i in range(PROBES_MAX):
            at = self.table + 4 * ((slot + i) % self.slots)
            if not _U32.unpack_from(self.map, at)[0]:
                _U32.pack_into(self.map, at, position + 1)
                return


class History:
    """The index of one repository, in the directory `path`; made at the first `add`."""

    def __init__(
        self, path: str, *, capacity: int = CAPACITY, foreground: Foreground | None = None
    ) -> None:
        self.path = os.path.join(path, "history")
        self._capacity = capacity
        self._file: _File | None = None
        self._known: dict[Oid, int] = {}  # where parents of what was asked last are
        self._lock = threading.Lock()  # who adds, in this process
        self._tried = False
        self._breathe = Breath(foreground)
        self._closed = False
        self._filler: threading.Thread | None = None

    # Asking.

    def get(self, oid: Oid) -> Link | None:
        """Return what is known of a commit; None if nothing is."""
        f = self._open()
        if f is None:
            return None
        found = self._get(f, oid)
        if found is None or found.second == _MANY:
            return None
        parents = tuple(self._name(f, p) for p in (found.first, found.second) if p != _NONE)
        return Link(parents, found.time, found.generation)

    def generation(self, oid: Oid) -> int:
        """Return a commit's generation, 0 if it is not known."""
        f = self._open()
        found = self._get(f, oid) if f is not None else None
        return found.generation if found else 0

    def back(self, oid: Oid, steps: int) -> Oid | None:
        """Return the commit so many first parents back; None if that is not known."""
        f = self._open()
        record = self._get(f, oid) if f is not None else None
        if f is None or record is None or record.depth <= steps:
            return None
        depth = record.depth - steps
        while record is not None and record.depth > depth:
            jump = f.record(record.jump) if record.jump != _NONE else None
            if jump is None or jump.depth < depth:
                jump = f.record(record.first)
            if jump is None or jump.depth >= record.depth:
                return None
            record = jump
        return record.oid.hex() if record is not None else None

    def distance(self, old: Oid, new: Oid) -> int | None:
        """Return how many first parents `old` is behind `new`; None if it is not, or unknown."""
        f = self._open()
        if f is None:
            return None
        a, b = self._get(f, old), self._get(f, new)
        if a is None or b is None or a.depth > b.depth:
            return None
        return b.depth - a.depth if self.back(new, b.depth - a.depth) == old else None

    def _get(self, f: _File, oid: Oid) -> _Record | None:
        raw = bytes.fromhex(oid)
        position = self._known.pop(oid, -1)
        if position < 0 or f.raw(position) != raw:
            position = f.find(raw)
        return f.record(position) if position >= 0 else None

    def _name(self, f: _File, position: int) -> Oid:
        oid = f.raw(position).hex()
        if len(self._known) > 4096:
            self._known.clear()
        self._known[oid] = position
        return oid

    def _open(self) -> _File | None:
        f = self._file
        if f is not None and not f.replaced:
            return f
        if f is None and self._tried:
            return None
        self._tried = True
        self._file, self._known = None, {}
        with contextlib.suppress(OSError, ValueError, struct.error):
            fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            try:
                self._file = _File(fd)
            finally:
                os.close(fd)  # the mapping has its own
        return self._file

    # Adding.

    def add(self, oid: Oid, parents: Sequence[Oid], when: int) -> bool:
        """Add a commit; False if a parent is not there, or no room, or somebody else is adding."""
        return self._add_all({oid: Link(tuple(parents), when)}) == []

    def _add_all(self, links: Mapping[Oid, Link]) -> list[Oid]:
        """Add commits in order, under one lock; return those that could not be added."""
        with self._lock:
            f = self._open() or self._create()
            if f is None or f.count >= f.capacity:
                return list(links)
            with alone(self.path + ".lock") as mine:
                return [o for o, link in links.items() if not (mine and self._add(f, o, link))]

    def _add(self, f: _File, oid: Oid, link: Link) -> bool:
        raw, parents = bytes.fromhex(oid), link.parents
        known = f.find(raw)
        if known >= 0 and f.record(known) is not None:
            return True
        positions = [f.find(bytes.fromhex(p)) for p in parents]
        above = [r for p in positions if p >= 0 and (r := f.record(p)) is not None]
        if len(above) != len(parents) or f.replaced or f.count >= f.capacity:
            return False
        first = positions[0] if positions else _NONE
        second = _NONE if len(parents) < 2 else positions[1] if len(parents) == 2 else _MANY
        jump, depth = _jump(f, first, above[0]) if above else (_NONE, 1)
        generation = 1 + max((r.generation for r in above), default=0)
        f.append(_Record(raw, first, second, jump, depth, generation, link.time, 0))
        return True

    def _create(self) -> _File | None:
        try:
            with alone(self.path + ".lock") as mine:
                if mine and not self._usable():
                    make_file(self.path, self._capacity)
        except OSError as exc:
            log.warning("index of history %s: %s", self.path, exc)
        self._tried = False
        return self._open()

    def _usable(self) -> bool:
        self._tried = False
        return self._open() is not None

    def grow(self) -> None:
        """Put a larger file in the place of a full one."""
        with self._lock, alone(self.path + ".lock") as mine:
            f = self._open()
            if not mine or f is None or f.count < f.capacity:
                return
            make_file(self.path, f.capacity * GROWTH, f, self._breathe)
            _U32.pack_into(f.map, _REPLACED_AT, 1)

    # Filling in the background.

    def follow(self, oids: Sequence[Oid], read: Callable[[Oid], Link]) -> None:
        """Make these and all behind them known: few of them at once, else in the background.

        Raises nothing: who calls has committed already.
        """
        try:
            left = self._add_all({oid: read(oid) for oid in oids})
            left = left and self._add_all(self._behind(left, read))
            if left and not self._closed and not (self._filler and self._filler.is_alive()):
                self._filler = threading.Thread(
                    target=self._fill, args=(left, read), name="dataflow-history", daemon=True
                )
                self._filler.start()
        except (OSError, RuntimeError, DataflowError) as exc:  # RuntimeError: no thread to be had
            log.warning("index of history %s: %s", self.path, exc)

    def _behind(self, oids: Sequence[Oid], read: Callable[[Oid], Link]) -> dict[Oid, Link]:
        """Return these and what a group may have put behind them, parents first."""
        found: dict[Oid, Link] = {}
        for head in oids:
            todo: tuple[Oid, ...] = (head,)
            while todo and todo[0] not in found and len(found) < FOLLOWED_MAX + len(oids):
                link = found[todo[0]] = read(todo[0])
                todo = () if all(map(self.generation, link.parents[:1])) else link.parents[:1]
        return dict(reversed(found.items()))

    def _fill(self, oids: Sequence[Oid], read: Callable[[Oid], Link]) -> None:
        come_last()
        for oid in oids:
            self.try_to_fill(oid, read)

    def try_to_fill(self, oid: Oid, read: Callable[[Oid], Link]) -> None:
        """Fill; a failure is logged: walks go on with objects."""
        try:
            self.fill(oid, read)
        except Stopped:
            pass
        except Exception as exc:
            log.warning("index of history %s: %s", self.path, exc)

    def fill(self, oid: Oid, read: Callable[[Oid], Link]) -> None:
        """Add `oid` and all behind it that is not there, parents first; ends early on `close`."""
        todo = [oid]
        links: dict[Oid, Link] = {}
        while todo:
            self._breathe()
            here = todo[-1]
            link = links.pop(here, None) or read(here)
            missing = [p for p in link.parents if self.generation(p) == 0]
            if missing:
                todo += missing
                links[here] = link
                if len(links) > LINKS_MAX:  # the newest, which is needed last, is read again
                    del links[next(iter(links))]
                continue
            todo.pop()
            if not self.add(here, link.parents, link.time):
                self.grow()
                if not self.add(here, link.parents, link.time):
                    return

    def close(self) -> None:
        """Stop filling; what was added stays."""
        self._closed = True
        self._breathe.stop()
        if self._filler is not None:
            self._filler.join()
        self._file = None


def file_size(capacity: int) -> int:
    """Return the octets of a file with room for so many records."""
    return _HEADER.size + 8 * capacity + _RECORD.size * capacity


def make_file(
    path: str,
    capacity: int,
    old: _File | None = None,
    breathe: Callable[[], object] = lambda: None,
) -> None:
    """Make a file with the records of `old`, and give it its name when it is whole."""
    temporary = f"{path}.{os.getpid():x}"
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, file_size(capacity))  # or a full disk would be a SIGBUS later
        os.pwrite(fd, _HEADER.pack(_MAGIC, capacity, 0, 0, 0), 0)
        if old is not None:
            _copy(old, _File(fd), breathe)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(fd)


def _copy(old: _File, new: _File, breathe: Callable[[], object]) -> None:
    count = old.count
    size = _RECORD.size * count
    new.map[new.records : new.records + size] = old.map[old.records : old.records + size]
    for position in range(count):
        breathe()
        new.enter(new.raw(position), position)
    _U32.pack_into(new.map, _COUNT_AT, count)


def _jump(f: _File, first: int, parent: _Record) -> tuple[int, int]:
    """Return jump and depth of a child of `parent`, which is at position `first`."""
    over = f.record(parent.jump) if parent.jump != _NONE else None
    far = f.record(over.jump) if over is not None and over.jump != _NONE else None
    if over and far and parent.depth - over.depth == over.depth - far.depth:
        return over.jump, parent.depth + 1
    return first, parent.depth + 1
