"""NICs on the engine qemu: a TAP by descriptor and a back-end of another process, in one guest."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kernel_peer import Namespace, needs_root
from test_qemu_machine import command, image, prompt

from hypervisor import EngineError, Machine, Tap, VhostUser
from hypervisor.engine.tap import open_tap
from hypervisor.image.build import Image

__all__ = ["image"]  # a fixture

pytestmark = [needs_root, pytest.mark.timeout(180)]
VPNSTACK = Path(sys.executable).with_name("vpnstack")
MACS = ("02:00:00:00:00:02", "02:00:00:00:00:03")


@pytest.fixture
def lab() -> Iterator[Namespace]:
    namespace = Namespace("nicqemu")
    yield namespace
    namespace.close()


@pytest.fixture
def switch(tmp_path: Path) -> Iterator[Path]:
    """The socket of a `vpnstack serve` in another process."""
    path = tmp_path / "switch.sock"
    argv = [sys.executable, str(VPNSTACK), "serve", "--listen", f"vhost-user:{path}"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield path
        child.kill()


def test_both_kinds(
    image: Image, lab: Namespace, switch: Path, require: Callable[..., None]
) -> None:
    require("qemu-system-x86_64")
    fd, _ = lab.inside(lambda: open_tap(Tap("t0")))
    lab.ip("link", "set", "t0", "up")
    lab.ip("address", "add", "10.9.0.1/24", "dev", "t0")

    async def go() -> None:
        nics = [Tap(fd, mac=MACS[0]), VhostUser(switch, mac=MACS[1])]
        async with Machine(image.kernel, image.initrd, engine="qemu", nics=nics) as vm:
            await prompt(vm)
            await command(vm, "killall udhcpc; ip addr add 10.9.0.2/24 dev eth0")
            assert MACS[0] in await command(vm, "cat /sys/class/net/eth0/address")
            assert " 0% packet loss" in await command(vm, "ping -c 2 10.9.0.1")
            await command(vm, "ip addr add 192.168.127.77/24 dev eth1")
            assert MACS[1] in await command(vm, "cat /sys/class/net/eth1/address")
            assert " 0% packet loss" in await command(vm, "ping -c 2 192.168.127.1")

    asyncio.run(go())
    os.close(fd)


async def test_what_cannot_be_opened_is_said_in_one_line(image: Image) -> None:
    vm = Machine(image.kernel, image.initrd, engine="qemu", nics=[Tap(0)])
    with pytest.raises(EngineError, match="cannot open TAP 0"):
        await vm.start()
