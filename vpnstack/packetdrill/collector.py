"""A pytest plugin: every `.pkt` file is a test.

Use it with `pytest_plugins = ["vpnstack.packetdrill.collector"]`, or by importing
`pytest_collect_file` into a conftest.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from .report import Outcome
from .runner import run


class ScriptFailed(Exception):
    """A script failed; carries its outcome to the report."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.name)
        self.outcome = outcome


class PacketdrillItem(pytest.Item):
    """One script."""

    def runtest(self) -> None:
        """Run it; raises `ScriptFailed`."""
        outcome = run(self.path.read_text(encoding="utf-8"), self.path.name)
        if not outcome.passed:
            raise ScriptFailed(outcome)

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        """Show the script's line, what it expects and what was found, without a traceback."""
        if isinstance(excinfo.value, ScriptFailed):
            return excinfo.value.outcome.render()
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Say where the test stands."""
        return self.path, None, self.name


class PacketdrillFile(pytest.File):
    """A `.pkt` file, which is one test."""

    def collect(self) -> Iterable[pytest.Item]:
        """Yield the script."""
        yield PacketdrillItem.from_parent(self, name=self.path.stem)


def pytest_collect_file(
    parent: pytest.Collector, file_path: Path
) -> PacketdrillFile | None:  # fmt: skip
    """Take `.pkt` files."""
    if file_path.suffix != ".pkt":
        return None
    return PacketdrillFile.from_parent(parent, path=file_path)
