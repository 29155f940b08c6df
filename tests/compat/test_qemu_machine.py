"""Machines on QEMU with the distribution's own kernel: console, life, NICs, and nothing left."""

import asyncio
import contextlib
import gc
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from hypervisor import EngineError, EventKind, ExitReason, Machine, State
from hypervisor.engine.host import QEMU
from hypervisor.errors import UsageError
from hypervisor.image.build import Image, Spec, build
from hypervisor.image.cache import Cache, default_directory
from vpnstack.core.burst import Burst
from vpnstack.link.port import Port

pytestmark = [
    pytest.mark.compat,
    pytest.mark.timeout(180),
    pytest.mark.skipif(shutil.which(QEMU) is None, reason="QEMU is not installed"),
]

BOOT = 60.0  # seconds; a boot takes two on an idle machine


@pytest.fixture(scope="session")
def image() -> Image:
    uvloop.run(asyncio.sleep(0))  # libuv opens two descriptors for the life of the process
    try:
        return build(Spec(), Cache(default_directory(os.environ)))
    except UsageError as error:
        pytest.skip(f"no image: {error}")


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[..., object]:
    """Run a coroutine on either loop."""
    return asyncio.run if request.param == "asyncio" else uvloop.run


@pytest.fixture(autouse=True)
def _nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No descriptor, thread, child process or directory outlives a test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    gc.collect()
    before = _state(tmp_path)
    yield
    deadline = time.monotonic() + 10  # the kernel takes a moment to forget a thread
    while (after := _state(tmp_path)) != before and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)
    assert after[0] <= before[0]
    assert after[1:] == before[1:]


def _state(temporary: Path) -> tuple[int, int, str, set[str]]:
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    places = {path.name for path in temporary.iterdir()}
    return len(os.listdir("/proc/self/fd")), threading.active_count(), children, places


async def prompt(vm: Machine, text: bytes = b"/ # ") -> bytes:
    """Read the console up to `text`."""
    seen = b""
    async with asyncio.timeout(BOOT):
        while text not in seen:
            data = await vm.console.read()
            assert data, f"the console ended: {seen[-500:]!r}"
            seen += data
    return seen


async def command(vm: Machine, line: str) -> str:
    """Type a command at the guest's shell and return what it printed."""
    vm.console.write(line.encode() + b"; echo '=''end''='\n")
    return (await prompt(vm, b"=end=")).decode()


def test_console_pause_and_power_button(image: Image, run: Callable[..., object]) -> None:
    async def go() -> None:
        async with Machine(image.kernel, image.initrd) as vm:
            kinds: list[EventKind] = []
            task = asyncio.create_task(_collect(vm, kinds))
            await prompt(vm)
            assert image.release in await command(vm, "uname -r")
            await vm.pause()
            assert vm.status() is State.PAUSED
            await vm.resume()
            assert (await vm.stop(30)).reason is ExitReason.POWER_OFF
            await task
            assert EventKind.POWER_BUTTON in kinds
            assert kinds[-1] is EventKind.ENDED

    run(go())


async def _collect(vm: Machine, kinds: list[EventKind]) -> None:
    async for event in vm.events():
        kinds.append(event.kind)


@pytest.mark.parametrize(
    ("typed", "cmdline", "reason", "code"),
    [
        ("reboot -f", "", ExitReason.REBOOT, 2),
        ("reboot -f", "reboot=t", ExitReason.TRIPLE_FAULT, 3),
        ("echo c > /proc/sysrq-trigger", "", ExitReason.PANIC, 1),
        ("rmmod pvpanic_mmio; echo c > /proc/sysrq-trigger", "", ExitReason.PANIC, 1),
    ],
    ids=["reboot", "triple fault", "panic", "panic without a driver"],
)
def test_how_a_guest_ends(
    image: Image, typed: str, cmdline: str, reason: ExitReason, code: int
) -> None:
    async def go() -> None:
        async with Machine(image.kernel, image.initrd, cmdline=cmdline) as vm:
            await prompt(vm)
            vm.console.write(typed.encode() + b"\n")
            async with asyncio.timeout(30):
                end = await vm.wait()
            if vm.engine.kvm and reason is ExitReason.TRIPLE_FAULT:
                pytest.skip("with KVM, QEMU does not tell a triple fault from a reset")
            assert (end.reason, end.code) == (reason, code)
            assert "sysrq triggered crash" in end.message or reason is not ExitReason.PANIC

    asyncio.run(go())


