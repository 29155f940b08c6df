"""Both stores under the same tests, and what only the one on disk has: locks, syncs, packs."""

import os
import threading

import pytest

from dataflow.errors import (
    ExistsError,
    InvalidHashError,
    ObjectCorruptError,
    ObjectMissingError,
    PeerError,
    RefChangedError,
    RefLockedError,
)
from dataflow.store import loose
from dataflow.store.base import HEADS, Kind, RefUpdate
from dataflow.store.disk import DiskStore
from dataflow.store.memory import MemoryStore
from dataflow.store.objects import EMPTY_TREE, FILE, Cache, Entry, Objects

MAIN = HEADS + "main"


@pytest.fixture(params=["memory", "disk"])
def store(request, tmp_path):
    made = MemoryStore() if request.param == "memory" else DiskStore(tmp_path / "r.git")
    yield made
    made.close()


@pytest.fixture
def disk(tmp_path):
    made = DiskStore(tmp_path / "r.git", lock_timeout=0.05)
    yield made
    made.close()


def commit(store, text="x") -> str:
    objects = Objects(store)
    root = objects.put_tree({b"f": Entry(FILE, objects.put_blob(text.encode()))})
    oid = objects.put_commit(root, (), "a <a@b>", text + "\n", 1)
    store.flush()
    return oid


