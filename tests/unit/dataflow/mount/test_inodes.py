"""What the kernel knows of a tree: counts, fids, renames, and what may be kept."""

import random

import pytest

from dataflow.mount.inodes import Held, Inodes, Policy
from dataflow.p9.tree import Qid

DIR, FILE = 0x80, 0


class Table:
    """A table whose clunked fids are seen."""

    def __init__(self, policy: Policy = Policy.PLAIN) -> None:
        self.clunked: list[int] = []
        self.inodes = Inodes(0, Qid(DIR, 0, 1), policy, self.clunked.append)
        root = self.inodes.get(1)
        assert root is not None
        self.root = root


def test_a_name_that_is_told_twice_keeps_its_node_and_gets_the_new_fid() -> None:
    t = Table()
    one = t.inodes.put(t.root, "f", 10, Qid(FILE, 1, 5))
    two = t.inodes.put(t.root, "f", 11, Qid(FILE, 2, 5))
    assert (one is two, two.held.fid, two.qid.version, t.clunked) == (True, 11, 2, [10])
    t.inodes.forget(one.nodeid, 1)
    assert t.inodes.get(one.nodeid) is one
    t.inodes.forget(one.nodeid, 1)
    assert t.inodes.get(one.nodeid) is None
    assert t.clunked == [10, 11]


def test_another_file_by_that_name_is_another_node() -> None:
    t = Table()
    one = t.inodes.put(t.root, "f", 10, Qid(FILE, 0, 5))
    two = t.inodes.put(t.root, "f", 11, Qid(DIR, 0, 6))
    assert one.nodeid != two.nodeid
    t.inodes.forget(one.nodeid, 1)
    assert t.inodes.put(t.root, "f", 12, Qid(DIR, 0, 6)) is two


def test_after_a_rename_the_old_name_is_free_though_its_qid_comes_again() -> None:
    t = Table()
    moved = t.inodes.put(t.root, "new", 10, Qid(FILE, 0, 5))
    old = t.inodes.put(t.root, "f", 11, Qid(FILE, 0, 6))
    t.inodes.rename(t.root, "new", t.root, "f")
    again = t.inodes.put(t.root, "new", 12, Qid(FILE, 0, 5))
    assert len({moved.nodeid, old.nodeid, again.nodeid}) == 3
    assert t.inodes.put(t.root, "f", 13, Qid(FILE, 0, 5)) is moved


def test_a_fid_in_use_is_clunked_afterwards_and_once() -> None:
    clunked: list[int] = []
    held = Held(3, clunked.append)
    with held.use() as fid, held.use():
        held.drop()
        assert (fid, clunked) == (3, [])
    assert clunked == [3]
    held.drop()
    assert clunked == [3]


def test_unknown_nodes_and_the_root_are_not_forgotten() -> None:
    t = Table()
    t.inodes.forget(1, 1 << 40)
    t.inodes.forget(99, 1)
    assert t.inodes.get(1) is t.root
    assert t.clunked == []


@pytest.mark.parametrize("seed", range(20))
def test_any_order_of_calls_leaks_no_fid(seed: int) -> None:
    rng = random.Random(seed)
    t = Table()
    told: dict[int, int] = {}
    for fid in range(1, 500):
        inode = t.inodes.put(t.root, rng.choice("abcd"), fid, Qid(FILE, 0, rng.randrange(3)))
        told[inode.nodeid] = told.get(inode.nodeid, 0) + 1
        match rng.randrange(4):
            case 0:
                t.inodes.unlink(t.root, rng.choice("abcd"))
            case 1:
                t.inodes.rename(t.root, rng.choice("abcd"), t.root, rng.choice("abcd"))
            case 2:
                nodeid = rng.choice(list(told))
                t.inodes.forget(nodeid, told.pop(nodeid))
    for nodeid, count in told.items():
        t.inodes.forget(nodeid, count)
    assert len(t.inodes) == 1
    assert sorted(t.clunked) == list(range(1, 500))


@pytest.mark.parametrize(
    ("path", "policy"),
    [
        ("branch/main/head.live", Policy.BRANCH),
        ("branch/a/b/transactions/t/rw/x/y", Policy.WORK),
        ("branch/main/transactions/t/ctl", Policy.PLAIN),
        ("branch/main/ro/transactions/t/rw", Policy.PLAIN),
        ("snapshots/0123/ro/a", Policy.FOREVER),
        ("snapshots", Policy.OBJECTS),
        ("trees/D-0123", Policy.FOREVER),
        ("remotes/r/url", Policy.PLAIN),
    ],
)
def test_what_may_be_kept_by_the_place_in_a_repository(path: str, policy: Policy) -> None:
    found = Policy.TOP
    for name in path.split("/"):
        found = found.below(name)
    assert found is policy
    assert (found.valid > 0) == (policy is Policy.FOREVER)
