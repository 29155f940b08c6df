"""Differences of lines and three-way merge of texts: rules, ends of lines, bounds."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflow.tree.lines import Budget, Change, difference, split_lines
from dataflow.tree.textmerge import Favor, Labels, Style, is_binary, merge_text

TEXT = st.lists(st.sampled_from(["a", "b", "c", "", "}"]), max_size=12).map(
    lambda words: "\n".join(words).encode()
)


def apply(old, new, changes):
    out, at = [], 0
    for c in changes:
        out += old[at : c.a0]
        out += new[c.b0 : c.b1]
        at = c.a1
    return out + old[at:]


@settings(max_examples=200, deadline=None)
@given(TEXT, TEXT, st.sampled_from([0, 5, 1_000_000]))
def test_difference_turns_old_into_new_within_any_budget(a, b, steps) -> None:
    old, new = split_lines(a), split_lines(b)
    changes = difference(old, new, Budget(steps))
    assert apply(old, new, changes) == new
    assert all(x.a1 < y.a0 and x.b1 < y.b0 for x, y in pairwise(changes))


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ("", "", []),
        ("abc", "abc", []),
        ("abc", "axc", [Change(1, 2, 1, 2)]),
        ("", "ab", [Change(0, 0, 0, 2)]),
        ("xab", "xababy", [Change(3, 3, 3, 6)]),  # a group slides down as far as it goes
        ("abcabba", "cbabac", [Change(0, 2, 0, 0), Change(3, 4, 1, 1), Change(5, 5, 2, 3),
                               Change(7, 7, 5, 6)]),  # as git diff has it
    ],
)  # fmt: skip
def test_difference(old, new, changes) -> None:
    assert difference(old, new) == changes


def test_hostile_lines_cost_a_bounded_number_of_steps() -> None:
    rng = random.Random(1)
    old, new = ([rng.randrange(8) for _ in range(6000)] for _ in range(2))
    budget = Budget(200_000)
    changes = difference(old, new, budget)
    assert apply(old, new, changes) == new
    assert budget.left < 0  # it ran out,
    assert budget.left > -200_000  # and the search ended soon after


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "merged", "conflicts"),
    [
        ("1\n2\n3\n4\n", "one\n2\n3\n4\n", "1\n2\n3\nfour\n", "one\n2\n3\nfour\n", 0),
        ("1\n2\n", "1\n2\n3\n", "1\n2\n3\n", "1\n2\n3\n", 0),
        ("1\n", "2\n", "3\n", "<<<<<<< ours\n2\n=======\n3\n>>>>>>> theirs\n", 1),
        ("1\n2\n3", "1\n2\n3\n", "0\n2\n3", "0\n2\n3\n", 0),
        ("1", "2", "3", "<<<<<<< ours\n2\n=======\n3\n>>>>>>> theirs\n", 1),
        ("1\r\n2\r\n", "1\r\n3\r\n", "1\r\n4\r\n",
         "1\r\n<<<<<<< ours\r\n3\r\n=======\r\n4\r\n>>>>>>> theirs\r\n", 1),
        ("a\nb\nc\n", "a\nx\nsame\nc\n", "a\ny\nsame\nc\n",
         "a\n<<<<<<< ours\nx\n=======\ny\n>>>>>>> theirs\nsame\nc\n", 1),
    ],
)  # fmt: skip
def test_merge(base, ours, theirs, merged, conflicts) -> None:
    got = merge_text(base.encode(), ours.encode(), theirs.encode())
    assert (got.data.decode(), got.conflicts) == (merged, conflicts)


def test_style_favor_and_labels() -> None:
    sides = b"k\n1\n", b"k\n2\n", b"k\n3\n"
    assert merge_text(*sides, style=Style.DIFF3, labels=Labels("B", "O", "T")).data == (
        b"k\n<<<<<<< O\n2\n||||||| B\n1\n=======\n3\n>>>>>>> T\n"
    )
    assert merge_text(*sides, favor=Favor.UNION).data == b"k\n2\n3\n"
    assert merge_text(*sides, favor=Favor.OURS).data == b"k\n2\n"
    assert merge_text(*sides, favor=Favor.THEIRS).data == b"k\n3\n"
    assert merge_text(*sides, marker_size=9).data.startswith(b"k\n<<<<<<<<< ours\n")


def test_binary_is_a_nul_near_the_beginning() -> None:
    assert is_binary(b"a\0b")
    assert not is_binary(b"a" * 8000 + b"\0")


@settings(max_examples=150, deadline=None)
@given(TEXT, TEXT, TEXT)
def test_laws(base, ours, theirs) -> None:
    assert merge_text(ours, ours, theirs).data == theirs
    assert merge_text(base, ours, base).data == ours
    assert merge_text(base, ours, ours).data == ours
    one, two = merge_text(base, ours, theirs), merge_text(base, theirs, ours)
    # How many there are may differ: what both sides added is split by a diff from ours to theirs.
    assert bool(one.conflicts) == bool(two.conflicts)
    if not one.conflicts:
        assert one.data == two.data
