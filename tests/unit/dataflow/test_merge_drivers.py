"""Drivers by path: patterns, attributes, JSON, last writer, a user's function and its errors."""

import pytest
from commit_graph import Graph, tree
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflow import Conflict, MergeConflictError, Repository, UsageError
from dataflow.store.objects import SYMLINK
from dataflow.tree.attributes import Attributes, Glob
from dataflow.tree.conflicts import Kind
from dataflow.tree.drivers import Drivers
from dataflow.tree.jsonmerge import merge_json
from dataflow.tree.merge import Options, merge_commits, merge_trees
from dataflow.tree.paths import parse, text
from dataflow.tree.tree import Tree


def merge(base, ours, theirs, patterns=None):
    """Merge trees of files; return contents, and conflicts as (kind, message)."""
    objects = Graph().objects
    trees = (tree(objects, files) for files in (base, ours, theirs))
    got = merge_trees(objects, *trees, Options(Drivers(patterns)))
    files = {text(p): objects.blob(e.oid).decode() for p, e in Tree(objects, got.tree).walk()}
    return files, {text(c.path): (c.kind, c.message) for c in got.conflicts}


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("*.json", "a/b/c.json", True),
        ("*.json", "c.jsonx", False),
        ("/c", "c", True),
        ("/c", "a/c", False),
        ("a/*", "a/b", True),
        ("a/*", "a/b/c", False),
        ("a/**", "a/b/c", True),
        ("a/**", "a", False),
        ("**/c", "c", True),
        ("a/**/c", "a/c", True),
        ("a/**/c", "a/x/y/c", True),
        ("[a-c]?", "b1", True),
        ("[!a-c]?", "b1", False),
        ("x[", "x[", True),
        ("\\*", "*", True),
        ("\\*", "x", False),
        ("*a*b*", "xxaxxb", True),
    ],
)
def test_glob(pattern, path, matches) -> None:
    assert Glob(pattern.encode()).match(parse(path)) is matches


def test_glob_is_not_exponential() -> None:
    assert not Glob(b"*a" * 100 + b"*b").match((b"a" * 255,))
    assert not Glob(b"**/a/" * 50 + b"b").match((b"a",) * 200)


def test_attributes_of_a_tree() -> None:
    objects = Graph().objects
    root = tree(
        objects,
        {
            ".gitattributes": "*.json merge=json\n*.bin -merge\n*.png binary\n* text\n",
            "d/.gitattributes": "*.json merge=union\nx.json !merge\n[attr]foo bar\n*.t merge\n",
            "l/.gitattributes": (SYMLINK, "../evil"),
        },
    )
    found = {
        path: Attributes(objects, root).merge(parse(path))
        for path in ("a.json", "d/a.json", "d/x.json", "a.bin", "d/e/a.png", "d/a.t", "l/a")
    }
    assert found == {
        "a.json": b"json", "d/a.json": b"union", "d/x.json": None,
        "a.bin": False, "d/e/a.png": False, "d/a.t": True, "l/a": None,
    }  # fmt: skip


SIDES = ("1\nk\n", "2\nk\n", "3\nk\n")


@pytest.mark.parametrize(
    ("driver", "result"),
    [("ours", "2\nk\n"), ("theirs", "3\nk\n"), ("union", "2\n3\nk\n")],
)
def test_built_in_by_pattern_and_by_attribute(driver, result) -> None:
    base, ours, theirs = ({"f": side} for side in SIDES)
    assert merge(base, ours, theirs, {"f": driver}) == ({"f": result}, {})
    said = {".gitattributes": f"f merge={driver}\n"}
    files, conflicts = merge(base | said, ours | said, theirs | said)
    assert (files["f"], conflicts) == (result, {})


def test_the_program_comes_before_the_attributes_and_the_last_pattern_wins() -> None:
    said = {".gitattributes": "f merge=union\n"}
    base, ours, theirs = ({"f": side} | said for side in SIDES)
    files, _ = merge(base, ours, theirs, {"*": "ours", "f": "theirs"})
    assert files["f"] == "3\nk\n"


