"""A seeded run of the core's fuzz targets, so that the fast lane meets hostile input as well."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parents[3] / "fuzz"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_frame_every_verdict_is_reached() -> None:
    target = load("fuzz_frame")
    seen = target.run(5000)
    assert sum(seen.values()) == 5000
    parsed = [v for v in target.pure.Verdict if v < target.pure.Verdict.MERGED]
    assert set(seen) == set(map(int, parsed))


def test_framed() -> None:
    seen = load("fuzz_framed").run(3000)
    assert seen["frames"] > 6000
    assert seen["ended"] > 50
    assert seen["waits"] > 50


def test_send() -> None:
    assert load("fuzz_send").run(4000) > 5000


def test_udplane() -> None:
    assert load("fuzz_udplane").run(200) > 2000


@pytest.mark.parametrize("name", ["fuzz_frame", "fuzz_framed", "fuzz_send", "fuzz_udplane"])
def test_one_input(name: str) -> None:
    target, rng = load(name), random.Random(7)
    for _ in range(200):
        target.TestOneInput(rng.randbytes(rng.randrange(200)))
