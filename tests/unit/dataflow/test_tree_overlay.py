"""The writable tree against a dict of paths, and its edges."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflow.errors import (
    DataflowError,
    ExistsError,
    IsDirectoryError,
    NotDirectoryError,
    NotEmptyError,
    NotFoundError,
    UsageError,
)
from dataflow.store.memory import MemoryStore
from dataflow.store.objects import EMPTY_TREE, EXECUTABLE, FILE, Objects
from dataflow.tree.overlay import Overlay
from dataflow.tree.paths import parse
from dataflow.tree.tree import Tree


class CountingStore(MemoryStore):
    puts = 0
    gets = 0

    def put(self, kind, data):
        self.puts += 1
        return super().put(kind, data)

    def get(self, oid):
        self.gets += 1
        return super().get(oid)


def make(files: dict[str, bytes] | None = None) -> Overlay:
    tree = Overlay(Objects(CountingStore()))
    for path, data in (files or {}).items():
        tree.write(parse(path), data)
    return tree


def files_of(objects: Objects, root: str) -> dict[str, bytes]:
    return {b"/".join(p).decode(): objects.blob(e.oid) for p, e in Tree(objects, root).walk()}


def test_write_stores_only_what_changed() -> None:
    tree = make({f"d{i}/f{j}": b"x" for i in range(20) for j in range(20)})
    root = tree.store()
    objects = tree.objects
    store = objects.store
    store.puts = store.gets = 0
    fresh = Objects(store)
    change = Overlay(fresh, root)
    change.write(parse("d3/f3"), b"new")
    change.store()
    assert (store.puts, store.gets) == (3, 2)  # blob, d3, root; root and d3 read


def test_empty_directories_are_not_stored() -> None:
    tree = make()
    tree.mkdir(parse("a/b"), parents=True)
    assert tree.entries(parse("a")) == {b"b": 0o40000}
    assert tree.store() == EMPTY_TREE
    assert tree.objects.store.has(EMPTY_TREE)


def test_removing_the_last_file_removes_the_directory() -> None:
    tree = make({"a/b/c": b"1", "x": b"2"})
    tree = Overlay(tree.objects, tree.store())
    tree.remove(parse("a/b/c"))
    assert files_of(tree.objects, tree.store()) == {"x": b"2"}


def test_write_at_fills_gaps_and_truncate_extends() -> None:
    tree = make({"f": b"abc"})
    tree.write_at(parse("f"), 5, b"Z")
    assert tree.read(parse("f")) == b"abc\0\0Z"
    tree.write_at(parse("f"), 1, b"--")
    tree.truncate(parse("f"), 3)
    assert tree.read(parse("f")) == b"a--"
    tree.truncate(parse("f"), 4)
    assert tree.read(parse("f"), 2, 10) == b"-\0"
    with pytest.raises(UsageError, match="Negative offset"):
        tree.write_at(parse("f"), -1, b"x")


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (lambda t: t.write(parse("d"), b""), IsDirectoryError),
        (lambda t: t.write(parse("f/x"), b""), NotDirectoryError),
        (lambda t: t.read(parse("nope")), NotFoundError),
        (lambda t: t.create(parse("f")), ExistsError),
        (lambda t: t.create(parse("nope/x")), NotFoundError),
        (lambda t: t.mkdir(parse("d")), ExistsError),
        (lambda t: t.remove(parse("d")), NotEmptyError),
        (lambda t: t.rename(parse("d"), parse("d/e")), UsageError),
        (lambda t: t.rename(parse("f"), parse("d")), IsDirectoryError),
        (lambda t: t.rename(parse("d"), parse("f")), NotDirectoryError),
        (lambda t: t.chmod(parse("d"), executable=True), IsDirectoryError),
        (lambda t: t.remove(()), DataflowError),
        (lambda t: t.truncate(parse("f"), 1 << 60), UsageError),
    ],
)
def test_refused(act, error) -> None:
    tree = make({"f": b"1", "d/x": b"2"})
    before = tree.store()
    with pytest.raises(error):
        act(tree)
    assert tree.store() == before


def test_rename_moves_a_directory_and_chmod_survives() -> None:
    tree = make({"a/x": b"1", "a/y": b"2"})
    tree.chmod(parse("a/x"), executable=True)
    tree = Overlay(tree.objects, tree.store())
    tree.rename(parse("a"), parse("b"))
    assert files_of(tree.objects, tree.store()) == {"b/x": b"1", "b/y": b"2"}
    assert tree.stat(parse("b/x")).mode == EXECUTABLE
    assert tree.stat(parse("b/y")).mode == FILE


PATHS = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)
OPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), PATHS, st.binary(max_size=3)),
        st.tuples(st.just("remove"), PATHS),
        st.tuples(st.just("rename"), PATHS, PATHS),
        st.tuples(st.just("store")),
    ),
    max_size=25,
)


def model(files: dict[str, bytes], op) -> dict[str, bytes]:
    """Do an allowed operation on a dict of paths."""
    under = lambda p: {k for k in files if k == p or k.startswith(p + "/")}  # noqa: E731
    match op:
        case ("write", path, data):
            return {**files, path: data}
        case ("remove", path):
            return {k: v for k, v in files.items() if k not in under(path)}
        case ("rename", old, new):
            moved = {new + k[len(old) :]: files[k] for k in under(old)}
            kept = {k: v for k, v in files.items() if k not in under(old) | under(new)}
            return {**kept, **moved}
    return files


@settings(max_examples=60, deadline=None)
@given(OPS)
def test_any_operations_equal_a_dict(ops) -> None:
    tree = make()
    files: dict[str, bytes] = {}
    for op in ops:
        try:
            match op:
                case ("write", path, data):
                    tree.write(parse(path), data)
                case ("remove", path):
                    tree.remove(parse(path), recursive=True)
                case ("rename", old, new):
                    tree.rename(parse(old), parse(new))
                case _:
                    tree = Overlay(tree.objects, tree.store())
        except DataflowError:
            continue
        if op[0] != "rename" or op[1] != op[2]:
            files = model(files, op)
    assert files_of(tree.objects, tree.store()) == files
