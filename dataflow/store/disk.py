"""A bare repository on disk that plain git may use at the same time, both ways.

Objects: dulwich reads packs, `loose` reads and writes loose files, `grouppack` makes a pack of what
a group of commits put.  References: `refs`.  What makes both durable, and what a crash leaves:
`journal`, which opens with the theory, and `recovery`.  What becomes of many loose files and small
packs: `pack`.  What is known of history: `index`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence

from dulwich.errors import NotGitRepository
from dulwich.objects import ObjectID
from dulwich.repo import Repo

from ..errors import ObjectCorruptError, ObjectMissingError, PeerError
from .background import Foreground
from .base import HEADS, Kind, Oid, RefUpdate
from .format import check_format, read_shallow
from .grouppack import StagedPack, build
from .index import History
from .journal import Journal
from .locks import lock_owner
from .loose import LooseWriter, Staged, decode, object_id
from .objects import Cache
from .pack import LIMIT, Packer
from .recovery import Recovered, recover
from .reflog import Reflogs
from .refs import RefFiles

PENDING_MAX = 16 << 20  # octets kept in memory before they are written out
RECENT_MAX = 4 << 20  # octets kept of what groups put into packs: a loose file is read faster
PACK_FROM = 24  # objects of an update from which on they become a pack


class DiskStore:
    """Objects and references of the Git repository at `path`; made, bare, if there is none.

    `recovered` tells what the journals of dead owners had to repair.  More than `pack_limit` loose
    objects are packed in the background (0: never).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        fsync: bool = True,
        lock_timeout: float = 5.0,
        create: bool = True,
        pack_limit: int = LIMIT,
    ) -> None:
        self.path = os.path.abspath(os.fspath(path))
        self.fsync = fsync
        self._repo = _open(self.path, create)
        self.shallow = read_shallow(self._repo)
        self.git_dir = self._repo.controldir()
        self.common_dir = self._repo.commondir()  # where references lie
        self._writer = LooseWriter(os.path.join(self.common_dir, "objects"))
        self._foreground = work = Foreground()
        self.history = History(os.path.join(self.common_dir, "dataflow"), foreground=work)
        self.packer = Packer(self._writer.root, self.common_dir, limit=pack_limit, foreground=work)
        self._refs = RefFiles(self._repo, lock_timeout)
        self._refs.on_busy = self._busy
        self._journal = Journal(os.path.join(self.common_dir, "dataflow"))
        self._reflogs = Reflogs(self._repo, self.get)
        self._pending: dict[Oid, tuple[Kind, bytes]] = {}
        self._pending_len = 0
        self._recent: Cache[Oid, tuple[Kind, bytes]] = Cache(RECENT_MAX, lambda o: len(o[1]) + 200)
        self._lock = threading.Lock()  # dulwich's pack caches
        self.recovered = self._recover()

    def _recover(self) -> Recovered:
        return recover(self._journal.path, self._refs, self._writer, self.get)

    def _busy(self, lock: str) -> None:
        """Look whether the lock in the way is that of another dataflow, which may be dead."""
        if lock_owner(lock) not in ("", self._journal.name):
            self._recover()

    # Objects.

    def get(self, oid: Oid) -> tuple[Kind, bytes]:
        """Return an object's kind and content, from memory, a loose file or a pack."""
        known = self._pending.get(oid) or self._recent.peek(oid)
        if known is not None:
            return known
        try:
            with open(self._writer.path(oid), "rb") as f:
                return decode(oid, f.read())
        except FileNotFoundError:
            return self._get_packed(oid)
        except ObjectCorruptError:
            if not self._is_packed(oid):  # else a crash left the file beside the pack
                raise
            return self._get_packed(oid)

    def _get_packed(self, oid: Oid) -> tuple[Kind, bytes]:
        with self._lock:
            try:
                number, data = self._repo.object_store.get_raw(ObjectID(oid.encode()))
            except (KeyError, ValueError):
                raise ObjectMissingError(oid) from None
        return Kind(number), data

    def _is_packed(self, oid: Oid) -> bool:
        with self._lock:
            return self._repo.object_store.contains_packed(ObjectID(oid.encode()))

    def has(self, oid: Oid) -> bool:
        """Say whether the object is there."""
        if oid in self._pending or os.path.exists(self._writer.path(oid)):
            return True
        with self._lock:
            return ObjectID(oid.encode()) in self._repo.object_store

    def put(self, kind: Kind, data: bytes) -> Oid:
        """Keep an object and return its id; durable only after `update`."""
        self._foreground.busy()
        oid = object_id(kind, data)
        if oid not in self._pending:
            if self._pending_len + len(data) > PENDING_MAX:
                self.flush()
            self._pending[oid] = (kind, data)
            self._pending_len += len(data)
        return oid

    def flush(self) -> None:
        """Write everything put so far; the next `update` makes it durable."""
        if self._pending:
            self.packer.written(len(self._commit(())))

    def _commit(self, updates: Sequence[RefUpdate]) -> list[Oid]:
        """Write what was put; with `updates` this is the step after which they are durable."""
        pending = self._pending.items()
        try:
            staged = self._writer.stage((oid, kind, data) for oid, (kind, data) in pending)
            try:
                if self.fsync:
                    self._record(staged, updates)
                staged.publish()
            except BaseException:
                staged.abort()
                raise
            return list(self._pending)
        finally:
            self._pending, self._pending_len = {}, 0

    def _record(self, staged: Staged, updates: Sequence[RefUpdate]) -> None:
        objects = staged.octets
        if staged.size > self._journal.room // 2:
            staged.publish_durably()
            objects = []
        if objects or updates:
            written = self._written(updates)
            self._journal.append(objects, updates, sync=bool(updates), written=written)

    # References.

    def ref(self, name: str) -> Oid | None:
        """Return what the reference points at, as it is on disk now."""
        return self._refs.read(name)

    def refs(self, prefix: str = HEADS) -> dict[str, Oid]:
        """Return all references below `prefix`, sorted."""
        return self._refs.all(prefix)

    def stat(self, names: Iterable[str]) -> dict[str, Oid | None]:
        """Return the present value of each name: one small read each, no history."""
        return {name: self.ref(name) for name in names}

    def update(self, updates: Sequence[RefUpdate]) -> None:
        """Make what was put durable and move references, under their locks, all or none."""
        if self.fsync:
            self._journal.open()
            self._refs.mark.belong_to(self._journal.name)
        with self._refs.locked(updates) as publish:
            if self._worth_a_pack():
                self._update_packed(updates, publish)
            else:
                size = self._pending_len
                oids = self._commit(updates)
                publish()
                self.packer.settled(oids, size)
        self._reflogs.note(updates)

    def _worth_a_pack(self) -> bool:
        """Say whether what was put goes into one pack: much of it, and little enough to record."""
        many = len(self._pending) >= PACK_FROM and self._pending_len <= self._journal.room // 2
        return many and self.fsync and self.packer.may_group

    def _update_packed(self, updates: Sequence[RefUpdate], publish: Callable[[], None]) -> None:
        """Make a pack of what was put; it is durable, and named, before the references move."""
        size, pending = self._pending_len, self._pending
        try:
            pack = build((oid, kind, data) for oid, (kind, data) in pending.items())
            staged = StagedPack(self.packer.packs, pack)
            try:
                self._journal.append(
                    [], updates, sync=True, written=self._written(updates), packs=[pack]
                )
                staged.publish()
            except BaseException:
                staged.abort()
                raise
        finally:
            self._pending, self._pending_len = {}, 0
        for oid, found in pending.items():
            self._recent.put(oid, found)
        try:
            publish()
        finally:
            staged.release()
        self.packer.grouped(staged.path, size)

    def _written(self, updates: Sequence[RefUpdate]) -> int:
        return max((self._refs.written(u.name) for u in updates), default=0)

    # The life of the store.

    def checkpoint(self) -> None:
        """Make everything durable in its place, so that plain git finds it after a power cut."""
        self._journal.checkpoint()

    def close(self) -> None:
        """Empty the journal and close packs; what was put and not flushed is lost."""
        self._pending.clear()
        self._pending_len = 0
        self.packer.close()
        self.history.close()
        self._journal.close()
        self._repo.close()


def _open(path: str, create: bool) -> Repo:
    try:
        return check_format(Repo(path))
    except NotGitRepository:
        if not create or (os.path.isdir(path) and os.listdir(path)):
            raise PeerError(f"{path}: expected a Git repository or an empty directory") from None
    return Repo.init_bare(path, mkdir=not os.path.isdir(path), default_branch=b"main")
