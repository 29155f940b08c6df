"""A seeded run of the reassembly fuzz target in the fast lane."""

from __future__ import annotations

import importlib.util
from pathlib import Path

TARGET = Path(__file__).parents[2] / "fuzz" / "fuzz_reassembly.py"


def test_seeded_run() -> None:
    spec = importlib.util.spec_from_file_location(TARGET.stem, TARGET)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.seeded(3000)
