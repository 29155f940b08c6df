"""Packing: what is packed, what stays, merging, and a crash between any two steps."""

from __future__ import annotations

import os
import random
import threading
import zlib
from pathlib import Path

import pytest
from dulwich.pack import apply_delta
from power import PowerCut
from test_journal import check_all_objects

from dataflow import Repository
from dataflow.errors import ObjectCorruptError
from dataflow.store.background import Breath
from dataflow.store.base import HEADS, Kind, RefUpdate
from dataflow.store.disk import DiskStore
from dataflow.store.objects import FILE, Entry, Objects
from dataflow.store.pack import Packer, geometric
from dataflow.store.packfile import PackWriter, tree_delta
from dataflow.tree.history import is_ancestor

MAIN = HEADS + "main"
STEPS = (
    *("pack synced", "index synced", "pack named", "index named", "durable"),
    *("loose removed", "packs removed"),
)


class Crash(BaseException):
    """The process is gone here: nothing that handles errors may run its course."""


@pytest.fixture
def store(tmp_path):
    made = DiskStore(tmp_path / "r.git", fsync=False, pack_limit=0)
    yield made
    made.close()


def fill(store: DiskStore, count: int, seed: int = 1) -> dict[str, bytes]:
    """Commit `count` times to a directory of 300 files; return all objects."""
    rng = random.Random(seed)
    objects = Objects(store)
    names = {b"f%03d" % i: Entry(FILE, objects.put_blob(b"")) for i in range(300)}
    root, head, made = objects.put_tree(names), store.ref(MAIN), {}
    for i in range(count):
        name = rng.choice(sorted(names))
        edited = objects.edit_tree(
            root, {name: Entry(FILE, objects.put_blob(b"%d %d" % (i, seed)))}
        )
        assert edited is not None
        root = edited
        parents = (head,) if head else ()
        commit = objects.put_commit(root, parents, "a <a@b>", f"{i}\n", i)
        made |= {oid: store.get(oid)[1] for oid in list(store._pending)}
        store.update([RefUpdate(MAIN, head, commit)])
        head = commit
    return made


def loose(store: DiskStore) -> set[str]:
    return {oid for _, oid in store.packer._loose()}


def packs(store: DiskStore) -> list[str]:
    directory = f"{store.git_dir}/objects/pack"
    return sorted(n for n in os.listdir(directory) if n.endswith(".idx"))


def check(store: DiskStore, made: dict[str, bytes]) -> None:
    other = DiskStore(store.path, fsync=False)
    for oid, data in made.items():
        assert store.get(oid)[1] == data
        assert other.get(oid)[1] == data
    other.close()


def test_settled_objects_are_packed_and_removed(store) -> None:
    made = fill(store, 20)
    assert loose(store) == set(made)
    store.packer.pack()
    assert loose(store) == set()
    assert len(packs(store)) == 1
    assert store.packer.statistics.packed == len(made)
    check(store, made)
    path = f"{store.git_dir}/objects/pack/{packs(store)[0]}".replace(".idx", ".pack")
    assert os.stat(path).st_size < 20 * 9000  # 20 trees of 9 KiB, of which one is whole


def test_what_nothing_leads_to_waits_for_its_grace(store) -> None:
    made = fill(store, 2)
    other = store.put(Kind.BLOB, b"somebody is about to commit this")
    store.flush()
    store.packer.pack()
    assert loose(store) == {other}
    store.packer.pack(grace=0)
    assert loose(store) == set()
    check(store, made)


def test_damaged_objects_stay_where_they_are(store) -> None:
    made = fill(store, 3)
    bad, wrong = sorted(made)[:2]
    for oid, octets in ((bad, b"not zlib"), (wrong, zlib.compress(b"blob 1\0x"))):
        os.chmod(store._writer.path(oid), 0o644)
        with open(store._writer.path(oid), "wb") as f:
            f.write(octets)
    store.packer.pack()
    assert loose(store) == {bad, wrong}
    with pytest.raises(ObjectCorruptError):
        store.get(bad)


