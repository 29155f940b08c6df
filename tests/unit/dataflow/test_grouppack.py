"""What a group of commits becomes: one pack, durable by the journal, taken apart by the packer."""

from __future__ import annotations

import os
import shutil
import zlib
from pathlib import Path

import pytest
from dulwich.pack import Pack
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflow.store import disk
from dataflow.store.base import HEADS, Kind, RefUpdate
from dataflow.store.disk import DiskStore
from dataflow.store.grouppack import GroupPack, StagedPack, build, load
from dataflow.store.loose import object_id
from dataflow.store.objects import FILE, Entry, Objects

COUNT = 10
contents = st.dictionaries(st.binary(max_size=9000), st.sampled_from(Kind), max_size=40)


def named(found: dict[bytes, Kind]) -> list[tuple[str, Kind, bytes]]:
    return [(object_id(kind, data), kind, data) for data, kind in found.items()]


@given(contents)
@settings(deadline=None)
def test_round_trip(found) -> None:
    objects = {oid: (oid, kind, data) for oid, kind, data in named(found)}
    pack = build(objects.values())
    assert list(pack.objects()) == list(objects.values())
    assert pack.oids == sorted(objects)


@given(contents.filter(bool), st.data())
@settings(deadline=None)
def test_damage_is_an_error_or_shows_in_the_ids(found, data) -> None:
    pack = build(named(found))
    octets, index = bytearray(pack.octets), bytearray(pack.index)
    octets[data.draw(st.integers(12, len(octets) - 21))] ^= data.draw(st.integers(1, 255))
    del index[data.draw(st.integers(0, len(index))) :]
    for damaged in (GroupPack(bytes(octets), pack.index), GroupPack(pack.octets, bytes(index))):
        try:
            wrong = [oid for oid, *rest in damaged.objects() if object_id(*rest) != oid]
        except (ValueError, zlib.error):
            continue
        assert wrong or damaged.index == pack.index


@pytest.fixture
def store(tmp_path):
    made = DiskStore(tmp_path / "r.git")
    yield made
    made.close()


def group(store: DiskStore, count: int = COUNT, seed: int = 0) -> dict[str, bytes]:
    """Make a commit on each of some branches, all in one update; return all objects."""
    objects = Objects(store)
    updates = []
    for i in range(count):
        blob = objects.put_blob(b"%d %d" % (seed, i))
        tree = objects.put_tree({b"f": Entry(FILE, blob)})
        old = store.ref(f"{HEADS}{i}")
        new = objects.put_commit(tree, (old,) if old else (), "a <a@b>", f"{seed} {i}\n", 1)
        updates.append(RefUpdate(f"{HEADS}{i}", old, new))
    made = {oid: data for oid, (_, data) in store._pending.items()}
    store.update(updates)
    return made


def files(store: DiskStore, suffix: str = "") -> list[str]:
    return sorted(n for n in os.listdir(store.packer.packs) if n.endswith(suffix))


def loose(store: DiskStore) -> set[str]:
    return {oid for _, oid in store.packer._loose()}


def check(store: DiskStore, made: dict[str, bytes]) -> None:
    for oid, data in made.items():
        assert store.get(oid)[1] == data


def test_a_group_is_one_pack_that_others_read(store) -> None:
    made = group(store)
    assert loose(store) == set()
    (name,) = files(store, ".pack")
    assert len(files(store)) == 2  # and its index: no .keep
    other = DiskStore(store.path, fsync=False)
    check(store, made)
    check(other, made)
    assert other.refs() == store.refs()
    assert len(other.refs()) == COUNT
    other.close()
    pack = Pack(f"{store.packer.packs}/{name[:-5]}", object_format=store._repo.object_format)
    pack.check()  # dulwich's: checksums, CRCs
    pack.close()


def test_what_is_little_or_not_to_be_packed_is_loose(tmp_path) -> None:
    for name, options, count in (
        ("few", {}, 2),
        ("limit", {"pack_limit": 0}, COUNT),
        ("fsync", {"fsync": False}, COUNT),
    ):
        store = DiskStore(tmp_path / name, **options)
        made = group(store, count)
        assert (loose(store), files(store)) == (set(made), [])
        store.close()


def test_too_much_for_a_record_is_loose(store) -> None:
    blobs = {store.put(Kind.BLOB, os.urandom(1 << 16)) for _ in range(disk.PACK_FROM)}
    made = group(store)
    assert loose(store) == blobs | set(made)


