"""Assertions: arithmetic on names, and nothing else of Python."""

from __future__ import annotations

import pytest

from vpnstack.packetdrill.assertions import run
from vpnstack.packetdrill.errors import Mismatch, ScriptError

NAMES = {"a": 10, "b": 3}


@pytest.mark.parametrize(
    "source",
    [
        "assert a == 10",
        "assert 1 < b <= 3 and not a == b",
        "assert (a + b) * 2 - 6 == 20 and a // b == 3 and a % b == 1",
        "assert (a, b) == (10, 3), (a, b)",
        "assert max(a, b) == 10 and abs(-b) == 3",
        "assert a in (10, 11)\nassert b & 1 == 1 and b | 4 == 7",
        "\n   assert a == 10\n   assert b == 3\n",
        "assert (1 if a else 0) == 1",
    ],
)
def test_holds(source: str) -> None:
    assert run(source, NAMES) == []


def test_fails_with_its_message() -> None:
    with pytest.raises(Mismatch) as caught:
        run("assert a == b, a", NAMES)
    assert caught.value.message == "assertion failed: 10"
    assert caught.value.found == "a = 10, b = 3"


def test_print() -> None:
    assert run("print(a, 'x')", NAMES) == ["10 x"]


@pytest.mark.parametrize(
    "source",
    [
        "import os",
        "a = 1",
        "assert __import__('os')",
        "assert a.__class__",
        "assert [x for x in (1,)]",
        "assert (lambda: 1)()",
        "assert open('/etc/passwd')",
        "assert print(1)",
        "assert 2 ** 999999",
        "assert 1 << 99",
        "assert 'x' * 999999999",
        "assert c",
        "assert a / 0",
        "assert f'{a}'",
        "assert (a := 1)",
        "assert " + "(" * 90 + "1" + ")" * 90 + " + " + "-" * 200 + "1",
        "assert " + " + ".join(["9" * 300] * 2),
        "assert (",
        "x" * 5000,
        "print(1, end=2)",
    ],
)
def test_refused(source: str) -> None:
    with pytest.raises(ScriptError):
        run(source, NAMES)
