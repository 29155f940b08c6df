"""Ancestry, merge bases and what lies between, against answers by brute force."""

from commit_graph import Graph
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflow.tree.history import between, is_ancestor, merge_bases


@st.composite
def graphs(draw):
    """Random histories; commit times run wildly equal and forward."""
    g = Graph()
    when = 0
    for i in range(draw(st.integers(1, 12))):
        parents = draw(st.lists(st.integers(0, i - 1), max_size=3, unique=True)) if i else []
        when += draw(st.integers(0, 1))
        g.add(str(i), *map(str, parents), when=when)
    return g


def reach(g: Graph, oid: str) -> set[str]:
    seen = {oid}
    todo = [oid]
    while todo:
        for p in g.objects.commit(todo.pop()).parents:
            if p not in seen:
                seen.add(p)
                todo.append(p)
    return seen


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_ancestry_and_bases_equal_brute_force(g: Graph) -> None:
    sets = {oid: reach(g, oid) for oid in g.ids.values()}
    for a in sets:
        for b in sets:
            assert is_ancestor(g.objects, a, b) == (a in sets[b])
            common = sets[a] & sets[b]
            best = {c for c in common if not any(c in sets[o] for o in common if o != c)}
            assert set(merge_bases(g.objects, a, b)) == best


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_between_is_complete_unique_and_parents_first(g: Graph) -> None:
    sets = {oid: reach(g, oid) for oid in g.ids.values()}
    for new in sets:
        for old in [None, *sets]:
            found = between(g.objects, old, new)
            expected = sets[new] - (sets[old] if old else set())
            assert len(found) == len(set(found))
            assert set(found) == expected
            for i, oid in enumerate(found):
                assert not expected & set(g.objects.commit(oid).parents) - set(found[:i])


def test_criss_cross_has_two_bases() -> None:
    g = Graph()
    g.add("o")
    g.add("a", "o")
    g.add("b", "o")
    g.add("x", "a", "b")
    g.add("y", "b", "a")
    assert sorted(g.names(merge_bases(g.objects, g.ids["x"], g.ids["y"]))) == ["a", "b"]


def test_unrelated_histories_have_none() -> None:
    g = Graph()
    assert merge_bases(g.objects, g.add("a"), g.add("b")) == []
