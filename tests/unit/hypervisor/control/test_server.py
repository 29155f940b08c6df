"""A machine behind its control socket."""

import asyncio
import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_engine import BANNER, EchoEngine, until

from hypervisor import ExitReason, Machine, State, control
from hypervisor.control import hub as hub_module
from hypervisor.control import server as server_module
from hypervisor.control.client import Client, ControlError
from hypervisor.errors import PeerError


async def raw(path: Path, data: bytes) -> bytes:
    """Send `data` and return all that is answered up to the end of the connection."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(data)
    answer = await reader.read()
    writer.close()
    return answer


async def test_status_and_statistics(vm: Machine, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    async with vm, control.serve(vm, path, {"published": []}), control.connect(path) as client:
        status = await client.request("status")
        assert (status["name"], status["pid"], status["state"]) == ("web", os.getpid(), "running")
        assert (status["engine"], status["memory"]) == ("echo", 256 << 20)
        assert status["published"] == []
        found = await client.request("statistics")
        assert found["vcpus"] == [1.5]
        assert (found["resident"], found["exits"]) == (5 << 20, {"io": 10})
        assert found["nics"][0]["tx_octets"] == 120


async def test_the_socket_is_the_users_alone_and_removed(vm: Machine, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    async with vm:
        async with control.serve(vm, path):
            assert path.stat().st_mode & 0o777 == 0o600
        assert not path.exists()


async def test_pause_and_resume(vm: Machine, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    async with vm, control.serve(vm, path), control.connect(path) as client:
        assert await client.request("pause") == {"state": "paused"}
        assert vm.state is State.PAUSED
        assert await client.request("resume") == {"state": "running"}


async def serving(
    vm: Machine, path: Path, work: Callable[[], Awaitable[object]]
) -> asyncio.Task[object]:
    """Run the machine to its end as `hypervisor run` does; return what `work` came to."""
    async with vm, control.serve(vm, path):
        task = asyncio.ensure_future(work())
        await vm.wait()
    return task  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("op", "reason", "code"), [("stop", "power-off", 0), ("kill", "killed", 1)]
)
async def test_the_end_is_answered_before_the_server_goes(
    vm: Machine, tmp_path: Path, op: str, reason: str, code: int
) -> None:
    path = tmp_path / "web.sock"

    async def ask() -> object:
        async with control.connect(path) as client:
            return await client.request(op)

    task = await serving(vm, path, ask)
    assert await task == {"reason": reason, "message": "", "code": code}


async def test_a_deaf_guest_is_killed_at_the_timeout(
    vm: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EchoEngine, "deaf", True)
    path = tmp_path / "web.sock"
    async with vm, control.serve(vm, path), control.connect(path) as client:
        assert (await client.request("stop", timeout=0))["reason"] == "killed"


@pytest.mark.parametrize("timeout", [-1, "soon", None, 1e9])
async def test_a_bad_timeout_is_refused(vm: Machine, tmp_path: Path, timeout: object) -> None:
    path = tmp_path / "web.sock"
    async with vm, control.serve(vm, path), control.connect(path) as client:
        with pytest.raises(ControlError, match="expected seconds"):
            await client.request("stop", timeout=timeout)
        assert vm.state is State.RUNNING


async def test_what_the_machine_refuses_is_one_line(vm: Machine, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    async with vm, control.serve(vm, path), control.connect(path) as client:
        await vm.kill()
        with pytest.raises(ControlError, match="web: machine web is ended, expected running"):
            await client.request("pause")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"hello\n", "expected a JSON object"),
        (b"[1]\n", "expected a JSON object"),
        (b"[" * 5000 + b"\n", "expected a JSON object"),
        (b'{"op": "format"}\n', "unknown op 'format'"),
        (b'{"op": {}}\n', "unknown op {}"),
        (b"{}\n", "unknown op None"),
        (b"x" * (server_module.LINE_MAX * 3), "longer than"),
    ],
)
async def test_bad_requests_end_their_connection_alone(
    vm: Machine, tmp_path: Path, data: bytes, message: str
) -> None:
    path = tmp_path / "web.sock"
    async with vm, control.serve(vm, path), control.connect(path) as other:
        answer = json.loads(await raw(path, data))
        assert message in answer["error"]
        assert (await other.request("status"))["state"] == "running"


async def test_too_many_connections(
    vm: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "CONNECTIONS_MAX", 1)
    path = tmp_path / "web.sock"
    async with vm, control.serve(vm, path), control.connect(path) as first:
        await first.request("status")
        assert b"more than 1 connections" in await raw(path, b"")
        assert await first.request("status")


@pytest.mark.parametrize(("uid", "good"), [(0, True), (1000, True), (1001, False)])
def test_only_root_and_the_user_are_answered(
    monkeypatch: pytest.MonkeyPatch, uid: int, good: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    sock = SimpleNamespace(getsockopt=lambda *_: struct.pack("3i", 77, uid, uid))
    writer = SimpleNamespace(get_extra_info=lambda name: sock)
    if good:
        server_module._check_peer(writer)  # type: ignore[arg-type]
    else:
        with pytest.raises(PeerError, match="user 1001 may not"):
            server_module._check_peer(writer)  # type: ignore[arg-type]


async def test_events_to_the_end(vm: Machine, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"

    async def follow() -> list[str]:
        async with control.connect(path) as client:
            return [event["kind"] async for event in client.events()]

    async with vm:
        async with control.serve(vm, path), control.connect(path) as client:
            task = asyncio.create_task(follow())
            await until(lambda: vm._listeners)
            await client.request("pause")
            await client.request("stop")
        assert await task == ["paused", "resumed", "power button", "ended"]


async def test_who_stops_following_leaves_nothing(vm: Machine, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    async with vm, control.serve(vm, path) as server:
        async with control.connect(path) as client:
            await client.request("events")
        await until(lambda: not server._links)
        assert not vm._listeners


async def expect(client: Client, text: bytes) -> None:
    """Read exactly `text`."""
    assert await client.reader.readexactly(len(text)) == text


async def test_console_scrollback_and_one_writer(vm: Machine, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    async with vm, control.serve(vm, path):
        async with control.connect(path) as second:
            async with control.connect(path) as first:
                assert await first.console()
                await expect(first, BANNER)
                assert not await second.console()
                await expect(second, BANNER)
                second.writer.write(b"not typed")
                first.writer.write(b"ls\n")
                await expect(first, b"ls\n")
                await expect(second, b"ls\n")
            await until(lambda: len(server_viewers(vm)) == 1)
            second.writer.write(b"pwd\n")  # the writer has gone: the next one types
            await expect(second, b"pwd\n")
        assert vm.engine.typed == b"ls\npwd\n"  # type: ignore[attr-defined]
        assert await vm.console.read() == BANNER + b"ls\npwd\n"  # the machine's own reader too


def server_viewers(vm: Machine) -> dict[object, bool]:
    """Return the viewers of the hub on the machine's console."""
    (tap,) = vm.console.taps
    viewers: dict[object, bool] = tap.__self__._viewers  # type: ignore[attr-defined]
    return viewers


