"""The fuzz target of the stack in the fast lane: its corpus again, and scripts from a seed."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest

FUZZ = Path(__file__).parents[3] / "fuzz"
CORPUS = FUZZ / "corpus" / "fuzz_stack"


@pytest.fixture(scope="module")
def target() -> Any:
    sys.path.insert(0, str(FUZZ))
    try:
        import fuzz_stack
    finally:
        sys.path.remove(str(FUZZ))
    return fuzz_stack


def test_corpus(target: Any) -> None:
    found = sorted(CORPUS.iterdir())
    assert 100 < len(found) < 300
    for path in found:
        target.TestOneInput(path.read_bytes())


@pytest.mark.parametrize("seed", range(2))
def test_seeded_scripts(target: Any, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(120):
        data = rng.randbytes(rng.randrange(20, 700))
        target.TestOneInput(bytes((data[0] | 8,)) + data[1:])


def test_scripts_get_deep(target: Any) -> None:
    """The script language reaches what it is for: data both ways on established flows."""
    rng, states, octets = random.Random(7), set(), 0
    for _ in range(80):
        data = rng.randbytes(600)
        world = target.play(bytes((data[0] | 8,)) + data[1:])
        states |= {flow.conn.state.name for flow in world.stack.tcp.flows.values()}
        octets += sum(world.user.consumed.values()) + sum(world.user.written.values())
    assert {"ESTABLISHED", "SYN_RECEIVED", "SYN_SENT", "FIN_WAIT_1", "CLOSE_WAIT"} <= states
    assert octets > 100_000


def test_a_wrong_octet_is_found(target: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The invariants can fail: a stack that keeps a borrowed view after the burst is caught."""
    monkeypatch.setattr("vpnstack.proto.tcp.buffer.ReceiveQueue.own", lambda self: None)
    rng = random.Random(1)
    with pytest.raises(AssertionError):  # noqa: PT012  (which of them finds it does not matter)
        for _ in range(100):
            target.TestOneInput(b"\x08" + rng.randbytes(600))
