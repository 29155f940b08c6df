"""The journal and its replay: torn records, turns, power cuts at every sync, locks of the dead."""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import shutil
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from power import PowerCut

from dataflow import Repository
from dataflow.branch.worker import Job
from dataflow.store import journal
from dataflow.store.base import HEADS, Kind, RefUpdate
from dataflow.store.disk import DiskStore
from dataflow.store.grouppack import GroupPack
from dataflow.store.journal import Journal, Record, parse, read, records
from dataflow.store.loose import object_id
from dataflow.store.objects import EMPTY_TREE, FILE, Entry, Objects

MAIN = HEADS + "main"
oids = st.binary(min_size=20, max_size=20).filter(any).map(bytes.hex)
names = st.text("abcü", min_size=1, max_size=9).map(HEADS.__add__)
updates = st.builds(RefUpdate, names, st.none() | oids, st.none() | oids)
sample = st.builds(
    Record,
    st.lists(st.tuples(oids, st.binary(max_size=60)), max_size=4),
    st.lists(updates, max_size=4),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1),
    st.lists(
        st.builds(GroupPack, st.binary(min_size=20, max_size=60), st.binary(max_size=60)),
        max_size=2,
    ).map(tuple),
)


@given(sample, st.binary(max_size=20))
@settings(deadline=None)
def test_record_round_trip(record, behind) -> None:
    octets = record.emit()
    assert parse(octets + behind) == (record, len(octets))


@given(sample, st.data())
@settings(deadline=None)
def test_damaged_record_is_none(record, data) -> None:
    octets = bytearray(record.emit())
    at = data.draw(st.integers(0, len(octets) - 1))
    octets[at] ^= data.draw(st.integers(1, 255))
    assert parse(bytes(octets)) is None
    assert parse(bytes(octets[:at])) is None


@pytest.mark.parametrize("name", ["../x", "refs/../../x", "/etc/x", "refs/heads/a.lock", "HEAD"])
def test_record_of_a_name_outside_is_none(name) -> None:
    assert parse(Record([], [RefUpdate(name, None, head_of(1))]).emit()) is None


@given(st.binary(max_size=80), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))
def test_forged_record_is_none_or_parses(body, objects, packs, updates) -> None:
    body = struct.pack("<III", objects, packs, updates) + body
    rest = struct.pack("<IQIQ", len(body), 1, 0, 0)
    octets = b"DFJ2" + struct.pack("<I", zlib.crc32(body, zlib.crc32(rest))) + rest + body
    found = parse(octets)
    assert found is None or found[0].updates == [] or updates


def test_only_one_epoch_in_order_counts() -> None:
    a, b, c = (Record([], [], 5, n).emit() for n in range(3))
    assert [r.number for r in records(a + b + c + bytes(9))] == [0, 1, 2]
    assert [r.number for r in records(a + Record([], [], 4, 1).emit())] == [0]
    assert [r.number for r in records(a + c)] == [0]
    assert list(records(b)) == []


def head_of(n: int) -> str:
    return f"{n:040x}"


def test_halves_take_turns_and_what_they_tell_is_synced(tmp_path, monkeypatch) -> None:
    synced = []
    monkeypatch.setattr(journal, "syncfs", lambda fd: synced.append([r.number for r in read(fd)]))
    j = Journal(str(tmp_path), segment=1000)
    for n in range(1, 40):
        j.append([], [RefUpdate("refs/r", head_of(n), head_of(n + 1))], sync=True)
        assert read(j._fd)[-1].updates[0].new == head_of(n + 1)
    assert len(synced) >= 3
    j.close()
    (name,) = os.listdir(tmp_path)
    assert os.stat(tmp_path / name).st_size == 2000
    again = Journal(str(tmp_path), segment=1000)
    again.open()
    assert (again.name, read(again._fd)) == (name, [])
    other = Journal(str(tmp_path), segment=1000)
    other.open()
    assert other.name != name
    again.close()
    other.close()


