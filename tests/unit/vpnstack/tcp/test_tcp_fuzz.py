"""A seeded run of the fuzz target, so that the fast lane meets hostile sequences as well."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path

import pytest

PATH = Path(__file__).parents[3] / "fuzz" / "fuzz_tcp.py"


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 4))]
)
def test_seeded_sequences(seed: int) -> None:
    spec = importlib.util.spec_from_file_location("fuzz_tcp", PATH)
    assert spec is not None
    assert spec.loader is not None
    target = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(target)
    rng = random.Random(seed)
    for _ in range(500):
        target.TestOneInput(rng.randbytes(rng.randrange(20, 600)))