def test_the_thread_starts_at_the_limit(tmp_path) -> None:
    store = DiskStore(tmp_path / "r.git", fsync=False, pack_limit=60)
    fill(store, 10)
    assert store.packer._thread is None
    made = fill(store, 30, seed=2)
    assert store.packer._thread is not None
    store.packer._thread.join()
    assert store.packer.statistics.rounds >= 1
    assert len(loose(store)) < 120
    check(store, made)
    store.close()


def test_large_objects_are_packed_before_they_are_many(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("dataflow.store.pack.SIZE_LIMIT", 50_000)
    store = DiskStore(tmp_path / "r.git", fsync=False, pack_limit=1000)
    fill(store, 3)
    assert store.packer._thread is None
    made = fill(store, 6, seed=2)
    assert store.packer._thread is not None
    store.packer._thread.join()
    assert len(packs(store)) >= 1
    check(store, made)
    store.close()


def test_writers_go_on_while_it_packs(tmp_path) -> None:
    store = DiskStore(tmp_path / "r.git", fsync=False, pack_limit=0)
    made = fill(store, 30)
    reached, go_on = threading.Event(), threading.Event()

    def step(name: str) -> None:
        if name == "pack synced":
            reached.set()
            assert go_on.wait(30)

    store.packer = Packer(store._writer.root, store.git_dir, limit=0, step=step)
    store.packer.settled(sorted(made))
    thread = threading.Thread(target=store.packer.pack)
    thread.start()
    assert reached.wait(30)
    later = fill(store, 5, seed=3)
    go_on.set()
    thread.join()
    assert loose(store) == set(later) - set(made)
    check(store, made | later)
    store.close()


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("again", [False, True])
def test_crash_after_any_step_loses_nothing(tmp_path, step, again) -> None:
    store = DiskStore(tmp_path / "r.git", fsync=False, pack_limit=0)
    made = fill(store, 10)
    store.packer.pack()
    made |= fill(store, 10, seed=2)

    def crash(name: str) -> None:
        if name == step:
            raise Crash

    crashing = Packer(store._writer.root, store.git_dir, limit=0, step=crash)
    crashing.settled(sorted(made))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PackWriter, "abort", lambda self: self._file.close())
        with pytest.raises(Crash):
            crashing.pack()
    check(store, made)
    if again:
        store.packer.pack(grace=0)
        assert loose(store) == set()
        assert len(packs(store)) == 1
        check(store, made)
    store.close()


def test_full_disk_leaves_no_temporary_file(store, monkeypatch) -> None:
    made = fill(store, 5)

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.packer.pack()
    monkeypatch.undo()
    assert loose(store) == set(made)
    assert os.listdir(f"{store.git_dir}/objects/pack") == []
    store.packer.pack()
    assert loose(store) == set()


def test_packs_stay_few(store) -> None:
    made: dict[str, bytes] = {}
    for i in range(20):
        made |= fill(store, 2, seed=i + 1)
        store.packer.pack()
        assert len(packs(store)) <= 2 + (len(made) + 1).bit_length()
    assert store.packer.statistics.merged > 20
    check(store, made)


def test_only_one_packs_at_a_time(store) -> None:
    fill(store, 3)
    other = Packer(store._writer.root, store.git_dir)
    with other.alone() as mine:
        assert mine
        assert store.packer.pack().rounds == 0
    assert store.packer.pack().rounds == 1


@pytest.mark.parametrize("beside", [".keep", ".promisor", ".bitmap", ".mtimes", "gc.pid", "midx"])
def test_packs_that_are_not_merged(store, beside) -> None:
    fill(store, 3)
    store.packer.pack()
    directory = f"{store.git_dir}/objects/pack"
    path = f"{directory}/{packs(store)[0][:-4]}{beside}"
    if beside == "gc.pid":
        path = f"{store.git_dir}/gc.pid"
    elif beside == "midx":
        path = f"{directory}/multi-pack-index"
    open(path, "w").close()
    fill(store, 3, seed=2)
    store._repo.object_store._use_midx = False  # an empty one is damaged
    store.packer.pack()
    assert len(packs(store)) == 2
    os.unlink(path)
    store.packer.pack()
    assert len(packs(store)) == 1