def test_no_merging_and_unknown_names() -> None:
    for line, kind in (("f -merge", Kind.BINARY), ("f merge=what", Kind.CONTENT)):
        said = {".gitattributes": line + "\n"}
        base, ours, theirs = ({"f": side} | said for side in SIDES)
        assert merge(base, ours, theirs)[1]["f"][0] is kind
    with pytest.raises(UsageError, match="expected one of text, binary"):
        Drivers({"*": "jason"})


def fails(base: bytes, ours: bytes, theirs: bytes, path: str) -> bytes:
    raise KeyError(path)


@pytest.mark.parametrize(
    ("driver", "message"),
    [
        (lambda b, o, t, p: Conflict("not numbers"), "not numbers"),
        (fails, "f: merge driver: KeyError: 'f'"),
        (lambda b, o, t, p: "text", "f: merge driver: expected bytes or Conflict, found str"),
        ("last-writer", "f: no commits whose times could be compared"),
    ],
)
def test_a_driver_that_gives_up_is_a_conflict(driver, message) -> None:
    base, ours, theirs = ({"f": side} for side in SIDES)
    files, conflicts = merge(base, ours, theirs, {"f": driver})
    assert conflicts == {"f": (Kind.DRIVER, message)}
    assert files["f"] == "** Conflict **\nChanged on both branches\n"


def test_a_driver_sees_the_file_under_its_new_name() -> None:
    seen = []

    def driver(base: bytes, ours: bytes, theirs: bytes, path: str) -> bytes:
        seen.append((base, ours, theirs, path))
        return b"merged"

    long = "".join(f"{n}\n" for n in range(9))
    files, _ = merge({"f": long}, {"g": "x\n" + long}, {"f": long + "y\n"}, {"g": driver})
    assert files == {"g": "merged"}
    assert seen == [(long.encode(), b"x\n" + long.encode(), long.encode() + b"y\n", "g")]


def test_last_writer_asks_when_the_path_was_written() -> None:
    g = Graph()
    g.add("base", files={"f": "0", "g": "0"})
    g.add("o1", "base", files={"f": "ours", "g": "0"})
    g.add("t1", "base", files={"f": "theirs", "g": "0"})  # later than o1
    g.add("o2", "o1", files={"f": "ours", "g": "2"})  # later still, but not to f
    options = Options(Drivers({"f": "last-writer"}))
    for pair in (("o2", "t1"), ("t1", "o2")):
        got = merge_commits(g.objects, *(g.ids[n] for n in pair), options)
        assert Tree(g.objects, got.tree).read((b"f",)) == b"theirs"
        assert got.conflicts == ()


JSON = b'{\n  "a": 1.50,\n  "list": [1, 2, 3],\n  "jobs": [\n    {\n      "id": "x",\n      "cpu": 1\n    }\n  ]\n}\n'  # noqa: E501


def test_json_merges_by_key_and_keeps_the_layout() -> None:
    ours = JSON.replace(b"1.50", b"1.70").replace(b"[1, 2", b"[0, 1, 2")
    theirs = JSON.replace(b"2, 3]", b"2, 3, 4]").replace(b'"cpu": 1', b'"cpu": 1,\n      "mem": 5')
    theirs = theirs.replace(b'  "list"', b'  "new": null,\n  "list"')
    want = ours.replace(b"2, 3]", b"2, 3, 4]").replace(b'"cpu": 1', b'"cpu": 1,\n      "mem": 5')
    assert merge_json(JSON, ours, theirs) == want.replace(b'  "list"', b'  "new": null,\n  "list"')


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "result"),
    [
        (b'{"a":1}', b'{"a":2}', b'{"a":1,"b":1}', b'{"a":2,"b":1}'),
        (b'{"a": 1}\n', b'{"a": 2}\n', b'{"a": 3}\n', (".a",)),
        (b'{"a": {"b": 1}}', b"{}", b'{"a": {"b": 2}}', (".a",)),
        (b'{"a": {"b": 1}}', b"{}", b'{"a": {"b": 1}, "c": 1}', b'{"c": 1}'),
        (b"[1,2,3]", b"[2,3]", b"[1,2,3,4]", b"[2,3,4]"),
        (b"[1]", b"[2]", b"[3]", ("[0]",)),
        (b'{"a":1}', b'{"a":1.0}', b'{"a":true}', (".a",)),
        (b'[{"id":1,"v":1},{"id":2}]', b'[{"id":1,"v":2},{"id":2}]', b'[{"id":2},{"id":1,"v":1}]',
         b'[{"id":2},{"id":1,"v":2}]'),
        (b'[{"id":1,"v":1}]', b'[{"id":1,"v":2}]', b'[{"id":1,"v":3}]', ("[1].v",)),
        (b"", b'{"a": 1}', b'{"b": 1}', b'{"b": 1, "a": 1}'),
    ],
)  # fmt: skip
def test_json(base, ours, theirs, result) -> None:
    assert merge_json(base, ours, theirs) == result


