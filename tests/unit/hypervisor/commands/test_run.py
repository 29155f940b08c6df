"""`hypervisor run`: which machines its arguments and files come to, and their lives."""

import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fake_engine import EchoEngine, until

from hypervisor import ExitReason
from hypervisor import machine as machine_module
from hypervisor.aio.console import Console
from hypervisor.cli import main
from hypervisor.commands import base, launch
from hypervisor.commands.hyperkit import ACCEPTED, REFUSED
from hypervisor.commands.settings import Settings
from hypervisor.control import place
from hypervisor.engine.base import Config, Exit, Notify


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    path = tmp_path / "vmlinux"
    path.write_bytes(b"\x7fELF" + bytes(100))
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """What `launch.run` was asked for."""
    found: list[Settings] = []

    async def run(machines: Sequence[Settings], sockets: object, pid_path: object) -> int:
        found.extend(machines)
        return 0

    monkeypatch.setattr(launch, "run", run)
    return found


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["run", *map(str, arguments)])


def test_long_and_short_options(kernel: Path, asked: list[Settings]) -> None:
    uuid = "12345678-1234-1234-1234-123456789abc"
    words = ["-A", "-u", "-H", "-c", 2, "-m", "1G", "-U", uuid, "-l", "com1,null", "-s", "0,lpc"]
    assert invoke(*words, "-f", f"kexec,{kernel},,quiet").exit_code == 0
    long = ["--acpi", "--cpus", 2, "--memory", "1G", "--uuid", uuid, "--serial", "com1,null"]
    assert invoke(*long, "--kernel", kernel, "--cmdline", "quiet").exit_code == 0
    first, second = asked
    assert first.kernel == second.kernel == kernel
    assert (first.cpus, first.memory, first.uuid, first.cmdline) == (2, "1G", uuid, "quiet")
    assert {**_values(first)} == {**_values(second)}


def _values(settings: Settings) -> dict[str, object]:
    return {name: getattr(settings, name) for name in settings.__slots__ if name != "directories"}


def test_defaults(kernel: Path, asked: list[Settings]) -> None:
    assert invoke("-k", kernel).exit_code == 0
    (made,) = asked
    assert (made.memory, made.cpus, made.acpi, made.engine) == ("256M", 1, True, "auto")
    assert (made.console, made.net, made.networked, made.name) == (True, None, False, "")


def test_net_with_and_without_addresses(kernel: Path, asked: list[Settings]) -> None:
    assert invoke("--net", "-k", kernel, "--publish", "8080:80").exit_code == 0
    assert invoke("--net", "10.0.0.1/24", "-k", kernel).exit_code == 0
    assert [each.net for each in asked] == ["", "10.0.0.1/24"]


def test_the_command_line_overrides_the_file(
    kernel: Path, tmp_path: Path, asked: list[Settings]
) -> None:
    file = tmp_path / "m.toml"
    file.write_text(
        f'kernel = "{kernel.name}"\nmemory = "64M"\nacpi = false\nserial = "com1,log=ring"\n'
        "[machine.a]\ncpus = 2\n[machine.b]\nmemory = 128\n"
    )
    assert invoke(file, "-m", "1G", "--no-console").exit_code == 0
    a, b = asked
    assert (a.name, a.memory, a.cpus, a.acpi, a.console) == ("a", "1G", 2, False, False)
    assert (b.name, b.memory, b.cpus, b.kernel) == ("b", "1G", 1, kernel)
    assert b.directory("serial") == tmp_path
    assert invoke("--config", file).exit_code == 0
    assert [each.memory for each in asked[2:]] == ["64M", 128]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "1M"], "memory is '1M'"),
        (["-m", "9999T"], "the host has"),
        (["-c", "17"], "cpus is 17, expected 1 to 16"),
        (["-U", "x"], "the UUID 'x'"),
        (["--net", "machines.toml"], "the network 'machines.toml', expected ADDRESS/PREFIX"),
        (["--publish", "x"], "cannot publish 'x'"),
        (["-l", "com2,null"], "expected com1"),
        (["-f", "kexec,k"], "both -f and --kernel name a kernel"),
        (["-f", "bootrom,x"], "both -f and --kernel"),
        (["-s", "3,virtio-blk,d,format=qcow"], "qemu-img convert"),
        (["-g", "1234"], "--engine-arg=-gdb"),
        (["none.toml"], "cannot read none.toml"),
        *(([flag], REFUSED[flag]) for flag in REFUSED),
    ],
)
def test_errors_are_one_line(
    kernel: Path, asked: list[Settings], arguments: list[str], message: str
) -> None:
    result = invoke("-k", kernel, *arguments)
    assert result.exit_code == 1
    assert message in result.output
    assert result.output.count("\n") == 1
    assert not asked