def test_damaged_pack_is_not_merged_away(store) -> None:
    fill(store, 5)
    store.packer.pack()
    first = packs(store)[0]
    path = f"{store.git_dir}/objects/pack/{first}".replace(".idx", ".pack")
    os.chmod(path, 0o644)
    with open(path, "r+b") as f:
        f.seek(100)
        f.write(b"damage")
    fill(store, 5, seed=2)
    with pytest.raises(ObjectCorruptError, match="CRC"):
        store.packer.pack()
    assert first in packs(store)
    assert not [n for n in os.listdir(f"{store.git_dir}/objects/pack") if n.startswith("tmp")]


def test_a_failing_thread_is_told_and_tried_again(tmp_path, monkeypatch) -> None:
    store = DiskStore(tmp_path / "r.git", fsync=False, pack_limit=0)
    made = fill(store, 10)

    def broken(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PackWriter, "finish", broken)
    store.packer.settled(sorted(made))
    store.packer.try_to_pack()
    assert store.packer.statistics.failures == 1
    assert "No space" in store.packer.statistics.error
    monkeypatch.undo()
    store.packer.try_to_pack()
    assert loose(store) == set()
    store.close()


def test_stop_between_two_objects(store) -> None:
    made = fill(store, 5)
    store.packer._breathe.stop()
    store.packer.try_to_pack()
    assert store.packer.statistics.rounds == 0
    store.packer._breathe = Breath()
    assert loose(store) == set(made)


def test_geometric() -> None:
    assert geometric([], 2) == 0
    assert geometric([5], 2) == 0
    assert geometric([5, 10, 30, 90], 2) == 0
    assert geometric([5, 9, 90], 2) == 2
    assert geometric([5, 5, 19, 57], 2) == 4  # 19 < 2*10, 57 < 2*29
    assert geometric([5, 5, 20, 60], 2) == 2


def test_tree_deltas_are_gits() -> None:
    rng = random.Random(5)
    base = rng.randbytes(200_000)
    for _ in range(50):
        at, length = rng.randint(0, 199_000), rng.randint(0, 500)
        data = base[:at] + rng.randbytes(rng.randint(0, 500)) + base[at + length :]
        delta = tree_delta(base, data)
        assert delta is not None
        assert len(delta) < 1500
        assert b"".join(apply_delta(base, delta)) == data
    assert tree_delta(base, rng.randbytes(200_000)) is None


def test_a_torn_file_beside_the_pack_does_not_count(store) -> None:
    made = fill(store, 2)
    oid = min(made)
    with open(store._writer.path(oid), "rb") as f:
        octets = f.read()
    while not store.packer.pack().packed:  # somebody else may be at it
        pass
    with open(store._writer.path(oid), "wb") as f:
        f.write(octets[:5])
    check(store, made)


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 16))]
)
def test_power_cut_while_packing(tmp_path, monkeypatch, seed) -> None:
    """Loose files go only when their pack is durable: every acknowledged commit is whole."""
    rng = random.Random(seed)
    repo = Repository.open(tmp_path / "live.git", pack_limit=0)
    power = PowerCut(tmp_path / "live.git", monkeypatch)
    cuts: list[tuple[Path, str | None]] = []
    head: str | None = None

    def maybe(step: str = "") -> None:
        if rng.random() < 0.06:
            cuts.append((power.cut(tmp_path / f"cut{len(cuts)}.git", rng), head))

    power.at_sync = repo.engine.store.packer._step = maybe
    for n in range(25):
        with repo.branch("main").transaction(f"{n}") as t:
            for name in rng.sample("abcdef", 2):
                t.write(f"{rng.choice('xyz')}/{name}", rng.randbytes(rng.choice([10, 4000])))
        head = t.result.head
        if rng.random() < 0.4:
            repo.engine.store.packer.pack()
    repo.close()
    power.close()
    monkeypatch.undo()
    assert cuts
    for where, acknowledged in cuts:
        after = DiskStore(where, fsync=False, pack_limit=0)
        now = after.ref(MAIN)
        assert acknowledged is None or is_ancestor(Objects(after), acknowledged, now)
        check_all_objects(after)
        after.close()
