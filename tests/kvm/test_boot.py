"""The distribution's own kernel on our own monitor: boot, console, network, life, nothing left."""

import asyncio
import contextlib
import hashlib
import random
import time
from pathlib import Path

import pytest
import uvloop

from hypervisor import EventKind, Exit, ExitReason, Machine, State
from hypervisor.engine.kvm import KvmEngine
from hypervisor.image.build import Image
from vpnstack import Gateway

pytestmark = pytest.mark.timeout(240)

BOOT = 120.0  # seconds; under emulation the guest of a guest takes 10 to 20
PAUSE = 6.0  # seconds
PROMPT = b"/ # "
CRASH = b"echo c > /proc/sysrq-trigger"
BODY = random.Random(5).randbytes(3 << 20)


def machine(image: Image, **options: object) -> Machine:
    """Return a machine of ours on the default image."""
    return Machine(image.kernel, image.initrd, engine="kvm", **options)  # type: ignore[arg-type]


async def prompt(vm: Machine, text: bytes = PROMPT) -> bytes:
    """Read the console up to `text`."""
    seen = b""
    try:
        async with asyncio.timeout(BOOT):
            while text not in seen:
                data = await vm.console.read()
                assert data, f"the console ended: {seen[-2000:]!r}, {await vm.wait()}"
                seen += data
    except TimeoutError:
        pytest.fail(f"no {text!r} on the console: {seen[-2000:]!r}")
    return seen


async def command(vm: Machine, line: str) -> str:
    """Type a command at the guest's shell and return what it printed."""
    vm.console.write(b"echo '=''begin''='; " + line.encode() + b"; echo '=''end''='\n")
    printed = (await prompt(vm, b"=end=")).decode().replace("\r", "")
    return printed.partition("=begin=\n")[2]


async def now(vm: Machine) -> int:
    """Return the guest's seconds since 1970."""
    return int((await command(vm, "date +%s")).split()[0])


@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_boot_to_a_shell_and_power_off(image: Image, cpus: int) -> None:
    async def go() -> None:
        async with machine(image, cpus=cpus) as vm:
            await prompt(vm)
            assert image.release in await command(vm, "uname -r")
            assert str(cpus) in (await command(vm, "nproc")).split()
            assert "kvm-clock" in await command(
                vm, "cat /sys/devices/system/clocksource/clocksource0/available_clocksource"
            )
            assert abs(await now(vm) - time.time()) < 5
            assert vm.config.uuid in await command(vm, "cat /sys/class/dmi/id/product_uuid")
            vm.console.write(b"poweroff -f\n")
            async with asyncio.timeout(30):
                assert (await vm.wait()).reason is ExitReason.POWER_OFF

    asyncio.run(go())


def test_a_bzimage_as_it_is_packed(cloud: tuple[Path, Path]) -> None:
    async def go() -> None:
        async with Machine(*cloud, engine="kvm", cpus=2) as vm:
            await prompt(vm)
            assert "cloud" in await command(vm, "uname -r")
            assert (await vm.stop(30)).reason is ExitReason.POWER_OFF

    asyncio.run(go())


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (b"reboot -f", Exit(ExitReason.REBOOT, "guest-reset")),
        (CRASH, Exit(ExitReason.PANIC, "guest-panicked: sysrq triggered crash")),
        (
            b"rmmod pvpanic_mmio; " + CRASH,
            Exit(ExitReason.PANIC, "guest-reset, and its console says: sysrq triggered crash"),
        ),
    ],
    ids=["reboot", "panic", "panic without a driver"],
)
def test_reboot_and_panic(image: Image, typed: bytes, expected: Exit) -> None:
    async def go() -> None:
        async with machine(image) as vm:
            kinds: list[EventKind] = []
            following = asyncio.create_task(follow(vm, kinds))
            await prompt(vm)
            vm.console.write(typed + b"\n")
            async with asyncio.timeout(30):
                assert await vm.wait() == expected
            await following
            assert (EventKind.PANIC in kinds) == (expected.reason is ExitReason.PANIC)

    asyncio.run(go())


async def follow(vm: Machine, kinds: list[EventKind]) -> None:
    """Collect the kinds of what happens."""
    async for event in vm.events():
        kinds.append(event.kind)