def test_one_machines_options_for_several(
    kernel: Path, tmp_path: Path, asked: list[Settings]
) -> None:
    file = tmp_path / "m.toml"
    file.write_text("[machine.a]\n[machine.b]\n")
    result = invoke(file, "-k", kernel, "--name", "c")
    assert "--name is one machine's" in result.output
    assert not asked


def test_flags_that_change_nothing(kernel: Path, asked: list[Settings]) -> None:
    assert invoke("-k", kernel, *ACCEPTED).exit_code == 0
    assert invoke("-k", kernel).exit_code == 0
    assert _values(asked[0]) == _values(asked[1])


def test_print_mac_is_the_uuids(asked: list[Settings]) -> None:
    uuid = "12345678-1234-1234-1234-123456789abc"
    first, second, other = (
        invoke("-M", *more).output
        for more in (["-U", uuid], ["-U", uuid, "--name", "x"], ["--name", "x"])
    )
    assert first == second != other
    assert len(first.strip().split(":")) == 6


@pytest.mark.parametrize(
    ("reasons", "code"),
    [
        ([ExitReason.POWER_OFF], 0),
        ([ExitReason.REBOOT], 2),
        ([ExitReason.POWER_OFF, ExitReason.TRIPLE_FAULT, ExitReason.REBOOT], 3),
        ([ExitReason.KILLED, ExitReason.TRIPLE_FAULT], 1),
    ],
)
def test_the_exit_code_is_the_worst(reasons: list[ExitReason], code: int) -> None:
    assert launch.worst([Exit(reason) for reason in reasons]) == code


# Lives, on the engine made of nothing.


@pytest.fixture
def sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(machine_module.ENGINES, "auto", EchoEngine)
    return tmp_path / "run" / "hypervisor"


def names(path: Path) -> list[str]:
    """List a directory."""
    return sorted(os.listdir(path))


