"""Trees in blocks against plain mappings: same octets, same lookups, shared blocks."""

import random

import pytest

from dataflow.errors import ObjectCorruptError
from dataflow.store.base import Kind
from dataflow.store.blocktree import (
    BLOCK,
    DIRECTORY,
    FILE,
    BlockTree,
    Entry,
    differing,
    parse,
    serialize,
)
from dataflow.store.memory import MemoryStore
from dataflow.store.objects import Cache, Objects


def random_entries(rng: random.Random, count: int) -> dict[bytes, Entry]:
    # names that sort differently as files and as directories: a, a-b, a/b, a0
    heads, marks = [b"a", b"b", b"ab"], [b"", b"-", b".", b"0"]
    names = {
        rng.choice(heads) + rng.choice(marks) + b"%d" % rng.randint(0, 9 * count)
        for _ in range(count)
    }
    return {name: random_entry(rng) for name in names}


def random_entry(rng: random.Random) -> Entry:
    return Entry(rng.choice([FILE, DIRECTORY]), rng.randbytes(20).hex())


def test_blocks_equal_a_mapping_under_random_edits() -> None:
    rng = random.Random(1)
    for _ in range(10):
        model = random_entries(rng, rng.choice([1, 63, 64, 500]))
        tree = BlockTree.load(serialize(model))
        for _ in range(20):
            changes = {
                rng.choice([*model, b"new%d" % rng.randint(0, 99)]): rng.choice(
                    [None, random_entry(rng)]
                )
                for _ in range(rng.choice([1, 3, 200]))
            }
            before, tree = tree, tree.edit(changes) if tree else tree
            old = dict(model)
            if before:
                model = {k: e for k, e in {**model, **changes}.items() if e is not None}
            assert tree.raw() == serialize(model)
            assert dict(tree) == model
            assert len(tree) == len(model)
            assert set(before.differing(tree)) == set(differing(old, model))
            for name in changes:
                assert tree.get(name) == model.get(name)


def test_load_shares_what_is_equal() -> None:
    rng = random.Random(2)
    entries = random_entries(rng, 2000)
    tree = BlockTree.load(serialize(entries))
    name = sorted(entries)[1000]
    data = serialize({**entries, name: Entry(FILE, "12" * 20)})
    loaded = BlockTree.load(data, tree)
    assert loaded.raw() == data
    assert len({id(b) for b in loaded.blocks} - {id(b) for b in tree.blocks}) <= 2
    assert list(tree.differing(loaded)) == [name]


@pytest.mark.parametrize("seed", range(5))
def test_load_with_any_other_tree_is_right(seed: int) -> None:
    rng = random.Random(seed)
    entries = random_entries(rng, 300)
    tree = BlockTree.load(serialize(entries))
    for _ in range(50):
        other = dict(random.Random(rng.randint(0, 9)).sample(sorted(entries.items()), 150))
        data = serialize(other)
        loaded = BlockTree.load(data, tree)
        assert loaded.raw() == data
        assert dict(loaded) == parse(data)


def test_equal_end_out_of_step_is_not_taken() -> None:
    """The last octets are equal, but in the new tree they begin inside of an object id."""
    tail = b"100644 x\0" + b"100644 " + b"n" * 13 + b"100644 z\0" + b"t" * 20
    old = BlockTree.load(b"".join(b"100644 a%02d\0" % i + bytes(20) for i in range(BLOCK)) + tail)
    assert old.blocks[-1].raw == tail
    data = b"100644 Y\0" + b"s" * 11 + tail
    assert list(BlockTree.load(data, old)) == [b"Y", b"n" * 13 + b"100644 z"] == list(parse(data))


def test_damaged_large_tree_is_said() -> None:
    store = MemoryStore()
    objects = Objects(store)
    good = serialize(random_entries(random.Random(3), 500))
    with pytest.raises(ObjectCorruptError):
        objects.tree(store.put(Kind.TREE, good[:-5]))
    with pytest.raises(ObjectCorruptError):
        objects.tree(store.put(Kind.TREE, b"x" * 9000))


def test_edits_of_a_large_tree_share_their_blocks_in_the_cache() -> None:
    store = MemoryStore()
    objects = Objects(store)
    entries = random_entries(random.Random(4), 1000)
    oid = objects.put_tree(entries)
    name = next(iter(entries))
    new = objects.edit_tree(oid, {name: None})
    assert new is not None
    assert objects.store.get(new)[1] == serialize({k: e for k, e in entries.items() if k != name})
    a, b = objects.tree(oid), objects.tree(new)
    assert isinstance(a, BlockTree)
    assert isinstance(b, BlockTree)
    assert len({id(x) for x in a.blocks} - {id(x) for x in b.blocks}) <= 2
    assert objects.edit_tree(oid, dict.fromkeys(entries)) is None


def test_cache_is_bounded_in_weight() -> None:
    cache: Cache[int, bytes] = Cache(1000, len)
    for i in range(10):
        cache.put(i, bytes(300))
    assert len(cache) == 3
    assert cache.weight == 900
    cache.put(9, bytes(10))
    assert cache.weight == 610
    cache.put(10, bytes(2000))  # heavier than all: not kept
    assert 10 not in cache
    assert cache.weight == 610
    cache.clear()
    assert len(cache) == 0
