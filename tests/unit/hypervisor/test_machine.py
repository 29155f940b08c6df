"""A machine's life on an engine made of nothing."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hypervisor import EngineError, EventKind, Exit, ExitReason, Machine, State, UsageError
from hypervisor import machine as machine_module
from hypervisor.aio.console import Console
from hypervisor.engine.base import Config, Notify
from hypervisor.machine import parse_memory


class FakeEngine:
    """Powers off at once when asked to, unless `deaf`."""

    name = "fake"
    deaf = False
    broken = False

    def __init__(self) -> None:
        self.ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.closed = False

    async def start(self, config: Config, console: Console, notify: Notify) -> None:
        if self.broken:
            raise EngineError("QEMU exited with status 1: no such board")

    def end(self, reason: ExitReason) -> None:
        if not self.ended.done():
            self.ended.set_result(Exit(reason))

    async def press_power_button(self) -> None:
        if not self.deaf:
            self.end(ExitReason.POWER_OFF)

    async def pause(self) -> None: ...

    async def resume(self) -> None: ...

    def kill(self) -> None:
        self.end(ExitReason.KILLED)

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Path]:
    monkeypatch.setitem(machine_module.ENGINES, "auto", FakeEngine)
    path = tmp_path / "kernel"
    path.write_bytes(b"k")
    return path  # type: ignore[return-value]


async def test_power_off_ends_wait_with_code_0(kernel: Path) -> None:
    async with Machine(kernel) as vm:
        assert vm.status() is State.RUNNING
        vm.engine.end(ExitReason.POWER_OFF)  # type: ignore[attr-defined]
        assert (await vm.wait()).code == 0
        assert vm.status() is State.ENDED
        assert vm.engine.closed  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (ExitReason.POWER_OFF, 0),
        (ExitReason.REBOOT, 2),
        (ExitReason.TRIPLE_FAULT, 3),
        (ExitReason.KILLED, 1),
        (ExitReason.CRASHED, 1),
    ],
)
def test_exit_codes_are_hyperkits(reason: ExitReason, code: int) -> None:
    assert Exit(reason).code == code


async def test_leaving_the_block_kills(kernel: Path) -> None:
    async with Machine(kernel) as vm:
        pass
    assert (await vm.wait()).reason is ExitReason.KILLED


async def test_stop_is_graceful(kernel: Path) -> None:
    async with Machine(kernel) as vm:
        assert (await vm.stop()).reason is ExitReason.POWER_OFF


async def test_stop_of_a_paused_machine_resumes_it(kernel: Path) -> None:
    async with Machine(kernel) as vm:
        await vm.pause()
        assert (await vm.stop()).reason is ExitReason.POWER_OFF


async def test_stop_past_the_deadline_kills(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeEngine, "deaf", True)
    async with Machine(kernel) as vm:
        assert (await vm.stop(timeout=0)).reason is ExitReason.KILLED


class Booting(FakeEngine):
    """A guest that hears the third press; before, the second one fails."""

    presses = 0

    async def press_power_button(self) -> None:
        self.presses += 1
        if self.presses == 2:
            raise EngineError("QEMU did not system_powerdown")
        if self.presses == 3:
            self.end(ExitReason.POWER_OFF)


async def test_stop_presses_again_for_a_guest_that_boots(
    kernel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(machine_module.ENGINES, "auto", Booting)
    monkeypatch.setattr(machine_module, "_PRESS_AGAIN", 0)
    async with Machine(kernel) as vm:
        assert (await vm.stop(60)).reason is ExitReason.POWER_OFF


class Frozen(FakeEngine):
    """An engine that answers nothing."""

    async def press_power_button(self) -> None:
        await asyncio.Event().wait()

    resume = press_power_button


@pytest.mark.parametrize("paused", [False, True])
async def test_stop_of_an_engine_that_answers_nothing_kills(
    kernel: Path, monkeypatch: pytest.MonkeyPatch, paused: bool
) -> None:
    monkeypatch.setitem(machine_module.ENGINES, "auto", Frozen)
    async with Machine(kernel) as vm:
        if paused:
            await vm.pause()
        assert (await vm.stop(timeout=0)).reason is ExitReason.KILLED


async def test_failed_start_is_raised_and_ends(
    kernel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeEngine, "broken", True)
    vm = Machine(kernel)
    with pytest.raises(EngineError, match="no such board"):
        await vm.start()
    assert await vm.wait() == Exit(ExitReason.FAILED, "QEMU exited with status 1: no such board")
    assert (await vm.kill()).reason is ExitReason.FAILED


async def test_pause_and_resume_change_the_state_once(kernel: Path) -> None:
    async with Machine(kernel) as vm:
        await vm.pause()
        await vm.pause()
        assert vm.status() is State.PAUSED
        await vm.resume()
        await vm.resume()
        assert vm.status() is State.RUNNING


async def test_pause_after_the_end_is_misuse(kernel: Path) -> None:
    async with Machine(kernel) as vm:
        await vm.kill()
        with pytest.raises(UsageError, match="is ended, expected running"):
            await vm.pause()


async def test_second_start_is_misuse(kernel: Path) -> None:
    async with Machine(kernel) as vm:
        with pytest.raises(UsageError, match="cannot be starting"):
            await vm.start()


async def test_events_end_with_the_machine(kernel: Path) -> None:
    async with Machine(kernel) as vm:

        async def collect() -> list[EventKind]:
            return [event.kind async for event in vm.events()]

        collecting = asyncio.create_task(collect())
        await asyncio.sleep(0)
        vm._notify(EventKind.POWER_BUTTON, "")
        await vm.stop()
        assert await collecting == [EventKind.POWER_BUTTON, EventKind.ENDED]


@pytest.mark.parametrize(
    ("text", "size"), [("256M", 256 << 20), (512, 512 << 20), ("1G", 1 << 30), ("2gib", 2 << 30)]
)
def test_memory_sizes(text: str | int, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "lots", "-1", "1M", "33000K", "1.5G"])
def test_bad_memory_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="memory is"):
        parse_memory(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cpus": 0}, "cpus is 0"),
        ({"engine": "bochs"}, "engine is 'bochs'"),
        ({"initrd": "/no/such"}, "cannot read the initrd /no/such"),
    ],
)
def test_bad_arguments(kernel: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Machine(kernel, **options)  # type: ignore[arg-type]


def test_absent_kernel() -> None:
    with pytest.raises(UsageError, match="cannot read the kernel"):
        Machine("/no/such/kernel")