def test_half_is_not_overwritten_before_the_other_is_durable(tmp_path, monkeypatch) -> None:
    def broken(fd: int) -> None:
        raise OSError(5, "Input/output error")

    j = Journal(str(tmp_path), segment=400)
    monkeypatch.setattr(journal, "syncfs", broken)
    done = 0

    def go_on() -> None:
        nonlocal done
        for n in range(1, 40):
            j.append([], [RefUpdate("refs/r", head_of(n), head_of(n + 1))], sync=True)
            done = n

    with pytest.raises(OSError, match="Input/output"):
        go_on()
    assert [r.updates[0].new for r in read(j._fd)] == [head_of(n + 1) for n in range(1, done + 1)]
    monkeypatch.undo()
    j.append([], [RefUpdate("refs/r", None, head_of(1))], sync=True)
    j.close()


def put_commit(store, text: str, *parents: str) -> str:
    objects = Objects(store)
    blob = objects.put_blob(text.encode())
    return objects.put_commit(
        objects.put_tree({b"f": Entry(FILE, blob)}), parents, "a <a@b>", text + "\n", 1
    )


def commit(store, text: str, *parents: str, name: str = MAIN) -> str:
    oid = put_commit(store, text, *parents)
    store.update([RefUpdate(name, parents[0] if parents else None, oid)])
    return oid


@pytest.fixture
def dead(tmp_path):
    """A repository with three commits whose owner died: its journal is full and owned by nobody."""
    store = DiskStore(tmp_path / "live.git")
    ids = [commit(store, "0")]
    for i in (1, 2):
        ids.append(commit(store, str(i), ids[-1]))
    path = tmp_path / "dead.git"
    shutil.copytree(tmp_path / "live.git", path)
    store.close()
    return path, ids


def set_ref(path: Path, value: str, *, when: int = 0) -> None:
    file = path / MAIN
    file.write_text(value + "\n")
    if when:
        os.utime(file, (when, when))


def test_lost_reference_and_objects_come_back(dead) -> None:
    path, ids = dead
    set_ref(path, ids[0], when=1)
    lost = path / "objects" / ids[2][:2] / ids[2][2:]
    lost.unlink()
    damaged = path / "objects" / ids[1][:2] / ids[1][2:]
    damaged.chmod(0o644)
    damaged.write_bytes(b"")
    store = DiskStore(path)
    assert (store.recovered.objects, store.recovered.refs) == (2, {MAIN: ids[2]})
    assert store.ref(MAIN) == ids[2]
    assert Objects(store).commit(ids[1]).parents == (ids[0],)
    store.close()
    assert DiskStore(path).recovered.refs == {}


def test_later_forced_push_stays(dead) -> None:
    path, ids = dead
    set_ref(path, ids[0])
    store = DiskStore(path)
    assert store.ref(MAIN) == ids[0]
    store.close()


def test_unknown_older_value_goes_on_only_to_a_descendant(dead) -> None:
    path, ids = dead
    store = DiskStore(path, fsync=False)
    other = put_commit(store, "elsewhere")
    store.flush()
    store.close()
    live = path.parent / "live.git" / "dataflow"
    for value, expected in ((other, other), ("", ids[2])):
        shutil.rmtree(path / "dataflow")
        shutil.copytree(live, path / "dataflow")
        set_ref(path, value, when=1)
        store = DiskStore(path)
        assert store.ref(MAIN) in (expected, value or None)
        store.close()


def test_ancestor_that_no_record_names_goes_on(tmp_path) -> None:
    store = DiskStore(tmp_path / "r.git")
    first = commit(store, "0")
    second = commit(store, "1", first)
    store.checkpoint()
    third = commit(store, "2", second)
    shutil.copytree(tmp_path / "r.git", tmp_path / "dead.git")
    store.close()
    set_ref(tmp_path / "dead.git", first, when=1)
    store = DiskStore(tmp_path / "dead.git")
    assert store.recovered.refs == {MAIN: third}
    store.close()