def test_while_the_packer_lags_behind_groups_are_loose(store, monkeypatch) -> None:
    monkeypatch.setattr("dataflow.store.pack.GROUPS", 1)
    monkeypatch.setattr(store.packer, "_start_if_due", lambda: None)
    for seed in range(6):
        group(store, seed=seed)
    assert len(files(store, ".pack")) == 4
    assert len(loose(store)) == 2 * 3 * COUNT
    store.packer.pack()
    group(store, seed=7)
    assert len(files(store, ".pack")) == 2


def test_the_packer_takes_groups_apart(store) -> None:
    made = {k: v for seed in range(3) for k, v in group(store, seed=seed).items()}
    groups = files(store)
    store.packer.pack()
    assert len(files(store, ".pack")) == 1
    assert not set(files(store)) & set(groups)
    other = DiskStore(store.path, fsync=False)
    check(other, made)
    other.close()


def test_what_others_left_is_merged(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("dataflow.store.pack.GROUPS", 3)
    made = {}
    for seed in range(3):
        store = DiskStore(tmp_path / "r.git")
        made |= group(store, seed=seed)
        if store.packer._thread is not None:
            store.packer._thread.join()
        assert len(files(store, ".pack")) == (1, 2, 1)[seed]
        store.close()
    store = DiskStore(tmp_path / "r.git", create=False)
    check(store, made)
    store.close()


def test_a_damaged_group_stays_where_it_is(store) -> None:
    group(store)
    path = f"{store.packer.packs}/{files(store, '.pack')[0]}"
    os.chmod(path, 0o644)
    with open(path, "r+b") as f:
        f.seek(40)
        f.write(b"damage")
    made = group(store, seed=1)
    store.packer.try_to_pack()
    assert "CRC differs" in store.packer.statistics.error  # nor is it merged
    assert os.path.basename(path) in files(store)
    assert len(files(store, ".pack")) == 2
    store._recent.clear()
    check(store, made)


def test_git_leaves_it_alone_until_references_lead_to_it(store, monkeypatch) -> None:
    seen = []
    real = store._refs._publish

    def publish(held) -> None:
        seen.append([os.path.splitext(n)[1] for n in files(store)])
        real(held)

    monkeypatch.setattr(store._refs, "_publish", publish)
    group(store)
    assert seen == [[".idx", ".keep", ".pack"]]
    assert not files(store, ".keep")


def test_a_full_disk_leaves_nothing(store, monkeypatch) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    for where in ("dataflow.store.grouppack.write_all", "dataflow.store.journal.write_at"):
        with monkeypatch.context() as patch:
            patch.setattr(where, full)
            with pytest.raises(OSError, match="No space"):
                group(store)
        assert files(store) == []
        assert store.refs() == {}
        assert not list(Path(store.path, "refs").rglob("*.lock"))
    check(store, group(store))


@pytest.mark.parametrize("damage", ["both", "index", "pack", "cut", "empty", "keep"])
def test_what_a_power_cut_took_comes_back(tmp_path, store, damage) -> None:
    made = group(store)
    copy = shutil.copytree(store.path, tmp_path / "copy.git")
    base = copy / "objects/pack" / files(store, ".pack")[0][:-5]
    for suffix, how in ((".pack", ("both", "pack")), (".idx", ("both", "index"))):
        if damage in how:
            os.unlink(f"{base}{suffix}")
    if damage in ("cut", "empty"):
        where = f"{base}.pack" if damage == "cut" else f"{base}.idx"
        os.chmod(where, 0o644)
        os.truncate(where, 50 if damage == "cut" else 0)
    Path(f"{base}.keep").touch()
    after = DiskStore(copy)
    assert after.recovered.objects == (0 if damage == "keep" else len(made))
    assert not os.path.exists(f"{base}.keep")
    check(after, made)
    assert load(str(base)) == load(f"{store.packer.packs}/{base.name}")
    after.close()


def test_what_was_merged_meanwhile_is_not_written_again(tmp_path, store) -> None:
    made = group(store)
    store.packer.pack()
    copy = shutil.copytree(store.path, tmp_path / "copy.git")
    after = DiskStore(copy)
    assert after.recovered.objects == 0
    assert len(files(after, ".pack")) == 1
    check(after, made)
    after.close()


def test_the_same_pack_twice(tmp_path) -> None:
    pack = build(named({b"x": Kind.BLOB}))
    for _ in range(2):
        staged = StagedPack(str(tmp_path), pack)
        staged.publish()
        staged.release()
        staged.abort()
    assert sorted(os.listdir(tmp_path)) == [f"{pack.name}.idx", f"{pack.name}.pack"]
