"""The guides' code runs: every Python block of a page, in order, in one namespace."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["stack.md", "p9.md"])
def test_blocks_run(page: str) -> None:
    text = (DOCS / page).read_text()
    blocks = list(BLOCK.finditer(text))
    assert len(blocks) >= 7
    names: dict[str, object] = {"__name__": "guide"}
    for block in blocks:
        line = text.count("\n", 0, block.start(1))
        code = compile("\n" * line + block[1], str(DOCS / page), "exec")
        exec(code, names)


def test_every_test_of_the_checklist_exists() -> None:
    """A behaviour whose test went away must not be listed as tested."""
    text = (DOCS / "checklist.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and "`" in line]
    assert len(rows) > 35
    tests = DOCS.parent / "tests"
    roots = {".py": tests / "unit" / "vpnstack", ".pkt": tests / "packetdrill"}
    for row in rows:
        named = re.findall(r"`([\w/]+\.(?:py|pkt))`", row)
        assert named, row
        missing = [name for name in named if not (roots[Path(name).suffix] / name).exists()]
        assert not missing, row


@pytest.mark.parametrize("row", range(2, 12))
def test_every_row_of_bad_input_has_tests_by_its_name(row: int) -> None:
    text = (DOCS / "checklist.md").read_text()
    found = re.search(rf"^\| {row} \|.*$", text, re.MULTILINE)
    assert found is not None
    named = re.findall(r"`([\w/]+\.py)`", found[0])
    sources = [(DOCS.parent / "tests" / "unit" / "vpnstack" / name).read_text() for name in named]
    assert any(f"row{row}_" in source or f"row{row}-" in source for source in sources)