def test_journal_of_a_live_owner_is_left_alone(tmp_path) -> None:
    store = DiskStore(tmp_path / "r.git")
    first = commit(store, "0")
    set_ref(tmp_path / "r.git", head_of(1), when=1)
    second = DiskStore(tmp_path / "r.git")
    assert second.recovered.refs == {}
    set_ref(tmp_path / "r.git", first)
    assert commit(second, "1", first) == second.ref(MAIN)
    assert len(list((tmp_path / "r.git/dataflow").glob("journal-*"))) == 2
    second.close()
    store.close()


def test_locks_of_the_dead_are_removed(dead) -> None:
    path, _ = dead
    (name,) = (n for n in os.listdir(path / "dataflow") if n.startswith("journal-"))
    lock = path / (MAIN + ".lock")
    lock.symlink_to("dataflow:" + name)
    foreign = path / "refs/heads/git.lock"
    foreign.touch()
    store = DiskStore(path)
    assert not os.path.lexists(lock)
    assert foreign.exists()
    store.close()


def test_lock_of_one_who_died_meanwhile_is_removed(tmp_path) -> None:
    ours, theirs = (DiskStore(tmp_path / "r.git", lock_timeout=30) for _ in range(2))
    first = commit(ours, "0")
    second = put_commit(theirs, "1", first)
    theirs._journal.open()
    theirs._refs.mark.belong_to(theirs._journal.name)
    theirs._refs._take(MAIN)
    fcntl.flock(theirs._journal._fd, fcntl.LOCK_UN)  # as its end would
    third = commit(ours, "2", first)
    assert ours.ref(MAIN) == third != second
    theirs.close()
    ours.close()


def test_checkpoint_empties_the_journal(tmp_path) -> None:
    store = DiskStore(tmp_path / "r.git")
    commit(store, "0")
    (name,) = (tmp_path / "r.git/dataflow").glob("journal-*")

    def held() -> int:
        with open(name, "rb") as f:
            return len(read(f.fileno()))

    assert held() == 1
    store.checkpoint()
    assert held() == 0
    store.checkpoint()
    commit(store, "1", store.ref(MAIN))
    assert held() == 1
    store.close()
    assert held() == 0


def test_large_objects_go_round_the_journal(tmp_path) -> None:
    store = DiskStore(tmp_path / "r.git")
    big = store.put(Kind.BLOB, random.Random(5).randbytes(3 << 20))
    oid = commit(store, "0")
    (record,) = read(store._journal._fd)
    assert (record.objects, record.updates) == ([], [RefUpdate(MAIN, None, oid)])
    assert store.get(big)[0] is Kind.BLOB
    store.close()


def test_without_fsync_there_is_no_journal(tmp_path) -> None:
    store = DiskStore(tmp_path / "r.git", fsync=False)
    commit(store, "0")
    assert list((tmp_path / "r.git/dataflow").iterdir()) == []
    store.close()