def test_object_ids_are_gits(store) -> None:
    assert store.put(Kind.BLOB, b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"
    assert store.put(Kind.TREE, b"") == EMPTY_TREE
    store.flush()
    assert store.get("ce013625030ba8dba906f756967f9e9ca394464a") == (Kind.BLOB, b"hello\n")


def test_missing_object(store) -> None:
    with pytest.raises(ObjectMissingError, match="1234"):
        store.get("1234" * 10)
    assert not store.has("1234" * 10)


def test_update_compares(store) -> None:
    a, b = commit(store, "a"), commit(store, "b")
    store.update([RefUpdate(MAIN, None, a)])
    with pytest.raises(RefChangedError):
        store.update([RefUpdate(MAIN, None, b)])
    with pytest.raises(RefChangedError):
        store.update([RefUpdate(HEADS + "other", None, a), RefUpdate(MAIN, b, b)])
    assert store.refs() == {MAIN: a}
    store.update([RefUpdate(MAIN, a, b), RefUpdate(HEADS + "x/y", None, a)])
    assert store.refs() == {MAIN: b, HEADS + "x/y": a}
    store.update([RefUpdate(MAIN, b, None), RefUpdate(HEADS + "x/y", a, None)])
    assert store.refs() == {}
    assert store.ref(MAIN) is None


def test_wrong_kind_is_said(store) -> None:
    objects = Objects(store)
    blob = objects.put_blob(b"x")
    with pytest.raises(InvalidHashError, match="a blob, not a commit"):
        objects.commit(blob)


def test_damaged_tree_and_commit(store) -> None:
    objects = Objects(store)
    with pytest.raises(ObjectCorruptError):
        objects.tree(store.put(Kind.TREE, b"100644 f"))
    with pytest.raises(ObjectCorruptError):
        objects.commit(store.put(Kind.COMMIT, b"tree nonsense\n"))


def test_lock_left_behind_is_reported_with_its_age(disk) -> None:
    oid = commit(disk)
    path = os.path.join(disk.git_dir, "refs/heads/main.lock")
    open(path, "w").close()
    os.utime(path, (0, 0))
    with pytest.raises(RefLockedError, match="dead one left it") as caught:
        disk.update([RefUpdate(MAIN, None, oid)])
    assert caught.value.age > 1e9
    os.unlink(path)
    disk.update([RefUpdate(MAIN, None, oid)])
    assert disk.ref(MAIN) == oid


def test_lock_is_waited_for(tmp_path) -> None:
    store = DiskStore(tmp_path / "r.git", lock_timeout=30)
    oid = commit(store)
    path = os.path.join(store.git_dir, "refs/heads/main.lock")
    open(path, "w").close()
    release = threading.Timer(0.05, os.unlink, [path])
    release.start()
    store.update([RefUpdate(MAIN, None, oid)])
    release.join()
    assert store.ref(MAIN) == oid
    store.close()


def test_packed_references(disk) -> None:
    a, b = commit(disk, "a"), commit(disk, "b")
    disk.update([RefUpdate(MAIN, None, a), RefUpdate(HEADS + "x", None, a)])
    disk._repo.refs.pack_refs(all=True)
    assert not os.path.exists(os.path.join(disk.git_dir, "refs/heads/main"))
    assert disk.refs() == {MAIN: a, HEADS + "x": a}
    disk.update([RefUpdate(MAIN, a, b)])
    with pytest.raises(ExistsError):
        disk.update([RefUpdate(HEADS + "x/y", None, a)])
    lock = os.path.join(disk.git_dir, "packed-refs.lock")
    open(lock, "w").close()
    with pytest.raises(RefLockedError, match="packed-refs"):
        disk.update([RefUpdate(MAIN, b, None)])
    assert disk.ref(MAIN) == b
    os.unlink(lock)
    disk.update([RefUpdate(MAIN, b, None)])
    assert disk.refs() == {HEADS + "x": a}


def test_branch_names_cannot_be_files_and_directories(disk) -> None:
    oid = commit(disk)
    disk.update([RefUpdate(HEADS + "a", None, oid)])
    with pytest.raises(ExistsError):
        disk.update([RefUpdate(HEADS + "a/b", None, oid)])
    disk.update([RefUpdate(HEADS + "c/d", None, oid)])
    with pytest.raises(ExistsError):
        disk.update([RefUpdate(HEADS + "c", None, oid)])
    assert disk.refs() == {HEADS + "a": oid, HEADS + "c/d": oid}


def test_failed_flush_leaves_no_files(disk, monkeypatch) -> None:
    def full(fd: int, octets: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loose.os, "write", full)
    disk.put(Kind.BLOB, b"a")
    disk.put(Kind.BLOB, b"b")
    with pytest.raises(OSError, match="No space"):
        disk.flush()
    monkeypatch.undo()
    found = [f for _, _, files in os.walk(f"{disk.git_dir}/objects") for f in files]
    assert found == []
    disk.flush()  # nothing is left to be written either


def test_damaged_loose_object(disk) -> None:
    oid = disk.put(Kind.BLOB, b"x")
    disk.flush()
    path = os.path.join(disk.git_dir, "objects", oid[:2], oid[2:])
    os.chmod(path, 0o644)
    with open(path, "wb") as f:
        f.write(b"not zlib")
    with pytest.raises(ObjectCorruptError):
        disk.get(oid)


def test_no_repository_made_over_other_files(tmp_path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(PeerError, match="empty directory"):
        DiskStore(tmp_path)
    with pytest.raises(PeerError):
        DiskStore(tmp_path / "none", create=False)


def test_cache_is_bounded() -> None:
    cache: Cache[int, int] = Cache(3)
    for i in range(10):
        assert cache.get(i, lambda k: k * 2) == i * 2
    assert len(cache) == 3
    assert 9 in cache
    assert 0 not in cache


def test_all_references_loose_and_packed(disk) -> None:
    a, b = commit(disk, "a"), commit(disk, "b")
    names = [HEADS + n for n in ("a", "a-b", "x/y", "x/z", "\udcff", "é")]
    lines = b"".join(f"{a} ".encode() + os.fsencode(n) + b"\n" for n in names)
    tag = f"{a} refs/tags/t\n^{b}\n"
    with open(os.path.join(disk.git_dir, "packed-refs"), "wb") as f:
        f.write(b"# pack-refs with: peeled fully-peeled sorted \n" + lines + tag.encode())
    disk.update([RefUpdate(HEADS + "x/y", a, b), RefUpdate(HEADS + "new/one", None, b)])
    open(os.path.join(disk.git_dir, "refs/heads/other.lock"), "w").close()
    expected = dict.fromkeys(names, a) | {HEADS + "x/y": b, HEADS + "new/one": b}
    assert disk.refs() == expected
    assert list(disk.refs()) == sorted(expected)
    assert disk.refs("refs/") == {**expected, "refs/tags/t": a}
    assert disk.refs(HEADS + "x/") == {HEADS + "x/y": b, HEADS + "x/z": a}
    assert disk.ref(HEADS + "x/z") == a
    for clash in ("x", "a/b"):
        with pytest.raises(ExistsError):
            disk.update([RefUpdate(HEADS + clash, None, a)])
