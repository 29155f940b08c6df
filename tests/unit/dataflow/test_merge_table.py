"""The truth table in docs/dataflow-merge.md is what the merge does, cell by cell."""

from pathlib import Path

import merge_table

PAGE = Path(__file__).parents[3] / "docs" / "dataflow-merge.md"


def test_the_page_has_the_table_as_it_is() -> None:
    page = PAGE.read_text()
    found = page[page.index(merge_table.START) : page.index(merge_table.END)]
    assert found + merge_table.END == merge_table.table(), "print it anew: python merge_table.py"


def test_both_directions_agree() -> None:
    """Ours and theirs exchanged give the same result, whatever the combination."""
    for base in merge_table.BASES:
        for ours in merge_table.STATES:
            for theirs in merge_table.STATES:
                cell = merge_table.one_path(base, ours, theirs)
                assert cell == merge_table.one_path(base, theirs, ours), (base, ours, theirs)
