"""The index of history against plain walks, and damaged, stale, full and shared files."""

from __future__ import annotations

import os
import random

import pytest

from dataflow.errors import ObjectMissingError
from dataflow.store.base import HEADS, Link, RefUpdate
from dataflow.store.disk import DiskStore
from dataflow.store.index import History
from dataflow.store.memory import MemoryStore
from dataflow.store.objects import EMPTY_TREE, Objects
from dataflow.tree.history import is_ancestor, merge_bases


def graph(seed: int, count: int) -> dict[str, Link]:
    """Make random commits: id to parents and time, parents first."""
    rng = random.Random(seed)
    made: dict[str, Link] = {}
    for i in range(count):
        recent = list(made)[-6:]
        size = min(len(recent), rng.choice([1, 1, 1, 1, 2, 2, 3]) if i else 0)
        made[rng.randbytes(20).hex()] = Link(tuple(rng.sample(recent, size)), 1000 + i)
    return made


def line(commits: dict[str, Link], oid: str) -> list[str]:
    out = [oid]
    while commits[out[-1]].parents:
        out.append(commits[out[-1]].parents[0])
    return out


def filled(path, commits: dict[str, Link], capacity: int = 64) -> History:
    history = History(str(path), capacity=capacity)
    for head in reversed(commits):
        history.fill(head, commits.__getitem__)
    return history


@pytest.mark.parametrize("seed", range(5))
def test_answers_are_those_of_walks(tmp_path, seed) -> None:
    commits = graph(seed, 300)
    history = filled(tmp_path, commits)
    rng = random.Random(seed)
    for oid, link in commits.items():
        found = history.get(oid)
        if len(link.parents) > 2:
            assert found is None
        else:
            assert found is not None
            assert (found.parents, found.time) == (link.parents, link.time)
        above = [history.generation(p) for p in link.parents]
        assert history.generation(oid) == 1 + max(above, default=0)
    for _ in range(300):
        a, b = rng.choices(list(commits), k=2)
        own = line(commits, b)
        assert history.distance(a, b) == (own.index(a) if a in own else None)
        steps = rng.randint(0, 60)
        assert history.back(b, steps) == (own[steps] if steps < len(own) else None)
    history.close()


def test_unknown_commits(tmp_path) -> None:
    history = History(str(tmp_path))
    assert history.get("12" * 20) is None
    assert history.distance("12" * 20, "34" * 20) is None
    assert history.back("12" * 20, 0) is None
    assert not os.listdir(tmp_path)  # asking makes no file
    assert not history.add("12" * 20, ("34" * 20,), 1)  # its parent is not known
    assert history.add("34" * 20, (), 1)
    assert history.add("12" * 20, ("34" * 20,), 1)
    assert history.get("12" * 20) == Link(("34" * 20,), 1, 2)


def test_any_damage_is_not_believed(tmp_path) -> None:
    commits = graph(7, 200)
    filled(tmp_path, commits, capacity=256).close()
    path = tmp_path / "history"
    good = path.read_bytes()
    rng = random.Random(7)
    for _ in range(150):
        data = bytearray(good)
        for _ in range(rng.choice([1, 20])):
            at = rng.randrange(len(data))
            data[at : at + 16] = rng.choice([bytes(16), rng.randbytes(16)])[: len(data) - at]
        if rng.random() < 0.1:
            del data[rng.randrange(len(data)) :]
        path.write_bytes(data)
        history = History(str(tmp_path))
        for oid, link in commits.items():
            found = history.get(oid)
            assert found is None or (found.parents, found.time) == (link.parents, link.time)
        a, b = rng.choices(list(commits), k=2)
        own = line(commits, b)
        assert history.distance(a, b) in {None, own.index(a) if a in own else None}
        history.close()


def test_a_damaged_file_is_made_again(tmp_path) -> None:
    commits = graph(8, 50)
    filled(tmp_path, commits).close()
    (tmp_path / "history").write_bytes(b"no index")
    history = filled(tmp_path, commits)
    assert all(history.generation(oid) for oid in commits)
    history.close()


def test_processes_share_it(tmp_path) -> None:
    commits = graph(9, 300)
    a, b = History(str(tmp_path), capacity=32), History(str(tmp_path), capacity=32)
    for i, (oid, link) in enumerate(commits.items()):
        one, other = (a, b) if i % 2 else (b, a)
        if not one.add(oid, link.parents, link.time):  # full
            one.grow()
            assert one.add(oid, link.parents, link.time)
        assert other.generation(oid) == one.generation(oid) > 0
    a.close()
    b.close()


def test_full_disk_is_no_error(tmp_path, monkeypatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    history = History(str(tmp_path))
    assert not history.add("12" * 20, (), 1)
    assert os.listdir(tmp_path) == ["history.lock"]


def chain(store, count: int, head: str | None = None) -> list[str]:
    objects = Objects(store)
    made = []
    for i in range(count):
        head = objects.put_commit(EMPTY_TREE, (head,) if head else (), "a <a@b>", f"{i}\n", i)
        made.append(head)
    return made


def test_store_fills_it_in_the_background_and_from_then_on_at_once(tmp_path) -> None:
    store = DiskStore(tmp_path / "r.git", fsync=False)
    objects = Objects(store)
    objects.put_tree({})
    made = chain(store, 50)
    store.update([RefUpdate(HEADS + "main", None, made[-1])])
    objects.follow(made[-1])
    assert store.history._filler is not None
    store.history._filler.join()
    assert store.history.distance(made[0], made[-1]) == 49
    more = chain(store, 1, made[-1])
    store.update([RefUpdate(HEADS + "main", made[-1], more[0])])
    objects.follow(more[0])
    assert store.history.distance(made[0], more[0]) == 50
    store.close()


def test_missing_objects_end_the_filling(tmp_path) -> None:
    history = History(str(tmp_path))

    def read(oid: str) -> Link:
        raise ObjectMissingError(oid)

    history.try_to_fill("12" * 20, read)  # logged, not raised
    assert history.generation("12" * 20) == 0


def test_a_commit_does_not_fail_for_the_index(tmp_path, monkeypatch) -> None:
    store = DiskStore(tmp_path / "r.git", fsync=False)
    objects = Objects(store)
    made = chain(store, 2)
    objects.put_tree({})
    store.update([RefUpdate(HEADS + "main", None, made[-1])])
    os.rmdir(tmp_path / "r.git/dataflow") if (tmp_path / "r.git/dataflow").exists() else None
    (tmp_path / "r.git/dataflow").write_bytes(b"no directory")
    objects.follow(made[-1])
    assert store.history.get(made[-1]) is None
    store.close()


@pytest.mark.parametrize("seed", range(3))
def test_ancestry_and_bases_with_and_without_it(tmp_path, seed) -> None:
    rng = random.Random(seed)
    disk, memory = DiskStore(tmp_path / "r.git", fsync=False), MemoryStore()
    made: list[str] = []
    for i in range(80):
        recent = made[-5:]
        parents = tuple(rng.sample(recent, min(len(recent), rng.choice([1, 1, 2, 3]))))
        for store in (disk, memory):
            oid = Objects(store).put_commit(EMPTY_TREE, parents, "a <a@b>", f"{i}\n", i // 3)
        made.append(oid)
    disk.flush()
    with_index, without = Objects(disk), Objects(memory)
    for oid in made:
        disk.history.fill(oid, with_index._read_link)
    for _ in range(200):
        a, b = rng.choices(made, k=2)
        assert is_ancestor(with_index, a, b) == is_ancestor(without, a, b)
        assert merge_bases(with_index, a, b) == merge_bases(without, a, b)
    disk.close()