def test_without_acpi(image: Image) -> None:
    """Processors from the MP table, a reset by the keyboard controller, devices named.

    Debian's kernels are configured without VIRTIO_MMIO_CMDLINE_DEVICES, and find none of them.
    """

    async def go() -> None:
        async with machine(image, cpus=2, acpi=False) as vm:
            await prompt(vm)
            assert "virtio_mmio.device=4K@0x" in await command(vm, "cat /proc/cmdline")
            assert "2" in (await command(vm, "nproc")).split()
            assert "acpi" not in await command(vm, "ls /sys/firmware")
            usage = vm.engine.usage()
            assert len(usage.vcpus) == 2
            assert usage.vcpus[0] > 0.1
            assert 20 << 20 < usage.resident < 256 << 20
            vm.console.write(b"reboot -f\n")
            async with asyncio.timeout(30):
                assert (await vm.wait()).reason is ExitReason.REBOOT

    asyncio.run(go())


def test_power_button_on_uvloop(image: Image) -> None:
    async def go() -> None:
        async with machine(image) as vm:
            await prompt(vm)
            assert (await vm.stop(30)).reason is ExitReason.POWER_OFF

    uvloop.run(go())


def test_the_clock_is_right_after_a_pause(image: Image) -> None:
    async def go() -> None:
        async with machine(image) as vm:
            await prompt(vm)
            await command(vm, "while sleep 1; do echo tick; done & :")
            await prompt(vm, b"tick")
            await vm.pause()
            assert vm.status() is State.PAUSED
            late = b""
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PAUSE):
                    while True:
                        late += await vm.console.read()
            assert late.count(b"tick") < 2, "a paused machine ran"
            await vm.resume()
            await command(vm, "kill $!")
            assert abs(await now(vm) - time.time()) < PAUSE / 2

    asyncio.run(go())


def test_network_both_ways_through_the_gateway(image: Image) -> None:
    async def go() -> None:
        async with (
            Gateway("192.168.127.1/24") as net,
            await asyncio.start_server(serve, "127.0.0.1", 0) as server,
        ):
            here = server.sockets[0].getsockname()
            async with machine(image, nics=[net.port("vm1")]) as vm:
                await prompt(vm)
                wait = "until ip -4 addr show eth0 | grep inet; do usleep 100000; done"
                assert "192.168.127." in await command(vm, wait)
                before = user_exits(vm)
                line = f"wget -q -O - http://host.internal:{here[1]}/ | sha256sum"
                assert hashlib.sha256(BODY).hexdigest() in await command(vm, line)
                await command(vm, f"yes trikit | head -c {len(BODY)} > /run/body; httpd -h /run")
                published = await net.publish("tcp", host=("127.0.0.1", 0), guest=("vm1", 80))
                assert (b"trikit\n" * len(BODY))[: len(BODY)] in await fetch(published.address)
                assert user_exits(vm) == before, "data came to Python by an exit"

    asyncio.run(go())


def user_exits(vm: Machine) -> int:
    """Return how often a processor has waited for Python."""
    assert isinstance(vm.engine, KvmEngine)
    return vm.engine.statistics().user_exits


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer any HTTP request with `BODY`."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY)
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def fetch(address: tuple[str, int]) -> bytes:
    """Return the whole answer to GET /body."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"GET /body HTTP/1.0\r\n\r\n")
    async with asyncio.timeout(BOOT):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def test_two_machines_at_once(image: Image) -> None:
    async def go() -> None:
        async with machine(image, name="a") as a, machine(image, name="b") as b:
            await asyncio.gather(prompt(a), prompt(b))
            await a.kill()
            assert image.release in await command(b, "uname -r")

    asyncio.run(go())


def test_kill_at_any_moment_leaves_nothing(image: Image) -> None:
    async def go(printing: bool) -> None:
        async with machine(image, cpus=2, cmdline="ignore_loglevel") as vm:
            if printing:
                await vm.console.read()
            assert (await vm.kill()).reason is ExitReason.KILLED

    asyncio.run(go(False))
    asyncio.run(go(True))


def test_a_virtio_console_with_its_size(image: Image) -> None:
    async def go() -> None:
        async with machine(image, console="virtio") as vm:
            vm.console.resize(100, 30)
            await prompt(vm)
            assert "30 100" in await command(vm, "stty size")
            assert "hvc0" in await command(vm, "tty")
            vm.console.resize(132, 50)
            size = "until [ $(stty size | cut -d' ' -f1) = 50 ]; do usleep 50000; done; stty size"
            assert "50 132" in await command(vm, size)
            text = await command(vm, "seq 2000")
            numbers = "".join(f"{n}\n" for n in range(1, 2001))
            assert numbers in text
            vm.console.write(b"poweroff -f\n")
            async with asyncio.timeout(30):
                assert (await vm.wait()).reason is ExitReason.POWER_OFF

    asyncio.run(go())
