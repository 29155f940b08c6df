"""Trees that are very deep: a client gets a clear error, and what Git made can be read."""

import errno

import pytest

from dataflow.errors import NameTooLongError
from dataflow.store.memory import MemoryStore
from dataflow.store.objects import DIRECTORY, EMPTY_TREE, FILE, Entry, Objects
from dataflow.tree.diff import Difference, all_files, diff
from dataflow.tree.merge import merge_trees
from dataflow.tree.overlay import Overlay
from dataflow.tree.paths import DEPTH_MAX, Path

DEEP = 5000  # more than Python's stack, whatever it is used for


def directories(count: int) -> Path:
    return (b"d",) * count


def chain(objects: Objects, depth: int, **files: bytes) -> bytes:
    """Make a tree with files that have so many directories above them, as Git may."""
    entries = {name.encode(): Entry(FILE, objects.put_blob(data)) for name, data in files.items()}
    oid = objects.put_tree(entries)
    for _ in range(depth):
        oid = objects.put_tree({b"d": Entry(DIRECTORY, oid)})
    return oid


def test_as_deep_as_may_be() -> None:
    overlay = Overlay(Objects(MemoryStore()))
    for depth in range(1, DEPTH_MAX + 1):
        overlay.mkdir(directories(depth))
    path = (*directories(DEPTH_MAX - 1), b"f")
    overlay.write(path, b"x")
    root = overlay.store()
    assert set(all_files(overlay.objects, root)) == {path}
    edited = {}
    for name in (b"ours", b"theirs"):
        changed = Overlay(overlay.objects, root)
        changed.write((*directories(DEPTH_MAX - 1), name), name)
        edited[name] = changed.store()
    merged = merge_trees(overlay.objects, root, edited[b"ours"], edited[b"theirs"])
    assert not merged.conflicts
    assert len(all_files(overlay.objects, merged.tree)) == 3


@pytest.mark.parametrize("make", ["mkdir", "create", "write", "symlink", "rename", "parents"])
def test_one_too_deep(make: str) -> None:
    overlay = Overlay(Objects(MemoryStore()))
    overlay.write((b"a",), b"x")
    overlay.mkdir(directories(DEPTH_MAX), parents=True)
    path = (*directories(DEPTH_MAX), b"f")
    work = {
        "mkdir": lambda: overlay.mkdir(path),
        "create": lambda: overlay.create(path),
        "write": lambda: overlay.write(path, b""),
        "symlink": lambda: overlay.symlink(path, b"a"),
        "rename": lambda: overlay.rename((b"a",), path),
        "parents": lambda: overlay.mkdir(directories(10_000), parents=True),
    }
    with pytest.raises(NameTooLongError, match="names, at most 256") as caught:
        work[make]()
    assert caught.value.errno == errno.ENAMETOOLONG
    assert overlay.read((b"a",)) == b"x"


def test_a_deep_directory_that_is_moved_further_down_can_be_stored() -> None:
    overlay = Overlay(Objects(MemoryStore()))
    overlay.write((b"e", *directories(DEPTH_MAX - 2), b"f"), b"x")
    overlay.mkdir(directories(DEPTH_MAX - 1), parents=True)
    overlay.rename((b"e",), (*directories(DEPTH_MAX - 1), b"e"))
    (path,) = all_files(overlay.objects, overlay.store())
    assert len(path) == 2 * DEPTH_MAX - 1


def test_what_git_made_is_read_and_written() -> None:
    objects = Objects(MemoryStore())
    old, new = chain(objects, DEEP, f=b"1"), chain(objects, DEEP, f=b"2", g=b"3")
    below = directories(DEEP)
    assert [each.path[-1] for each in diff(objects, old, new)] == [b"f", b"g"]
    assert list(diff(objects, EMPTY_TREE, old)) == [
        Difference((*below, b"f"), None, Entry(FILE, objects.put_blob(b"1")))
    ]
    assert set(all_files(objects, new)) == {(*below, b"f"), (*below, b"g")}
    overlay = Overlay(objects, old)
    overlay.remove((*below, b"f"))
    assert overlay.store() == objects.put_tree({})


def test_what_git_made_is_merged_or_refused_in_one_line() -> None:
    objects = Objects(MemoryStore())
    base, ours, theirs = (chain(objects, DEEP, f=data) for data in (b"1", b"2", b"3"))
    assert merge_trees(objects, base, base, theirs).tree == theirs
    with pytest.raises(NameTooLongError, match="the directories to merge are too deep"):
        merge_trees(objects, base, ours, theirs)
