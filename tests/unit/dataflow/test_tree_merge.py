"""Three-way merge: the table of cases, modes, criss-cross, conflicts as data, and diff."""

import pytest
from commit_graph import Graph, tree
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflow.store.objects import EXECUTABLE, FILE
from dataflow.tree.conflicts import ADD_ADD, ADD_DEL, BOTH_CHANGED, FILE_VS_DIR
from dataflow.tree.diff import diff
from dataflow.tree.drivers import Drivers
from dataflow.tree.merge import DEFAULT, Options, merge_commits, merge_trees
from dataflow.tree.paths import text
from dataflow.tree.tree import Tree


def files(objects, root):
    return {text(p): objects.blob(e.oid).decode() for p, e in Tree(objects, root).walk()}


def merge(base, ours, theirs, options=DEFAULT):
    objects = Graph().objects
    got = merge_trees(
        objects, tree(objects, base), tree(objects, ours), tree(objects, theirs), options
    )
    reasons = {text(c.path): c.reason for c in got.conflicts}
    return files(objects, got.tree), reasons


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "result"),
    [
        ({}, {"a": "1"}, {"b": "2"}, {"a": "1", "b": "2"}),
        ({"a": "1"}, {"a": "2"}, {"a": "1"}, {"a": "2"}),
        ({"a": "1"}, {"a": "1"}, {"a": "2"}, {"a": "2"}),
        ({"a": "1"}, {"a": "2"}, {"a": "2"}, {"a": "2"}),
        ({"a": "1"}, {}, {"a": "1"}, {}),
        ({"d/a": "1", "d/b": "1"}, {"d/a": "2", "d/b": "1"}, {"d/a": "1"}, {"d/a": "2"}),
        ({"d": "1"}, {"d/x": "2"}, {"d": "1"}, {"d/x": "2"}),
        ({"d": "1"}, {}, {"d/x": "2"}, {"d/x": "2"}),
        ({}, {"a": "same"}, {"a": "same"}, {"a": "same"}),
    ],
)
def test_clean(base, ours, theirs, result) -> None:
    assert merge(base, ours, theirs) == (result, {})
    assert merge(base, theirs, ours) == (result, {})


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "path", "reason"),
    [
        ({"a": "1"}, {"a": "2"}, {"a": "3"}, "a", BOTH_CHANGED),
        ({}, {"a": "2"}, {"a": "3"}, "a", ADD_ADD),
        ({"a": "1"}, {}, {"a": "3"}, "a", ADD_DEL),
        ({}, {"a": "1"}, {"a/b": "2"}, "a", FILE_VS_DIR),
        ({"d/a": "1"}, {}, {"d/a": "2"}, "d/a", ADD_DEL),
    ],
)
def test_conflicts_are_data(base, ours, theirs, path, reason) -> None:
    got, reasons = merge(base, ours, theirs)
    assert reasons == {path: reason}
    assert got[path] == f"** Conflict **\n{reason}\n"
    assert merge(base, theirs, ours)[1] == reasons


def test_mode_and_content_merge_apart() -> None:
    objects = Graph().objects
    got = merge_trees(
        objects,
        tree(objects, {"a": (FILE, "1")}),
        tree(objects, {"a": (EXECUTABLE, "1")}),
        tree(objects, {"a": (FILE, "2")}),
    )
    entry = Tree(objects, got.tree).entry((b"a",))
    assert (entry.mode, objects.blob(entry.oid), got.conflicts) == (EXECUTABLE, b"2", ())


def test_driver_merges_text() -> None:
    options = Options(Drivers({"a": lambda b, o, t, path: b + o + t}))
    got, reasons = merge({"a": "1"}, {"a": "2"}, {"a": "3"}, options)
    assert (got, reasons) == ({"a": "123"}, {})


def test_criss_cross_merges_the_bases_first() -> None:
    g = Graph()
    g.add("o", files={"f": "0", "g": "0"})
    g.add("a", "o", files={"f": "A", "g": "0"})
    g.add("b", "o", files={"f": "0", "g": "B"})
    g.add("x", "a", "b", files={"f": "A", "g": "B", "x": "x"})
    g.add("y", "b", "a", files={"f": "A", "g": "Y"})
    got = merge_commits(g.objects, g.ids["x"], g.ids["y"])
    assert got.conflicts == ()
    assert files(g.objects, got.tree) == {"f": "A", "g": "Y", "x": "x"}


FILES = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d/a", "d/b", "d/e/f", "g/h"]), st.sampled_from("123")
)


@settings(max_examples=60, deadline=None)
@given(FILES, FILES)
def test_diff_equals_comparing_dicts(old, new) -> None:
    objects = Graph().objects
    found = list(diff(objects, tree(objects, old), tree(objects, new)))
    expected = {p for p in old.keys() | new.keys() if old.get(p) != new.get(p)}
    assert sorted(text(d.path) for d in found) == sorted(expected)
    for d in found:
        assert d.status == (
            "A" if text(d.path) not in old else "D" if text(d.path) not in new else "M"
        )
    below = {text(d.path) for d in diff(objects, tree(objects, old), tree(objects, new), (b"d",))}
    assert below == {p for p in expected if p.startswith("d/")}


@settings(max_examples=60, deadline=None)
@given(FILES, FILES, FILES)
def test_merge_is_symmetric_and_idempotent(base, ours, theirs) -> None:
    one, reasons = merge(base, ours, theirs)
    assert merge(base, theirs, ours) == (one, reasons)
    assert merge(base, ours, ours) == (ours, {})