async def test_console_read_only(vm: Machine, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    async with vm, control.serve(vm, path), control.connect(path) as client:
        assert not await client.console(write=False)
        client.writer.write(b"ls\n")
        async with control.connect(path) as other:
            assert await other.console()
            other.writer.write(b"pwd\n")
            await expect(client, BANNER + b"pwd\n")


async def test_console_ends_with_the_machine(vm: Machine, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"

    async def look() -> bytes:
        async with control.connect(path) as client:
            await client.console()
            return await client.reader.read()

    async with vm:
        async with control.serve(vm, path):
            task = asyncio.create_task(look())
            await until(lambda: server_viewers(vm))
            vm.engine.end(ExitReason.REBOOT)  # type: ignore[attr-defined]
            await vm.wait()
        assert await task == BANNER


async def test_a_viewer_that_does_not_read_holds_nobody_back(
    vm: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "_BEHIND_MAX", 1 << 16)
    path = tmp_path / "web.sock"
    async with vm, control.serve(vm, path) as server:
        with socket.socket(socket.AF_UNIX) as slow:
            slow.setblocking(False)
            slow.connect(str(path))
            slow.send(b'{"op": "console"}\n')
            await until(lambda: server_viewers(vm))
            for _ in range(100):
                vm.console.receive(b"x" * (1 << 15))
            assert server._hub.dropped > 0
            async with control.connect(path) as client:
                assert (await client.request("status"))["console_dropped"] > 0


async def test_no_descriptor_is_left(vm: Machine, tmp_path: Path) -> None:
    await asyncio.sleep(0)
    before = len(os.listdir("/proc/self/fd"))
    path = tmp_path / "web.sock"
    async with vm, control.serve(vm, path):
        async with control.connect(path) as client:
            await client.console()
        await raw(path, b"nonsense\n")
    assert len(os.listdir("/proc/self/fd")) <= before


async def test_no_machine_of_that_name(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="no machine web runs: see `hypervisor ps`"):
        async with control.connect(tmp_path / "web.sock"):
            pass
