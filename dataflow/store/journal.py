"""The journal: what makes a group of commits durable with one flush of one file.

Theory of operation.  A record holds everything a group of commits needs: the octets of its loose
objects, or of the pack that has them all (`grouppack`), and the references it moves.
`DiskStore.update` goes through these steps, under Git's locks on all references of the group:

1. the objects' files are written under temporary names, without a sync: a full disk shows here,
   before anything counts;
2. the record is written and `fdatasync` is called, once: **this is the commit**;
3. the files are renamed to their names, the locks to the references, without a sync; from then on
   every git sees the commits, and only then they are acknowledged.

A crash (of the process or of the machine) before 2 ends leaves temporary files and locks: nothing
was acknowledged, the record's CRC does not fit or it is carried out in full at the next start: all
of its references, or none.  A crash after 2 is repaired by `recovery`, which reads the records of
dead owners and does step 3 again, for all that a power cut took from the file system's memory.

The file is made of zeros and synced once, and its size never changes; so a flush writes the pages
of the record and no metadata.  It has two halves.  When one is full, the other is begun, and a
thread syncs the file system (syncfs(2)); then all that the full half tells is durable in its place,
and the half may be overwritten.  A half begins at its start with an epoch one higher; records of a
lower epoch behind the newest are the rest of an older turn and do not count.  A record torn by a
power cut is the last one and was not acknowledged.

What a plain git may see after a power cut, before the next start of dataflow: references at older
values, and loose files and packs, not yet synced, that are empty or cut short (ext4 syncs what
replaces a file, not what is new), so `git fsck` may complain until `DiskStore` was opened once.  An
acknowledged commit is never lost.  What *other* gits wrote without a sync is theirs to lose.

The owner holds a lock (flock(2)) on its journal, which ends with the process; several processes on
one repository have a journal each.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import struct
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from dulwich.refs import Ref, check_ref_format

from .base import Oid, RefUpdate
from .grouppack import GroupPack
from .syncing import FEW, fsync_path, sync_paths, syncfs

SEGMENT = 2 << 20  # octets of each half
PREFIX = "journal-"
_MAGIC = b"DFJ2"
_HEADER = struct.Struct("<4sIIQIQ")  # magic, CRC of the rest, octets, epoch, number, nanoseconds
_OBJECT = struct.Struct("<20sI")
_UPDATE = struct.Struct("<H20s20s")
_PACK = struct.Struct("<II")  # octets of the pack, of its index
_COUNTS = struct.Struct("<III")
_SHA_LEN = 20
_NONE = bytes(_SHA_LEN)
_COARSE = 5  # CLOCK_REALTIME_COARSE (time.h): the clock of files' times


@dataclass(frozen=True, slots=True)
class Record:
    """One group: its objects, as loose files by id or in packs, and the references it moves.

    `time` is in nanoseconds, of the coarse clock.
    """

    objects: Sequence[tuple[Oid, bytes]]
    updates: Sequence[RefUpdate]
    epoch: int = 0
    number: int = 0
    time: int = 0
    packs: Sequence[GroupPack] = ()

    def emit(self) -> bytes:
        """Return the record as it is on disk."""
        parts = [_COUNTS.pack(len(self.objects), len(self.packs), len(self.updates))]
        for oid, octets in self.objects:
            parts += (_OBJECT.pack(bytes.fromhex(oid), len(octets)), octets)
        for pack in self.packs:
            parts += (_PACK.pack(len(pack.octets), len(pack.index)), pack.octets, pack.index)
        for u in self.updates:
            name = os.fsencode(u.name)
            parts += (_UPDATE.pack(len(name), _raw(u.old), _raw(u.new)), name)
        body = b"".join(parts)
        rest = _HEADER.pack(_MAGIC, 0, len(body), self.epoch, self.number, self.time)[8:]
        return _MAGIC + struct.pack("<I", zlib.crc32(body, zlib.crc32(rest))) + rest + body


def parse(data: bytes, at: int = 0) -> tuple[Record, int] | None:
    """Return the record at `at` and where the next one begins; None if none is there whole."""
    if len(data) - at < _HEADER.size:
        return None
    magic, crc, size, epoch, number, when = _HEADER.unpack_from(data, at)
    start = at + _HEADER.size
    if magic != _MAGIC or size > len(data) - start:
        return None
    body = data[start : start + size]
    if zlib.crc32(body, zlib.crc32(data[at + 8 : start])) != crc:
        return None
    try:
        objects, packs, updates = _parse_body(body)
    except (struct.error, ValueError):  # somebody else made this, with a CRC that fits
        return None
    return Record(objects, updates, epoch, number, when, packs), start + size


def _parse_body(
    body: bytes,
) -> tuple[list[tuple[Oid, bytes]], tuple[GroupPack, ...], list[RefUpdate]]:
    """Take a record apart; a name that leads out of `refs` is an error."""
    object_count, pack_count, update_count = _COUNTS.unpack_from(body)
    at = _COUNTS.size
    objects: list[tuple[Oid, bytes]] = []
    for _ in range(object_count):
        raw, size = _OBJECT.unpack_from(body, at)
        at += _OBJECT.size + size
        if at > len(body):
            raise ValueError(f"expected {at} octets, found {len(body)}")
        objects.append((raw.hex(), body[at - size : at]))
    packs: list[GroupPack] = []
    for _ in range(pack_count):
        size, index_size = _PACK.unpack_from(body, at)
        at += _PACK.size + size + index_size
        if at > len(body) or size < _SHA_LEN:
            raise ValueError(f"expected {at} octets, found {len(body)}")
        middle = at - index_size
        packs.append(GroupPack(body[middle - size : middle], body[middle:at]))
    updates: list[RefUpdate] = []
    for _ in range(update_count):
        size, old, new = _UPDATE.unpack_from(body, at)
        at += _UPDATE.size + size
        name = body[at - size : at]
        if at > len(body) or not name.startswith(b"refs/") or not check_ref_format(Ref(name)):
            raise ValueError(f"expected the name of a reference, found {name!r}")
        updates.append(RefUpdate(os.fsdecode(name), _oid(old), _oid(new)))
    return objects, tuple(packs), updates


def records(data: bytes) -> Iterator[Record]:
    """Yield the records of one half: one epoch, numbered from 0 without a gap."""
    found = parse(data)
    epoch, number = (found[0].epoch if found else 0), 0
    while found and found[0].epoch == epoch and found[0].number == number:
        yield found[0]
        found, number = parse(data, found[1]), number + 1


def read(fd: int) -> list[Record]:
    """Return all records of a journal, oldest first."""
    size = os.fstat(fd).st_size // 2
    halves = [list(records(os.pread(fd, size, half * size))) for half in (0, 1)]
    return sorted((r for half in halves for r in half), key=lambda r: (r.epoch, r.number))


def places(root: str, record: Record) -> set[str]:
    """Return the files below the Git directory `root` that a record tells of."""
    found = {f"{root}/objects/{oid[:2]}/{oid[2:]}" for oid, _ in record.objects}
    found |= {f"{root}/objects/pack/{p.name}{x}" for p in record.packs for x in (".pack", ".idx")}
    return found | {f"{root}/{u.name}" for u in record.updates}


class Journal:
    """One process's journal in the directory `path`; made, or an unused one taken, when needed."""

    def __init__(self, path: str, *, segment: int = SEGMENT) -> None:
        self.path = path
        self.name = ""
        self._segment = segment
        self._fd = -1
        self._half, self._at, self._number, self._epoch = 0, 0, 0, 0
        self._sync: threading.Thread | None = None
        self._sync_error: OSError | None = None
        self._touched: set[str] = set()  # where it tells that something is, while these are few
        self.dirty = False  # something is in it that may not be durable in its place
        self._time = 0  # of the last record: none is older than those before it

    @property
    def room(self) -> int:
        """How many octets a record may have at most."""
        return self._segment - _HEADER.size

    def open(self) -> None:
        """Become the owner of a journal file; does nothing the second time."""
        if self._fd >= 0:
            return
        os.makedirs(self.path, exist_ok=True)
        self.name, self._fd = self._unused() or self._make()
        self._epoch = time.time_ns()  # no record of an earlier owner may look like one of ours

    def _unused(self) -> tuple[str, int] | None:
        for name in sorted(n for n in os.listdir(self.path) if n.startswith(PREFIX)):
            fd = take(os.path.join(self.path, name))
            if fd is None:
                continue
            if os.fstat(fd).st_size == 2 * self._segment and not read(fd):
                return name, fd
            os.close(fd)
        return None

    def _make(self) -> tuple[str, int]:
        name = PREFIX + secrets.token_hex(8)
        path = os.path.join(self.path, name)
        temporary = os.path.join(self.path, f"tmp-{name}")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(temporary, flags, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            zeros = bytes(1 << 20)
            for at in range(0, 2 * self._segment, len(zeros)):
                write_at(fd, zeros[: 2 * self._segment - at], at)
            os.fsync(fd)
            os.rename(temporary, path)
            for directory in (self.path, os.path.dirname(self.path)):
                fsync_path(directory)
        except BaseException:
            os.close(fd)
            for leftover in (temporary, path):
                if os.path.exists(leftover):
                    os.unlink(leftover)
            raise
        return name, fd

    def append(
        self,
        objects: Sequence[tuple[Oid, bytes]],
        updates: Sequence[RefUpdate],
        *,
        sync: bool,
        written: int = 0,
        packs: Sequence[GroupPack] = (),
    ) -> None:
        """Write a record behind the others; with `sync` it is durable, with all before it.

        `written` is when the references that it moves were written before: the record is not older.
        A file's time may be ahead of the clock here (multigrain timestamps, Linux 6.13).
        """
        self.open()
        now = self._time = max(time.clock_gettime_ns(_COARSE), written, self._time)
        record = Record(objects, updates, self._epoch, self._number, now, packs)
        octets = record.emit()
        if len(octets) > self._segment - self._at:
            self._turn()
            record = replace(record, epoch=self._epoch, number=self._number)
            octets = record.emit()
        self.dirty = True
        write_at(self._fd, octets, self._half * self._segment + self._at)
        if sync:
            os.fdatasync(self._fd)
        self._at += len(octets)
        self._number += 1
        if len(self._touched) <= FEW:
            self._touched |= places(os.path.dirname(self.path), record)

    def _turn(self) -> None:
        """Go on in the other half, and sync in the background what this one tells."""
        self._wait()
        os.fdatasync(self._fd)  # records that waited for the next sync
        self._half, self._at, self._number = 1 - self._half, 0, 0
        self._epoch += 1
        self._sync = threading.Thread(target=self._sync_now, name="dataflow-sync", daemon=True)
        self._sync.start()

    def _sync_now(self) -> None:
        try:
            syncfs(self._fd)
        except OSError as exc:
            self._sync_error = exc

    def _wait(self) -> None:
        if self._sync is not None:
            self._sync.join()
            self._sync = None
        if self._sync_error is not None:
            self._sync_error = None
            syncfs(self._fd)  # once more; raises if it cannot be: nothing is overwritten then

    def checkpoint(self) -> None:
        """Make all that the journal tells durable in its place, and empty it."""
        if self._fd < 0 or not self.dirty:
            return
        self._wait()
        sync_paths(self._touched, os.path.dirname(self.path), self._fd)
        clear(self._fd)
        self._touched.clear()
        self._half, self._at, self._number = 0, 0, 0
        self._epoch += 1
        self.dirty = False

    def close(self) -> None:
        """Empty the journal and leave it for others."""
        if self._fd < 0:
            return
        try:
            self.checkpoint()
        finally:
            os.close(self._fd)
            self._fd = -1


def take(path: str) -> int | None:
    """Open a journal whose owner is gone, and own it; None if somebody has it or nobody may."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        return None
    except OSError as exc:
        if exc.errno == errno.EROFS:
            return None
        raise
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    if os.fstat(fd).st_nlink == 0:  # somebody recovered and removed it meanwhile
        os.close(fd)
        return None
    return fd


def clear(fd: int) -> None:
    """Make both halves empty, durably: the older first, for it alone would tell what is no more."""
    half = os.fstat(fd).st_size // 2
    for at in sorted((0, half), key=lambda at: _epoch(fd, at)):
        write_at(fd, bytes(_HEADER.size), at)
        os.fdatasync(fd)


def _epoch(fd: int, at: int) -> int:
    header = os.pread(fd, _HEADER.size, at)
    return int(_HEADER.unpack(header)[3]) if len(header) == _HEADER.size else 0


def write_at(fd: int, octets: bytes, at: int) -> None:
    """Write all of `octets`, however many calls that takes."""
    view = memoryview(octets)
    while view:
        done = os.pwrite(fd, view, at)
        view, at = view[done:], at + done


def _raw(oid: Oid | None) -> bytes:
    return bytes.fromhex(oid) if oid else _NONE


def _oid(raw: bytes) -> Oid | None:
    return None if raw == _NONE else raw.hex()