async def test_names_sockets_and_pidfile(
    kernel: Path, tmp_path: Path, sockets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machines = [
        Settings(kernel=kernel, console=False, publish=("0:80",)),
        Settings(kernel=kernel, console=False, name="db"),
        Settings(kernel=kernel, console=False),
    ]
    task = asyncio.create_task(launch.run(machines, sockets, tmp_path / "pid"))
    await until((sockets / "vm2.sock").exists)
    assert [path.stem for path in place.running(sockets)] == ["db", "vm", "vm2"]
    assert "pid" in names(tmp_path)
    for path in place.running(sockets):
        async with launch.control.connect(path) as client:
            await client.request("stop")
    assert await task == 0
    assert not names(sockets)
    assert "pid" not in names(tmp_path)
    printed = capsys.readouterr().err
    assert "vm: tcp 127.0.0.1:" in printed
    assert "db: power-off\n" in printed


async def test_a_name_in_use_starts_nothing(kernel: Path, sockets: Path) -> None:
    place.prepare(sockets, os.geteuid())
    claim = place.claim(sockets / "web.sock")
    with pytest.raises(place.NameInUseError, match="hypervisor stop web"):
        await launch.run([Settings(kernel=kernel, name="web")], sockets, None)
    claim.close()


async def test_a_port_in_use_ends_it_before_the_start(kernel: Path, sockets: Path) -> None:
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = Settings(kernel=kernel, publish=(f"{port}:80",))
    with pytest.raises(Exception, match=f"cannot publish 127.0.0.1:{port}: Address already in use"):
        await launch.run([settings], sockets, None)
    assert not names(sockets)
    server.close()


def check_lines(place: Path) -> None:
    """Look at what the serial port leads to."""
    assert Path((place / "tty").read_text()).is_char_device()
    ring = (place / "ring").read_bytes()
    assert ring.startswith(b"Linux version")
    assert len(ring) == 65536


async def test_serial_to_a_pty_and_a_ring(kernel: Path, tmp_path: Path, sockets: Path) -> None:
    words = f"com1,autopty={tmp_path / 'tty'},log={tmp_path / 'ring'}"
    machine = Settings(kernel=kernel, name="web", serial=(words,))
    task = asyncio.create_task(launch.run([machine], sockets, None))
    await until((tmp_path / "tty").exists)
    check_lines(tmp_path)
    async with launch.control.connect(sockets / "web.sock") as client:
        await client.request("kill")
    assert await task == 1


def hears_signals() -> bool:
    """Tell whether the machines have started: SIGUSR1 would pause them."""
    return signal.getsignal(signal.SIGUSR1) is not signal.SIG_DFL


class Starting(EchoEngine):
    """An engine whose second machine never gets to run."""

    begun = 0

    async def start(self, config: Config, console: Console, notify: Notify) -> None:
        Starting.begun += 1
        if Starting.begun == 2:
            await asyncio.Event().wait()
        await super().start(config, console, notify)


async def test_sigterm_while_it_starts_gives_back_what_was_made(
    kernel: Path,
    tmp_path: Path,
    sockets: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(machine_module.ENGINES, "auto", Starting)
    monkeypatch.setattr(Starting, "begun", 0)
    made = [Settings(kernel=kernel, console=False) for _ in range(2)]
    task = asyncio.create_task(launch.run(made, sockets, tmp_path / "pid"))
    await until(lambda: Starting.begun == 2)
    assert names(sockets) == ["vm.sock", "vm2.sock"]
    os.kill(os.getpid(), signal.SIGTERM)
    assert await task == 1
    assert not names(sockets)
    assert "pid" not in names(tmp_path)
    assert capsys.readouterr().err == "ended by a signal before the start was done\n"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


class FullPipe:
    """A pipe as standard output or error that nobody reads, full up to the last octet."""

    def __init__(self) -> None:
        self._read, write = os.pipe()
        os.set_blocking(write, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(write, bytes(4096))
        os.set_blocking(write, True)
        self.file = os.fdopen(write, "w")

    def close(self) -> None:
        """Let who writes go on."""
        os.close(self._read)
        self.file.close()
        for thread in threading.enumerate():
            if thread.name == "output":
                thread.join()


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(launch, "_FAREWELL", 0.05)
    monkeypatch.setattr(base, "_SAY_MS", 0)
    pipes = {name: FullPipe() for name in ("stdout", "stderr")}
    for name, pipe in pipes.items():
        monkeypatch.setattr(sys, name, pipe.file)
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        yield
    monkeypatch.undo()
    for pipe in pipes.values():
        pipe.close()


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("machines", [1, 2])
@pytest.mark.parametrize("ended", [False, True])
async def test_sigterm_ends_it_though_the_terminal_takes_nothing(
    kernel: Path, sockets: Path, machines: int, ended: bool
) -> None:
    made = [Settings(kernel=kernel, stop_timeout=0) for _ in range(machines)]
    task = asyncio.create_task(launch.run(made, sockets, None))
    await until(hears_signals)
    if ended:  # and only the terminal keeps it
        for path in place.running(sockets):
            async with launch.control.connect(path) as client:
                await client.request("stop")
    os.kill(os.getpid(), signal.SIGTERM)
    assert await task == 0


@pytest.mark.usefixtures("unread")
async def test_sigterm_ends_it_though_no_client_reads(kernel: Path, sockets: Path) -> None:
    made = [Settings(kernel=kernel, console=False) for _ in range(3)]
    task = asyncio.create_task(launch.run(made, sockets, None))
    await until(hears_signals)
    clients = [Silent(path, op) for path in place.running(sockets) for op in Silent.OPS]
    for client in clients:
        await until(client.answered)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await task == 0
    for client in clients:
        client.sock.close()


class Silent:
    """A client of a control socket that sends a request and takes no answer."""

    OPS = ("", "console", "events", "half")

    def __init__(self, path: Path, op: str) -> None:
        self.op = op
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.setblocking(False)
        self.sock.connect(str(path))
        if op == "half":  # closed for writing, and more asked for than its buffer holds
            self.sock.send(b'{"op": "statistics"}\n' * 1000)
            self.sock.shutdown(socket.SHUT_WR)
        elif op:
            self.sock.send(json.dumps({"op": op}).encode() + b"\n")

    def answered(self) -> bool:
        """Tell whether an answer waits to be read."""
        return not self.op or bool(select.select([self.sock], [], [], 0)[0])


async def test_different_networks_are_refused(kernel: Path, sockets: Path) -> None:
    machines = [Settings(kernel=kernel, net=f"10.{n}.0.1/24") for n in (1, 2)]
    with pytest.raises(Exception, match="expected one --net for all"):
        await launch.run(machines, sockets, None)