@pytest.mark.parametrize("bad", [b"{", b'{"a":1,"a":2}', b"[" * 100_000, b"\xff", b"", b"1e"])
def test_what_is_no_json_is_merged_as_text(bad) -> None:
    with pytest.raises(ValueError, match=r"."):
        merge_json(b"{}", bad, b'{"a": 1}')
    base, ours, theirs = {"f": "k\n{\n"}, {"f": "k\n{\n1\n"}, {"f": "0\nk\n{\n"}
    assert merge(base, ours, theirs, {"*": "json"}) == ({"f": "0\nk\n{\n1\n"}, {})


VALUES = st.recursive(
    st.sampled_from([None, True, 1, 1.5, "x", "é"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(VALUES, VALUES, VALUES, st.sampled_from([None, 2, "\t"]))
def test_json_laws(base, ours, theirs, indent) -> None:
    import json

    b, o, t = (json.dumps(v, indent=indent).encode() for v in (base, ours, theirs))
    for sides, value in (((o, o, t), theirs), ((b, o, b), ours), ((b, t, t), theirs)):
        got = merge_json(*sides)
        assert isinstance(got, bytes)
        assert json.loads(got) == value
    assert isinstance(merge_json(b, o, t), bytes) == isinstance(merge_json(b, t, o), bytes)


async def test_a_repository_with_drivers(tmp_path) -> None:
    drivers = {"*.json": "json", "n": lambda b, o, t, p: b"%d" % max(int(o), int(t))}
    async with Repository.open(tmp_path / "r.git", drivers=drivers) as repo:
        async with repo.branch("main").transaction("base") as t:
            t.write("a.json", b'{"a": 1}')
            t.write("n", b"1")
        base = repo.branch("main").head
        assert base
        await repo.branch("other").fast_forward(base)
        for name, data, n in (("main", b'{"a": 2}', b"5"), ("other", b'{"a": 1, "b": 1}', b"9")):
            async with repo.branch(name).transaction(name) as t:
                t.write("a.json", data)
                t.write("n", n)
        await repo.branch("main").merge("other", "join")
        assert await repo.branch("main").read("a.json") == b'{"a": 2, "b": 1}'
        assert await repo.branch("main").read("n") == b"9"


async def test_conflicts_are_data_in_errors_and_transactions() -> None:
    async with Repository.memory() as repo:
        async with repo.branch("main").transaction("base") as t:
            t.write("f", b"1\n")
        base = repo.branch("main").head
        assert base
        await repo.branch("other").fast_forward(base)
        for name, data in (("main", b"2\n"), ("other", b"3\n")):
            async with repo.branch(name).transaction(name) as t:
                t.write("f", data)
        with pytest.raises(MergeConflictError) as caught:
            await repo.branch("main").merge("other")
        (conflict,) = caught.value.conflicts
        assert (conflict.kind, conflict.path) == (Kind.CONTENT, (b"f",))
        assert conflict.marked == b"<<<<<<< ours\n2\n=======\n3\n>>>>>>> theirs\n"
        transaction = repo.branch("main").transaction("join")
        await transaction.merge("other")
        assert transaction.conflict_details == (conflict,)
        transaction.write("f", b"23\n")
        assert transaction.conflict_details == ()
        await transaction.commit()