def test_two_machines_and_sigkill_of_one(image: Image, run: Callable[..., object]) -> None:
    async def go() -> None:
        async with (
            Machine(image.kernel, image.initrd, name="a") as a,
            Machine(image.kernel, image.initrd, name="b") as b,
        ):
            await asyncio.gather(prompt(a), prompt(b))
            os.kill(a.engine._child.pid, signal.SIGKILL)  # type: ignore[attr-defined]
            async with asyncio.timeout(5):
                assert (await a.wait()).reason is ExitReason.KILLED
            assert "still here" in await command(b, "echo still' 'here")
            assert (await b.kill()).reason is ExitReason.KILLED

    run(go())


def test_qemu_that_refuses_says_why(image: Image, run: Callable[..., object]) -> None:
    async def go() -> None:
        vm = Machine(image.kernel, image.initrd, engine_args=["-no-such-option"])
        with pytest.raises(EngineError, match=r"status 1: .*no-such-option.*invalid option"):
            await vm.start()
        assert (await vm.wait()).reason is ExitReason.FAILED

    run(go())


def test_cancelled_start_leaves_nothing(image: Image, run: Callable[..., object]) -> None:
    async def go() -> None:
        vm = Machine(image.kernel, image.initrd)
        task = asyncio.create_task(vm.start())
        await asyncio.sleep(0.05)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
            await vm.kill()

    run(go())


class Jack:
    """A place that only counts what the guest sends."""

    name = "vm1"
    mac = bytes.fromhex("5a94ef123456")
    mtu = 1500

    def __init__(self) -> None:
        self.port: Port | None = None
        self.burst = Burst()
        self.sources: set[bytes] = set()
        self.heard = asyncio.Event()

    def plug(self, port: Port) -> None:
        self.unplug()
        self.port = port
        asyncio.get_running_loop().add_reader(port.fileno(), self._read)

    def unplug(self) -> None:
        if self.port is not None:
            asyncio.get_running_loop().remove_reader(self.port.fileno())
            self.port.close()
            self.port = None

    def _read(self) -> None:
        assert self.port is not None
        self.burst.clear()
        self.port.rx_burst(self.burst)
        self.sources |= {self.burst.octets(i)[6:12] for i in range(len(self.burst))}
        self.port.rx_done(self.burst)
        if self.sources:
            self.heard.set()


def test_nic_reaches_the_jack_over_vhost_user(image: Image, run: Callable[..., object]) -> None:
    async def go() -> None:
        jack = Jack()
        async with Machine(image.kernel, image.initrd, nics=[jack]) as vm:
            await prompt(vm)
            assert "5a:94:ef:12:34:56" in await command(vm, "cat /sys/class/net/eth0/address")
            async with asyncio.timeout(30):
                await jack.heard.wait()
            assert jack.sources == {jack.mac}
            await vm.kill()
        assert jack.port is None

    run(go())


def test_a_virtio_console(image: Image, run: Callable[..., object]) -> None:
    async def go() -> None:
        async with Machine(image.kernel, image.initrd, console="virtio") as vm:
            await prompt(vm)
            assert "hvc0" in await command(vm, "tty")
            vm.console.resize(100, 30)  # QEMU has no way to tell the guest
            assert (await vm.stop(30)).reason is ExitReason.POWER_OFF

    run(go())
