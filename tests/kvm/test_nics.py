"""The distribution's kernel on our monitor, with its network interface on a TAP device or served by
another process over vhost-user.  The web servers are processes of their own too, so that what wakes
this one is the machine's network alone."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest
from test_boot import BODY, command, machine, prompt, user_exits

from hypervisor import EventKind, Machine, Tap, VhostUser
from hypervisor.image.build import Image
from vpnstack import Gateway

pytestmark = pytest.mark.timeout(240)

DIGEST = hashlib.sha256(BODY).hexdigest()
VPNSTACK = Path(sys.executable).with_name("vpnstack")
LAB = "lab"  # a network namespace
GET = (
    "import hashlib, sys, urllib.request as u; "
    "print(hashlib.sha256(u.urlopen(sys.argv[1]).read()).hexdigest())"
)
STARTED = 60.0  # seconds for a Python program under emulation


@pytest.fixture
def body(tmp_path: Path) -> Path:
    (tmp_path / "body").write_bytes(BODY)
    return tmp_path


@pytest.fixture
def lab() -> Iterator[list[str]]:
    """A network namespace: what runs a command in it."""
    ip("netns", "add", LAB)
    yield ["ip", "netns", "exec", LAB]
    ip("netns", "delete", LAB)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


async def output(argv: Sequence[str]) -> str:
    """Run a command and return what it printed."""
    done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def spawn(argv: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0)


@contextlib.asynccontextmanager
async def running(*argv: str) -> AsyncIterator[tuple[subprocess.Popen[bytes], str]]:
    """Run a command from its first line on, which comes with it, to the end of the block."""
    with spawn(argv) as child:
        try:
            assert child.stdout is not None
            async with asyncio.timeout(STARTED):
                line = await asyncio.to_thread(child.stdout.readline)
            yield child, line.decode()
        finally:
            child.kill()


def web(
    directory: Path, address: str, *prefix: str
) -> contextlib.AbstractAsyncContextManager[tuple[subprocess.Popen[bytes], str]]:
    """Serve a directory on a free port, which the first line names."""
    server = [sys.executable, "-u", "-m", "http.server", "0", "--bind", address]
    return running(*prefix, *server, "--directory", str(directory))


def port(line: str) -> str:
    found = re.search(r"port (\d+)", line)
    assert found, line
    return found[1]


def wakeups() -> int:
    """Return how often the loop's thread has slept."""
    status = Path(f"/proc/self/task/{threading.get_native_id()}/status").read_text()
    found = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.MULTILINE)
    assert found
    return int(found[1])


async def download(vm: Machine, url: str, kind: str) -> float:
    """Fetch `BODY` in the guest; return the wake-ups of this process for each MiB."""
    exits, sleeps = user_exits(vm), wakeups()
    assert DIGEST in await command(vm, f"wget -q -O - {url} | sha256sum")
    exits, sleeps = user_exits(vm) - exits, wakeups() - sleeps
    mib = len(BODY) / (1 << 20)
    print(f"figure {kind}: {exits / mib:.1f} exits and {sleeps / mib:.1f} wake-ups for each MiB")
    assert exits == 0, "data came to Python by an exit"
    return sleeps / mib


def test_a_tap_device_in_a_namespace(image: Image, body: Path, lab: list[str]) -> None:
    async def go() -> None:
        async with machine(image, nics=[Tap("vm0", mac="02:00:00:00:00:02")]) as vm:
            ip("link", "set", "vm0", "netns", LAB)
            ip("-n", LAB, "address", "add", "10.9.0.1/24", "dev", "vm0")
            ip("-n", LAB, "link", "set", "vm0", "up")
            await prompt(vm)
            setup = "killall udhcpc; ip addr add 10.9.0.2/24 dev eth0; ip link show eth0"
            assert "02:00:00:00:00:02" in await command(vm, setup)
            assert " 0% packet loss" in await command(vm, "ping -c 3 10.9.0.1")
            async with web(body, "10.9.0.1", *lab) as (_, line):
                await download(vm, f"http://10.9.0.1:{port(line)}/body", "tap")
            size = len(BODY)
            made = await command(
                vm, f"yes trikit | head -c {size} > /run/body; httpd -h /run; sha256sum /run/body"
            )
            got = await output([*lab, sys.executable, "-c", GET, "http://10.9.0.2/body"])
            assert got.strip() in made
            events = vm.events()
            warned = asyncio.create_task(warning(events))
            await asyncio.sleep(0)
            ip("-n", LAB, "link", "delete", "vm0")
            assert "vm0" in await warned
            assert "0" in await command(vm, "sleep 1; cat /sys/class/net/eth0/carrier")

    asyncio.run(go())


async def warning(events: AsyncIterator[object]) -> str:
    async with asyncio.timeout(STARTED):
        async for event in events:
            if getattr(event, "kind", None) is EventKind.WARNING:
                return str(getattr(event, "detail", ""))
    raise AssertionError("the machine ended")


def test_a_vhost_user_back_end_that_restarts(image: Image, body: Path, tmp_path: Path) -> None:
    """`vpnstack serve` in another process moves the frames; the guest outlives it."""
    path = tmp_path / "switch.sock"
    serve = [sys.executable, str(VPNSTACK), "serve", "--listen", f"vhost-user:{path}"]

    async def go() -> None:
        async with web(body, "127.0.0.1") as (_, line):
            url = f"http://host.internal:{port(line)}/body"
            async with contextlib.AsyncExitStack() as stack:
                switch, _ = await stack.enter_async_context(running(*serve))
                nics = [VhostUser(path, mac="02:00:00:00:00:02")]
                vm = await stack.enter_async_context(machine(image, nics=nics))
                await prompt(vm)
                await command(vm, "until ip -4 addr show eth0 | grep inet; do usleep 100000; done")
                sleeps = await download(vm, url, "vhost-user")
                assert sleeps < 20, "frames wake this process"
                warned = asyncio.create_task(warning(vm.events()))
                await asyncio.sleep(0)
                switch.send_signal(signal.SIGKILL)
                assert str(path) in await warned
                await stack.enter_async_context(running(*serve))
                up = "until grep 1 /sys/class/net/eth0/carrier; do usleep 100000; done"
                await command(vm, up)
                await download(vm, url, "vhost-user again")

    asyncio.run(go())


def test_a_jack_of_this_process(image: Image, body: Path) -> None:
    async def go() -> None:
        async with (
            web(body, "127.0.0.1") as (_, line),
            Gateway("192.168.127.1/24") as net,
            machine(image, nics=[net.port("vm1")]) as vm,
        ):
            await prompt(vm)
            await command(vm, "until ip -4 addr show eth0 | grep inet; do usleep 100000; done")
            await download(vm, f"http://host.internal:{port(line)}/body", "jack")

    asyncio.run(go())


def test_what_is_not_there(image: Image, tmp_path: Path) -> None:
    async def go() -> None:
        vm = machine(image, nics=[VhostUser(tmp_path / "nobody", wait=0.1)])
        with pytest.raises(Exception, match="no vhost-user back-end"):
            await vm.start()
        assert os.listdir(tmp_path) == []

    asyncio.run(go())
