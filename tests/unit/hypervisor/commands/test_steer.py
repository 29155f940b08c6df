"""The commands for machines that run, against a machine in this process."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_engine import EchoEngine

from hypervisor import ExitReason, Machine, State, control
from hypervisor import machine as machine_module
from hypervisor.cli import main
from hypervisor.commands import top
from hypervisor.commands.steer import duration, size
from hypervisor.control import place

Invoke = Callable[..., Coroutine[Any, Any, Result]]


@pytest.fixture
async def vm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Machine]:
    monkeypatch.setitem(machine_module.ENGINES, "auto", EchoEngine)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    sockets = tmp_path / "trikit" / "hypervisor"
    place.prepare(sockets, sockets.parent.parent.stat().st_uid)
    (tmp_path / "kernel").write_bytes(b"k")
    machine = Machine(tmp_path / "kernel", name="web")
    published = [{"proto": "tcp", "host": "127.0.0.1:8080", "port": 80}]
    async with machine, control.serve(machine, sockets / "web.sock", {"published": published}):
        yield machine


async def invoke(*arguments: str, stdin: str = "") -> Result:
    """Run a command beside the machine."""
    return await asyncio.to_thread(CliRunner().invoke, main, arguments, stdin)


async def test_ps(vm: Machine) -> None:
    result = await invoke("ps")
    assert result.exit_code == 0
    for word in ("web", "running", "echo", "256M", "127.0.0.1:8080->80/tcp"):
        assert word in result.output
    (found,) = json.loads((await invoke("ps", "--json")).output)
    assert (found["name"], found["state"]) == ("web", "running")


async def test_pause_resume_and_stop(vm: Machine) -> None:
    assert (await invoke("pause", "web")).output == "web: paused\n"
    assert vm.state is State.PAUSED
    assert json.loads((await invoke("resume", "--json", "web")).output) == {
        "name": "web",
        "state": "running",
    }
    assert (await invoke("stop", "web")).output == "web: power-off\n"
    assert (await vm.wait()).reason is ExitReason.POWER_OFF


async def test_stop_kill(vm: Machine) -> None:
    result = await invoke("stop", "--kill", "--json", "web")
    assert json.loads(result.output)["reason"] == "killed"


@pytest.mark.parametrize("command", ["stop", "pause", "resume", "console", "events", "stats"])
async def test_a_machine_that_does_not_run(vm: Machine, command: str) -> None:
    result = await invoke(command, "db")
    assert (result.exit_code, result.output) == (
        1,
        "Error: no machine db runs: see `hypervisor ps`\n",
    )


async def test_events_follow_to_the_end(vm: Machine) -> None:
    task = asyncio.create_task(invoke("events", "web"))
    await _listening(vm)
    await vm.stop()
    events = [json.loads(line) for line in (await task).output.splitlines()]
    assert [event["kind"] for event in events] == ["power button", "ended"]
    assert events[0]["time"] > 1.7e9  # the wall clock's


async def _listening(vm: Machine) -> None:
    async with asyncio.timeout(10):
        while not vm._listeners:  # noqa: ASYNC110 (another thread connects)
            await asyncio.sleep(0.001)


async def test_stats(vm: Machine) -> None:
    lines = (await invoke("stats", "web")).output.splitlines()
    assert "vcpus.0                  1.5" in lines
    assert "exits.io                 10" in lines
    found = json.loads((await invoke("stats", "--json", "web")).output)
    assert found["resident"] == 5 << 20


async def test_top_once(vm: Machine) -> None:
    (found,) = json.loads((await invoke("top", "--once", "--json")).output)
    assert (found["name"], found["exits"], found["resident"]) == ("web", 10, 5 << 20)
    assert (found["rx_octets"], found["tx_octets"]) == (60, 120)
    assert found["cpu_percent"] > 0
    assert "web" in (await invoke("top", "--once", "web")).output


def test_top_rates_are_those_since_the_row_before() -> None:
    found = {
        "name": "web", "state": "running", "uptime": 10.0, "memory": 1, "resident": 1,
        "vcpus": [5.0], "exits": {"io": 60, "mmio": 40},
        "nics": [{"rx_octets": 1000, "tx_octets": 0}],
    }  # fmt: skip
    first = top.row(found, None)
    assert (first.cpu_percent, first.exits_per_second) == (50.0, 10.0)
    later = {**found, "uptime": 12.0, "vcpus": [7.0], "exits": {"io": 104},
             "nics": [{"rx_octets": 5000, "tx_octets": 0}]}  # fmt: skip
    second = top.row(later, first)
    assert (second.cpu_percent, second.exits_per_second) == (100.0, 2.0)
    assert second.rx_octets_per_second == 2000.0


def test_top_of_an_engine_that_does_not_count_exits() -> None:
    found = {
        "name": "web", "state": "running", "uptime": 1.0, "memory": 1, "resident": 1,
        "vcpus": [0.0], "exits": None, "nics": [],
    }  # fmt: skip
    assert top.row(found, None).exits == -1


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0B"), (1023, "1023B"), (2048, "2K"), (256 << 20, "256M")]
)  # fmt: skip
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


def test_durations() -> None:
    assert [duration(s) for s in (5, 65, 3661)] == ["0:05", "1:05", "1:01:01"]


@pytest.mark.parametrize(
    "command",
    ["run", "ps", "console", "stop", "pause", "resume", "top", "events", "stats", "config",
     "doctor", "image list", "image build", "image path", "image prune"],
)  # fmt: skip
def test_help_has_examples(command: str) -> None:
    result = CliRunner().invoke(main, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert (
        f"\n  hypervisor {command}" in result.output or f"$(hypervisor {command})" in result.output
    )