async def test_idle_repository_is_checkpointed(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("dataflow.branch.worker.IDLE", 0.0)
    async with Repository.open(tmp_path / "r.git") as repo:
        done, loop = asyncio.Event(), asyncio.get_running_loop()
        real = repo.engine.store.checkpoint

        def checkpoint() -> None:
            dirty = repo.engine.store._journal.dirty
            real()
            if dirty:
                loop.call_soon_threadsafe(done.set)

        repo.worker._idle = checkpoint
        async with asyncio.timeout(30), repo.branch("main").transaction("x") as t:
            t.write("f", b"1")
        await done.wait()
        assert not repo.engine.store._journal.dirty


def random_group(repo, rng: random.Random, n: int) -> list[Job]:
    jobs = []
    for k in range(rng.choice([1, 1, 2, 5])):
        names = rng.sample(["a", "b", "c/d"], rng.choice([1, 1, 2]))
        if rng.random() < 0.1 and repo.engine.head("b"):
            jobs.append(Job(lambda: repo.engine.delete("b")))
            continue
        t = repo.transaction(*names, message=f"{n}.{k}")
        for name in names:
            size = rng.choice([10, 10, 300, 6000])
            t[name].write(f"{rng.choice('xyz')}/{n}.{k}", rng.randbytes(size))
        jobs.append(Job(t._stage))
    return jobs


def check_all_objects(store: DiskStore) -> None:
    """Read everything that branches lead to; `get` checks no hashes, so do that here."""
    objects, seen = Objects(store), set()
    todo = list(store.refs().values())
    while todo:
        oid = todo.pop()
        if oid in seen or oid == EMPTY_TREE:
            continue
        seen.add(oid)
        kind, data = store.get(oid)
        assert object_id(kind, data) == oid
        if kind is Kind.COMMIT:
            made = objects.commit(oid)
            todo += [made.tree, *made.parents]
        elif kind is Kind.TREE:
            todo += [e.oid for e in objects.tree(oid).values()]


@pytest.mark.parametrize("newer", [0, 1])
def test_the_older_half_is_emptied_first(tmp_path, monkeypatch, newer) -> None:
    """Alone it would tell of a branch that the newer one says was removed."""
    made, gone = "1" * 40, None
    older = Record([], [RefUpdate("refs/heads/b", None, made)], epoch=5).emit()
    later = Record([], [RefUpdate("refs/heads/b", made, gone)], epoch=6).emit()
    path = tmp_path / "journal-x"
    path.write_bytes(
        b"".join(o.ljust(4096, b"\0") for o in ([later, older], [older, later])[newer])
    )
    seen: list[list[int]] = []
    with open(path, "r+b") as f:

        def sync(fd: int) -> None:
            seen.append([record.epoch for record in read(fd)])

        monkeypatch.setattr("dataflow.store.journal.os.fdatasync", sync)
        journal.clear(f.fileno())
    assert seen == [[6], []]


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 24))]
)
def test_power_cut_at_any_sync(tmp_path, monkeypatch, seed) -> None:
    """Whatever was not synced is at risk; each group is there as a whole, or not acknowledged."""
    rng = random.Random(seed)
    repo = Repository.open(tmp_path / "live.git")
    repo.engine.store._journal._segment = 16384
    monkeypatch.setattr("dataflow.store.disk.PACK_FROM", 8 if seed % 2 else 1000)
    power = PowerCut(tmp_path / "live.git", monkeypatch)
    cuts: list[tuple[Path, list[dict[str, str]]]] = []
    states: list[dict[str, str]] = [{}]  # acknowledged, and what the running group may become

    def maybe() -> None:
        if rng.random() < 0.04:
            where = power.cut(tmp_path / f"cut{len(cuts)}.git", rng)
            cuts.append((where, states))

    power.at_sync = maybe
    store, real = repo.engine.store, repo.engine.store.update

    def update(moves) -> None:
        nonlocal states
        after = dict(states[0])
        after.update({u.name: u.new for u in moves})
        states = [states[0], {k: v for k, v in after.items() if v}]
        real(moves)
        states = [states[1]]

    monkeypatch.setattr(store, "update", update)
    for n in range(24):
        repo.engine.groups.carry_out(random_group(repo, rng, n))
        maybe()
    repo.close()
    power.close()
    monkeypatch.undo()
    for name in ("fsync", "fdatasync"):  # nothing is at risk any more
        monkeypatch.setattr(os, name, lambda fd: None)
    monkeypatch.setattr("dataflow.store.syncing.syncfs", lambda fd: None)
    assert len(cuts) >= 5
    for where, allowed in cuts:
        after = DiskStore(where)
        assert after.refs() in allowed, (where, after.recovered)
        check_all_objects(after)
        after.close()
