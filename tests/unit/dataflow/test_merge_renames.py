"""Renames: which file is which, what they mean for a merge, and how `diff` shows them."""

import json
import random
import sys
from pathlib import Path

import pytest
from commit_graph import Graph, tree

from dataflow.store.objects import EXECUTABLE, SUBMODULE, SYMLINK, Entry
from dataflow.tree.conflicts import Kind
from dataflow.tree.diff import diff
from dataflow.tree.merge import Options, merge_commits, merge_trees
from dataflow.tree.patch import deltas, stat, unified
from dataflow.tree.paths import parse, text
from dataflow.tree.renames import find_renames
from dataflow.tree.similarity import SCORE_MAX, pieces, possible, score
from dataflow.tree.textmerge import Style
from dataflow.tree.tree import Tree

sys.path.insert(0, str(Path(__file__).parents[2] / "fuzz"))

import fuzz_merge

BODY = "".join(f"line {n}\n" for n in range(20))
EDITED = BODY.replace("line 3\n", "line three\n")
REST = BODY.replace("line 17\n", "line seventeen\n")


def renames(old, new, **options):
    objects = Graph().objects
    found = list(diff(objects, tree(objects, old), tree(objects, new)))
    removed = {d.path: d.old for d in found if d.new is None}
    added = {d.path: d.new for d in found if d.old is None}
    pairs = find_renames(objects, removed, added, **options)
    return {text(r.old): (text(r.new), r.percent) for r in pairs}


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ({"a": BODY}, {"b": BODY}, {"a": ("b", 100)}),
        ({"a": BODY}, {"b": EDITED}, {"a": ("b", 92)}),
        ({"a": BODY}, {"b": "other\n"}, {}),
        ({"a": ""}, {"b": ""}, {}),  # empty files are like every other
        ({"a": (SYMLINK, "x")}, {"b": (SYMLINK, "x")}, {"a": ("b", 100)}),
        ({"a": (SYMLINK, "x")}, {"b": "x"}, {}),
        ({"a": BODY}, {"b": (EXECUTABLE, BODY)}, {"a": ("b", 100)}),
        ({"d/a": BODY, "e/b": BODY}, {"x/b": BODY, "y/a": BODY},
         {"d/a": ("y/a", 100), "e/b": ("x/b", 100)}),
        ({"a": BODY, "b": EDITED}, {"c": REST, "d": EDITED + "x\n"},
         {"a": ("c", 90), "b": ("d", 98)}),
        ({"a": BODY.replace("\n", "\r\n")}, {"b": BODY}, {"a": ("b", 88)}),
    ],
)  # fmt: skip
def test_which_file_is_which(old, new, found) -> None:
    assert renames(old, new) == found


def test_a_limit_on_pairs_leaves_equal_files_and_equal_names() -> None:
    old = {"a": BODY, "b": "1\n" + BODY, "d/c": "2\n" + BODY}
    new = {"x": BODY, "y": "1\n" + BODY + "3\n", "e/c": "2\n" + BODY + "4\n"}
    assert len(renames(old, new)) == 3
    assert set(renames(old, new, limit=0)) == {"a", "d/c"}
    assert set(renames(old, new, relevant=frozenset())) == {"a"}  # equal ones cost nothing


def test_likeness() -> None:
    a, b = b"one\ntwo\n" + b"x" * 200, b"two\r\n" + b"x" * 200
    assert score(pieces(a, binary=False), len(a), pieces(a, binary=False), len(a)) == SCORE_MAX
    assert score(pieces(a, binary=False), len(a), pieces(b, binary=False), len(b)) == (
        204 * SCORE_MAX // 208
    )
    assert sum(pieces(a, binary=True).values()) == len(a)
    assert possible(100, 50)
    assert not possible(101, 50)


def merge(base, ours, theirs, **options):
    objects = Graph().objects
    trees = (tree(objects, files) for files in (base, ours, theirs))
    got = merge_trees(objects, *trees, Options(**options))
    files = {text(p): objects.blob(e.oid).decode() for p, e in Tree(objects, got.tree).walk()}
    return files, got.conflicts


def test_an_edit_follows_the_file() -> None:
    moved = {"new/place": EDITED, "other": "x"}
    files, conflicts = merge({"a": BODY, "other": "x"}, moved, {"a": REST, "other": "x"})
    both = EDITED.replace("line 17\n", "line seventeen\n")
    assert (files, conflicts) == ({"new/place": both, "other": "x"}, ())
    _, conflicts = merge({"a": BODY}, {"b": BODY}, {"a": REST}, renames=False)
    assert [c.kind for c in conflicts] == [Kind.MODIFY_DELETE]


def test_one_file_two_new_names() -> None:
    _, conflicts = merge({"a": BODY}, {"b": EDITED}, {"c": REST})
    assert [(text(c.path), c.kind) for c in conflicts] == [
        ("b", Kind.RENAME_RENAME), ("c", Kind.RENAME_RENAME)
    ]  # fmt: skip
    assert [text(p) for p in conflicts[0].paths] == ["a", "b", "c"]
    assert conflicts[0].message == "a renamed to b and to c"
    files, _ = merge({"a": BODY}, {"b": EDITED}, {"c": REST}, style=Style.MERGE)
    assert files["b"] == files["c"] == EDITED.replace("line 17\n", "line seventeen\n")


