"""Fetch and push, blocking: dulwich's clients between another repository and one of our stores.

What arrives is one pack, synced before a reference names it.  dulwich works on a `Repo` of its own
on the same directory, for its caches serve one thread; a store in memory lends a copy.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from dulwich.client import GitClient
from dulwich.object_store import ObjectStoreGraphWalker
from dulwich.objects import ObjectID, ShaFile
from dulwich.pack import UnpackedObject
from dulwich.refs import Ref
from dulwich.repo import MemoryRepo, Repo

from ..errors import (
    CannotFetchError,
    CannotPushError,
    DataflowError,
    NoRemoteHeadError,
    NotFastForwardError,
    ObjectMissingError,
)
from ..store.base import HEADS, Kind, Oid, Store
from ..store.disk import DiskStore
from ..store.objects import Objects
from ..store.syncing import fsync_path
from ..tree.history import is_ancestor
from .transport import Token, open_client, shown

Object = tuple[Kind, bytes]
Refs = Mapping[Ref, ObjectID]
_OID_LEN = 40
_FORMAT = "it is a SHA-256 repository, ours is SHA-1"


@dataclass(slots=True)
class Fetched:
    """The commit that was fetched, and the objects that a store in memory must still be given."""

    commit: Oid
    objects: Sequence[Object] = ()


@dataclass(slots=True)
class Pushed:
    """What became of the references of one push: those the other side has now, and refusals."""

    done: dict[str, Oid] = field(default_factory=dict)
    refused: dict[str, DataflowError] = field(default_factory=dict)


class _DiskRepo(Repo):
    """Tells the other side about all that we have, not only about branches."""

    def get_graph_walker(self, heads: list[ObjectID] | None = None) -> ObjectStoreGraphWalker:
        return super().get_graph_walker(_commits(self) if heads is None else heads)

    def _change_object_format(self, object_format_name: str) -> None:
        raise ValueError(_FORMAT)  # dulwich would turn an empty repository into one of theirs


class _MemoryRepo(MemoryRepo):
    def get_graph_walker(self, heads: list[ObjectID] | None = None) -> ObjectStoreGraphWalker:
        return super().get_graph_walker(_commits(self) if heads is None else heads)

    def _change_object_format(self, object_format_name: str) -> None:
        raise ValueError(_FORMAT)


def _commits(repo: Repo | MemoryRepo) -> list[ObjectID]:
    there = {oid for oid in repo.refs.as_dict().values() if oid in repo.object_store}
    return sorted(there)


@contextlib.contextmanager
def _lent(store: Store) -> Iterator[_DiskRepo | _MemoryRepo]:
    """Lend dulwich a repository with what the store has."""
    if isinstance(store, DiskStore):
        with contextlib.closing(_DiskRepo(store.path)) as disk:
            disk.object_store.fsync_object_files = store.fsync
            yield disk
        return
    memory = _MemoryRepo()
    objects = Objects(store)
    todo = list(store.refs("refs/").values())
    seen = set(todo)
    while todo:
        oid = todo.pop()
        kind, data = store.get(oid)
        memory.object_store.add_object(
            ShaFile.from_raw_string(int(kind), data, ObjectID(oid.encode()))
        )
        below: list[Oid] = []
        if kind is Kind.COMMIT:
            commit = objects.commit(oid)
            below = [commit.tree, *commit.parents]
        elif kind is Kind.TREE:
            below = [e.oid for e in objects.tree(oid).values()]
        todo += [o for o in below if o not in seen and store.has(o)]
        seen.update(below)
    for name, oid in store.refs("refs/").items():
        memory.refs[Ref(name.encode("utf-8", "surrogateescape"))] = ObjectID(oid.encode())
    yield memory


def fetch(store: Store, url: str, branch: str, token: Token, timeout: float) -> Fetched:
    """Bring a branch's commit with all it needs into the store; `NoRemoteHeadError`.

    Anything else that goes wrong is `CannotFetchError`.  No reference is changed.
    """
    name = Ref(HEADS.encode() + branch.encode("utf-8", "surrogateescape"))
    found: list[ObjectID] = []

    def wants(refs: Refs, depth: int | None = None) -> list[ObjectID]:
        token.check()
        _check_format(refs)
        if name not in refs:
            raise NoRemoteHeadError(shown(url), branch)
        found.append(refs[name])
        return [] if refs[name] in have else [refs[name]]

    try:
        with _lent(store) as repo, _opened(url, repo, "pull", token, timeout) as (client, path):
            have = set(_commits(repo))
            client.fetch(path, repo, determine_wants=wants, progress=token.progress)
            token.check()
            return Fetched(found[0].decode(), _arrived(store, repo))
    except NoRemoteHeadError:
        raise
    except Exception as err:  # dulwich, urllib3 and the peer's octets raise whatever they like
        raise CannotFetchError(shown(url), _reason(err, token)) from err


def _arrived(store: Store, repo: Repo | MemoryRepo) -> list[Object]:
    if isinstance(repo, Repo):
        if isinstance(store, DiskStore) and store.fsync:
            fsync_path(os.path.join(repo.commondir(), "objects", "pack"))
        return []
    new = (oid for oid in repo.object_store if not store.has(oid.decode()))
    raw = (repo.object_store.get_raw(oid) for oid in new)
    return [(Kind(number), data) for number, data in raw]


def push(
    store: Store, url: str, refs: Mapping[str, Oid], force: bool, token: Token, timeout: float
) -> Pushed:
    """Give the other side commits as the references `refs`; each is taken or refused by itself.

    Without `force` only those move that lose no commit.  Either way one that somebody else moves
    at the same time is refused.  What stops all of them is `CannotPushError`.
    """
    pushed = Pushed()
    objects = Objects(store)

    def update(old: dict[Ref, ObjectID]) -> dict[Ref, ObjectID]:
        token.check()
        _check_format(old)
        new: dict[Ref, ObjectID] = {}
        for name, oid in refs.items():
            ref = Ref(name.encode("utf-8", "surrogateescape"))
            there = old[ref].decode() if ref in old else None
            if there != oid and there is not None and not force and not _has(objects, there, oid):
                pushed.refused[name] = NotFastForwardError(name, there, oid)
            elif there == oid:
                pushed.done[name] = oid
            else:
                new[ref] = ObjectID(oid.encode())
        return new

    try:
        with _lent(store) as repo, _opened(url, repo, "push", token, timeout) as (client, path):
            raw = path.encode("utf-8", "surrogateescape")

            def pack(
                have: AbstractSet[ObjectID],
                want: AbstractSet[ObjectID],
                *,
                ofs_delta: bool = False,
                progress: Callable[[bytes], None] | None = None,
            ) -> tuple[int, Iterator[UnpackedObject]]:
                token.check()
                return repo.generate_pack_data(set(have), set(want), ofs_delta=ofs_delta)

            made = client.send_pack(raw, update, pack, progress=token.progress)
    except Exception as err:  # dulwich, urllib3 and the peer's octets raise whatever they like
        raise CannotPushError(shown(url), _reason(err, token)) from err
    for ref, why in (made.ref_status or {}).items():
        if why is not None:
            name = ref.decode("utf-8", "surrogateescape")
            pushed.refused[name] = CannotPushError(shown(url), f"{name}: {why}")
    pushed.done |= {name: oid for name, oid in refs.items() if name not in pushed.refused}
    return pushed


@contextlib.contextmanager
def _opened(
    url: str, repo: Repo | MemoryRepo, operation: str, token: Token, timeout: float
) -> Iterator[tuple[GitClient, str]]:
    client, path = open_client(url, repo.get_config_stack(), operation, token, timeout)
    try:
        yield client, path
    finally:
        client.close()
        token.finish()


def _check_format(refs: Refs) -> None:
    if any(len(oid) != _OID_LEN for oid in refs.values()):
        raise ValueError(_FORMAT)


def _has(objects: Objects, old: Oid, new: Oid) -> bool:
    """Say whether `new` contains `old`, which we may not know."""
    try:
        return is_ancestor(objects, objects.commit(old).oid, new)
    except ObjectMissingError:
        return False


def _reason(err: Exception, token: Token) -> str:
    """Say in one line what went wrong; a stop that was asked for explains what follows from it."""
    said = token.reason or " ".join(str(err).split()) or type(err).__name__
    return said if len(said) <= 400 else said[:400] + "..."
