"""A seeded run of the fuzz target of lines and captures in the fast lane."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def test_mutated_frames_are_described() -> None:
    path = Path(__file__).parents[2] / "fuzz" / "fuzz_vpnstack_text.py"
    spec = importlib.util.spec_from_file_location("fuzz_vpnstack_text", path)
    assert spec is not None
    assert spec.loader is not None
    target = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(target)
    target.run(3000)
