"""A guest's panic: by its device, or by what its console said before a reset."""

import asyncio
from collections.abc import Callable

import pytest

from hypervisor import Event, EventKind, Exit, ExitReason, Machine
from hypervisor.core.kvm import why_not
from hypervisor.engine.panic import reason

OOPS = b"\r\n[    1.000001] Kernel panic - not syncing: %s\r\n[    1.000002] CPU: 0\r\n"
DEADLINE = 20.0  # seconds; only a test that fails comes near it
needs_kvm = pytest.mark.skipif(why_not() is not None, reason=f"no KVM machine here: {why_not()}")


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        (b"", None),
        (OOPS % b"VFS: no root", "VFS: no root"),
        (b"Kernel panic - not syncing: without a time", "without a time"),
        (OOPS % b"first" + OOPS % b"last", "last"),
        (b"# grep 'Kernel panic - not syncing: x' log\n", None),
        (OOPS % b"of old" + b"[    9.5] reboot: Restarting system\r\n", None),
        (b"[    0.1] reboot: Restarting system\r\n" + OOPS % b"anew", "anew"),
    ],
    ids=["nothing", "panic", "no time", "the last", "in a line", "then a reboot", "after a reboot"],
)
def test_what_the_console_tells(tail: bytes, expected: str | None) -> None:
    assert reason(tail) == expected


def code(said: bytes, end: bytes) -> bytes:
    """Print `said` byte by byte, then `end`."""
    prints = b"".join(b"\xb0" + bytes([each]) + b"\xee" for each in said)
    return b"\xba\xf8\x03\0\0" + prints + end


PVPANIC = "b0{:02x} ba05050000 ee"
RESET = bytes.fromhex("b001 ba02060000 ee f4")


@needs_kvm
@pytest.mark.parametrize(
    ("said", "end", "expected", "details"),
    [
        (
            OOPS % b"oh",
            bytes.fromhex(PVPANIC.format(1)),
            Exit(ExitReason.PANIC, "guest-panicked: oh"),
            ["oh"],
        ),
        (
            b"",
            bytes.fromhex(PVPANIC.format(1)),
            Exit(ExitReason.PANIC, "guest-panicked: the console does not say why"),
            ["the console does not say why"],
        ),
        (
            OOPS % b"early",
            RESET,
            Exit(ExitReason.PANIC, "guest-reset, and its console says: early"),
            ["early"],
        ),
        (
            b"",
            bytes.fromhex(PVPANIC.format(0xFE)) + RESET,
            Exit(ExitReason.REBOOT, "guest-reset"),
            ["crash-loaded"],
        ),
    ],
    ids=["device", "device alone", "console alone", "a crash kernel goes on"],
)
async def test_how_a_panic_ends(
    machine: Callable[..., Machine],
    said: bytes,
    end: bytes,
    expected: Exit,
    details: list[str],
) -> None:
    vm = machine(code(said, end))
    events: list[Event] = []

    async def follow() -> None:
        async for event in vm.events():
            events.append(event)

    following = asyncio.create_task(follow())
    await asyncio.sleep(0)
    async with vm, asyncio.timeout(DEADLINE):
        assert await vm.wait() == expected
    await following
    assert [each.detail for each in events if each.kind is EventKind.PANIC] == details