def test_two_files_one_new_name() -> None:
    base = {"a": BODY, "b": BODY[::-1]}
    ours, theirs = {"c": BODY, "b": BODY[::-1] + "y\n"}, {"a": BODY + "x\n", "c": BODY[::-1]}
    files, conflicts = merge(base, ours, theirs, style=Style.MERGE)
    assert [(text(c.path), c.kind) for c in conflicts] == [("c", Kind.RENAME_ADD)]
    assert "x\n" in files["c"]
    assert "y\n" in files["c"]
    assert "a" not in files
    assert "b" not in files


def test_labels_name_a_file_that_is_called_differently() -> None:
    ours, theirs = {"b": BODY.replace("line 3", "ours")}, {"a": BODY.replace("line 3", "theirs")}
    files, _ = merge({"a": BODY}, ours, theirs, style=Style.DIFF3)
    assert (
        "<<<<<<< ours:b\nours\n||||||| base\nline 3\n=======\ntheirs\n>>>>>>> theirs:a\n"
        in (files["b"])
    )


def test_a_text_conflict_between_bases_keeps_its_markers() -> None:
    g = Graph()
    g.add("o", files={"f": "0\n"})
    g.add("a", "o", files={"f": "A\n"})
    g.add("b", "o", files={"f": "B\n"})
    g.add("x", "a", "b", files={"f": "A\n"})
    g.add("y", "b", "a", files={"f": "0\n"})
    got = merge_commits(g.objects, g.ids["x"], g.ids["y"])
    assert [text(c.path) for c in got.conflicts] == ["f"]  # with o as the base it would be A


def test_only_changed_directories_are_read() -> None:
    g = Graph()
    files = {f"d{i}/e{j}/f": str(i) for i in range(20) for j in range(20)}
    g.add("base", files=files)
    g.add("ours", "base", files={**files, "d1/e1/f": "x"})
    g.add("theirs", "base", files={**files, "d1/e2/f": "y", "d7/e7/f": "y"})
    read = []
    fresh = type(g.objects)(g.objects.store)
    original = fresh.tree
    fresh.tree = lambda oid: read.append(oid) or original(oid)  # type: ignore[method-assign]
    merge_commits(fresh, g.ids["ours"], g.ids["theirs"])
    assert len(set(read)) <= 8  # three roots, three of d1; d1/e1, d1/e2 and d7 are taken whole


def test_submodules_are_taken_or_conflict_and_never_read() -> None:
    objects = Graph().objects
    at = {n: objects.put_tree({b"m": Entry(SUBMODULE, n * 40)}) for n in "123"}
    assert merge_trees(objects, at["1"], at["2"], at["1"]).tree == at["2"]
    (conflict,) = merge_trees(objects, at["1"], at["2"], at["3"]).conflicts
    assert (conflict.kind, conflict.theirs) == (Kind.SUBMODULE, Entry(SUBMODULE, "3" * 40))
    (delta,) = deltas(objects, tuple(diff(objects, at["1"], at["2"])), renames=True)
    assert b"-Subproject commit 1111" in unified(objects, delta)


def test_patch_stat_and_json() -> None:
    objects = Graph().objects
    old = tree(objects, {"a": BODY, "k": "1\n2", "bin": "\0", "é\t": "x\n", "gone": "g\n"})
    new = tree(
        objects,
        {"b": EDITED, "k": (EXECUTABLE, "1\n3\n"), "bin": "\0\0", "é\t": "y\n",
         "n": (SYMLINK, "t")},
    )  # fmt: skip
    found = deltas(objects, tuple(diff(objects, old, new)), renames=True)
    lines = [d.line(stat(objects, d)) for d in found]
    assert lines == [
        "> a => b (92%) +1 -1", "* bin binary", "- gone +0 -1", "* k +1 -1", "+ n +1 -0",
        "* é\t +1 -1",
    ]  # fmt: skip
    moved = found[0]
    assert json.loads(json.dumps(moved.as_json(stat(objects, moved)))) == {
        "path": "b", "status": "R", "from": "a", "percent": 92,
        "added": 1, "removed": 1, "binary": False,
    }  # fmt: skip
    patch = b"".join(unified(objects, d) for d in found).decode()
    assert "similarity index 92%\nrename from a\nrename to b\n" in patch
    assert "-line 3\n+line three\n" in patch
    assert "@@ -1,7 +1,7 @@\n" in patch
    assert "old mode 100644\nnew mode 100755\n" in patch
    assert "-2\n\\ No newline at end of file\n+3\n" in patch
    assert "Binary files a/bin and b/bin differ\n" in patch
    assert '--- "a/\\303\\251\\t"\n' in patch
    assert "new file mode 120000\n" in patch


def test_fuzz_target_on_seeded_input() -> None:
    fuzz_merge.fuzz(5, 1500)


def test_random_merges_are_quick_and_total() -> None:
    """A thousand renamed and edited files: the search is bounded by the limit on pairs."""
    rng = random.Random(3)
    words = [f"line {n}\n" for n in range(400)]
    base = {f"d/{n}": "".join(rng.choices(words, k=6)) for n in range(600)}
    ours = {f"e/{n}x": content + "more\n" for n, content in enumerate(base.values())}
    theirs = {path: "first\n" + content for path, content in base.items()}
    files, conflicts = merge(base, ours, theirs, rename_limit=10)
    assert {c.kind for c in conflicts} == {Kind.MODIFY_DELETE}
    assert len(files) == 1200
    assert parse("d/1") in {c.path for c in conflicts}
