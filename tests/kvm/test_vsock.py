"""vsock on our own monitor: the device of this process, and the distribution's driver."""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
import uvloop

sys.path.append(str(Path(__file__).parents[1]))

import vsock_scenarios as scenarios

from hypervisor import Machine, Vsock
from hypervisor.engine.kvm import KvmEngine
from hypervisor.image.build import Image

pytestmark = pytest.mark.timeout(240)

BULK = 16 << 20


def on_kvm(
    image: Image, vsock: Vsock, scenario: Callable[[Machine], Coroutine[None, None, None]]
) -> None:
    """Run a scenario once there is a shell."""

    async def go() -> None:
        async with Machine(image.kernel, image.initrd, engine="kvm", cpus=2, vsock=vsock) as vm:
            await scenarios.prompt(vm)
            await scenario(vm)

    with scenarios.nothing_left():
        uvloop.run(go())


def test_streams(socat_image: Image) -> None:
    on_kvm(socat_image, Vsock(), scenarios.streams)


def test_pauses(socat_image: Image) -> None:
    on_kvm(socat_image, Vsock(), scenarios.pauses)


def test_sockets_of_both_names(socat_image: Image, tmp_path: Path) -> None:
    with scenarios.names(tmp_path) as vsock:
        on_kvm(socat_image, vsock, lambda vm: scenarios.sockets(vm, tmp_path))


def test_bulk_comes_without_exits(socat_image: Image, tmp_path: Path) -> None:
    """Host to guest and guest to host, through sockets."""

    async def scenario(vm: Machine) -> None:
        assert isinstance(vm.engine, KvmEngine)
        vm.console.write(b"socat -u -b 65536 VSOCK-LISTEN:1024,fork OPEN:/dev/null &\n")
        (await scenarios.connect(vm.vsock, 1024))[1].close()  # it listens
        reader, writer = await asyncio.open_unix_connection(tmp_path / "fc")
        writer.write(b"CONNECT 1024\n")
        assert (await reader.readline()).startswith(b"OK")
        exits = vm.engine.statistics().user_exits
        for _ in range(BULK >> 20):
            writer.write(bytes(1 << 20))
            await writer.drain()
        writer.write_eof()
        async with asyncio.timeout(scenarios.BOOT):
            assert await reader.read() == b""
        writer.close()
        got = 0
        done = asyncio.Event()

        async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal got
            while data := await reader.read(1 << 18):
                got += len(data)
            writer.close()
            done.set()

        async with await asyncio.start_unix_server(count, tmp_path / "fc_2048"):
            vm.console.write(b"head -c %d /dev/zero | socat -u -b 65536 - VSOCK:2:2048\n" % BULK)
            async with asyncio.timeout(scenarios.BOOT):
                await done.wait()
        assert got == BULK
        assert vm.engine.statistics().user_exits == exits, "data came to Python by an exit"

    on_kvm(socat_image, Vsock(firecracker=tmp_path / "fc"), scenario)
