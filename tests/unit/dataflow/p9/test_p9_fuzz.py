"""The fuzz targets with fixed seeds."""

import importlib.util
import random
from pathlib import Path

import pytest

from dataflow.p9.wire import emit


def load(name):
    for parent in Path(__file__).resolve().parents:
        if (path := parent / "fuzz" / f"{name}.py").exists():
            spec = importlib.util.spec_from_file_location(name, path)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    raise FileNotFoundError(name)


def test_wire():
    target, calls = load("fuzz_p9_wire"), load("fuzz_p9_calls")
    rng = random.Random(1)
    for _ in range(2000):
        dialect = rng.choice(list(calls.Dialect))
        raw = bytearray(b"".join(emit(1, calls._message(rng, dialect), dialect))[:2000])
        for _ in range(rng.randrange(3)):
            raw[rng.randrange(len(raw))] = rng.choice((0, 1, 0x7F, 0xFF))
        cut = raw[: rng.randrange(len(raw) + 1)] if rng.random() < 0.3 else raw
        target.TestOneInput(bytes(cut))
        target.TestOneInput(bytes(raw[4:5] + raw[7:]))


@pytest.mark.parametrize(
    "seeds", [range(300), pytest.param(range(300, 1500), marks=pytest.mark.slow)]
)
async def test_call_sequences(caplog, seeds):
    calls = load("fuzz_p9_calls")
    for seed in seeds:
        await calls.run(random.Random(seed))
    assert not [r for r in caplog.records if "tree failed" in r.message], caplog.text[-3000:]
