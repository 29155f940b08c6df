"""What is done at the start with the journals of owners that are dead; see `journal`.

Objects whose loose file, or pack, is missing or damaged are written again.  A reference goes on to
the value that the newest record gives it, if it still has an older one: one that the records name,
or an ancestor.  But if its file was written after that record, somebody else did it (a forced push,
a `git reset`), and it stays.  Only a branch that another git removed after a crash comes back.
The locks that a dead owner held are removed, its journals are emptied.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from ..errors import ExistsError, ObjectCorruptError, ObjectMissingError
from .base import Kind, Oid, RefUpdate
from .grouppack import GroupPack, StagedPack, load, release
from .journal import PREFIX, Record, clear, places, read, take
from .locks import mark_of
from .loose import LooseWriter, decode, object_id
from .refs import RefFiles
from .syncing import sync_paths

ANCESTORS_MAX = 10_000  # commits looked at for one reference
_LOCK = "recovery.lock"

Get = Callable[[Oid], tuple[Kind, bytes]]


@dataclass(slots=True)
class Recovered:
    """What was repaired: objects written again, and references with what they point at now."""

    objects: int = 0
    refs: dict[str, Oid | None] = field(default_factory=dict)


@dataclass(slots=True)
class _Chain:
    """All values that records give one reference; the newest with its time."""

    values: set[Oid | None]
    last: Oid | None
    time: int


def recover(directory: str, refs: RefFiles, writer: LooseWriter, get: Get) -> Recovered:
    """Carry out the journals in `directory` that nobody owns; `get` reads any object.

    Raises `RefLockedError` when another git's lock is in the way; the journals then stay.
    """
    done = Recovered()
    if not _any(directory):
        return done
    with contextlib.ExitStack() as stack:
        if not _exclusive(directory, stack):
            return done
        dead = dict(_dead(directory, stack))
        if not dead:
            return done
        found = {name: read(fd) for name, fd in dead.items()}
        records = [record for each in found.values() for record in each]
        records.sort(key=lambda r: (r.time, r.epoch, r.number))
        refs.drop_dead_locks(set(dead))
        done.objects = _restore_packs(records, writer, get) + _restore(records, writer, get)
        done.refs = _move(records, refs, get)
        _empty(directory, dead, found)
    return done


def _any(directory: str) -> bool:
    try:
        return any(name.startswith(PREFIX) for name in os.listdir(directory))
    except FileNotFoundError:
        return False


def _exclusive(directory: str, stack: contextlib.ExitStack) -> bool:
    """Hold the lock of those who recover, so that who opens next finds everything done."""
    try:
        fd = os.open(os.path.join(directory, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return False  # read-only for us: the next writer recovers
    stack.callback(os.close, fd)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return True


def _dead(directory: str, stack: contextlib.ExitStack) -> Iterator[tuple[str, int]]:
    for name in sorted(os.listdir(directory)):
        if name.startswith(PREFIX):
            fd = take(os.path.join(directory, name))
            if fd is not None:
                stack.callback(os.close, fd)
                yield name, fd


def _restore_packs(records: Sequence[Record], writer: LooseWriter, get: Get) -> int:
    """Write packs again that a power cut damaged or took; others were merged, and are elsewhere."""
    directory = os.path.join(writer.root, "pack")
    packs = {pack.name: pack for r in records for pack in r.packs}
    missing: list[GroupPack] = []
    written = 0
    for name, pack in packs.items():
        path = os.path.join(directory, name)
        if load(path) == pack:
            pass
        elif os.path.exists(path + ".pack") or os.path.exists(path + ".idx"):
            written += _rewrite(directory, pack)
        else:
            missing.append(pack)
        release(path)
    for pack in missing:  # now that no damaged pack is in the way of a look at the others
        if not all(_good(oid, writer, get) for oid in pack.oids):
            written += _rewrite(directory, pack)
    return written


def _rewrite(directory: str, pack: GroupPack) -> int:
    StagedPack(directory, pack).name()
    return len(pack.oids)


def _restore(records: Sequence[Record], writer: LooseWriter, get: Get) -> int:
    written = 0
    for oid, octets in {oid: octets for r in records for oid, octets in r.objects}.items():
        if not _good(oid, writer, get):
            writer.replace(oid, octets)
            written += 1
    return written


def _good(oid: Oid, writer: LooseWriter, get: Get) -> bool:
    """Say whether the loose file is right, or there is none and a pack has the object."""
    try:
        with open(writer.path(oid), "rb") as f:
            return object_id(*decode(oid, f.read())) == oid
    except ObjectCorruptError:
        return False
    except FileNotFoundError:
        with contextlib.suppress(ObjectMissingError):
            return bool(get(oid))
        return False


def _move(records: Sequence[Record], refs: RefFiles, get: Get) -> dict[str, Oid | None]:
    moved: dict[str, Oid | None] = {}
    for name, chain in _chains(records).items():
        present = refs.read(name)
        if present != chain.last and _lost(name, present, chain, refs, get):
            with (
                contextlib.suppress(ExistsError),  # a/b, and a in another journal
                refs.locked([RefUpdate(name, present, chain.last)]) as publish,
            ):
                publish()
                moved[name] = chain.last
    return moved


def _chains(records: Sequence[Record]) -> dict[str, _Chain]:
    chains: dict[str, _Chain] = {}
    for r in records:
        for u in r.updates:
            chain = chains.setdefault(u.name, _Chain(set(), None, 0))
            chain.values |= {u.old, u.new}
            chain.last, chain.time = u.new, r.time
    return chains


def _lost(name: str, present: Oid | None, chain: _Chain, refs: RefFiles, get: Get) -> bool:
    """Say whether `present` is what a crash left, and not what somebody wrote later."""
    if present is None:
        return True
    if refs.written(name) > chain.time:
        return False
    return present in chain.values or _is_ancestor(present, chain.last, get)


def _is_ancestor(old: Oid, new: Oid | None, get: Get) -> bool:
    todo, seen = deque([new] if new else []), {new}
    while todo and len(seen) < ANCESTORS_MAX:
        try:
            kind, data = get(todo.popleft())
        except (ObjectMissingError, ObjectCorruptError):
            continue
        lines = data.partition(b"\n\n")[0].split(b"\n") if kind is Kind.COMMIT else ()
        parents = [line[7:47].decode() for line in lines if line.startswith(b"parent ")]
        if old in parents:
            return True
        todo += [p for p in parents if p not in seen]
        seen.update(parents)
    return False


def _empty(directory: str, dead: dict[str, int], found: dict[str, list[Record]]) -> None:
    """Make the repairs durable; one emptied journal stays for the next owner."""
    for name in os.listdir(directory):
        if name.startswith("tmp-") and time.time() - os.stat(f"{directory}/{name}").st_mtime > 60:
            os.unlink(os.path.join(directory, name))
    root = os.path.dirname(directory)
    records = [record for each in found.values() for record in each]
    paths = {path for r in records for path in places(root, r)}
    sync_paths(paths, root, next(iter(dead.values())))
    for i, (name, fd) in enumerate(dead.items()):
        if found[name]:
            clear(fd)
        if i:
            os.unlink(os.path.join(directory, name))
            with contextlib.suppress(FileNotFoundError):
                os.unlink(mark_of(directory, name))
