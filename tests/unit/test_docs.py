"""The guides' code runs: every Python block of a page, in order, in one namespace."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["stack.md"])
def test_blocks_run(page: str) -> None:
    text = (DOCS / page).read_text()
    blocks = list(BLOCK.finditer(text))
    assert len(blocks) >= 7
    names: dict[str, object] = {"__name__": "guide"}
    for block in blocks:
        line = text.count("\n", 0, block.start(1))
        code = compile("\n" * line + block[1], str(DOCS / page), "exec")
        exec(code, names)
