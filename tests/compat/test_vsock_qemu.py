"""vsock on QEMU, whose device is ours over vhost-user, with the distribution's own kernel."""

import asyncio
import os
import shutil
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
import uvloop

sys.path.append(str(Path(__file__).parents[1]))

import vsock_scenarios as scenarios

from hypervisor import Machine, Vsock
from hypervisor.devices.rng import Rng
from hypervisor.engine.host import QEMU
from hypervisor.errors import UsageError
from hypervisor.image.build import Image, Spec, build
from hypervisor.image.cache import Cache, default_directory

pytestmark = [
    pytest.mark.compat,
    pytest.mark.timeout(240),
    pytest.mark.skipif(shutil.which(QEMU) is None, reason="QEMU is not installed"),
]


@pytest.fixture(scope="session")
def socat_image() -> Image:
    try:
        return build(Spec(packages=("socat",)), Cache(default_directory(os.environ)))
    except UsageError as error:
        pytest.skip(f"no image: {error}")


def on_qemu(
    image: Image, vsock: Vsock, scenario: Callable[[Machine], Coroutine[None, None, None]]
) -> None:
    """Run a scenario once there is a shell."""

    async def go() -> None:
        async with Machine(image.kernel, image.initrd, engine="qemu", vsock=vsock) as vm:
            await scenarios.prompt(vm)
            await scenario(vm)

    with scenarios.nothing_left():
        uvloop.run(go())


def test_streams(socat_image: Image) -> None:
    on_qemu(socat_image, Vsock(), scenarios.streams)


def test_pauses(socat_image: Image) -> None:
    on_qemu(socat_image, Vsock(), scenarios.pauses)


def test_sockets_of_both_names(socat_image: Image, tmp_path: Path) -> None:
    with scenarios.names(tmp_path) as vsock:
        on_qemu(socat_image, vsock, lambda vm: scenarios.sockets(vm, tmp_path))


def test_a_socket_in_use_is_one_line(socat_image: Image, tmp_path: Path) -> None:
    async def go() -> None:
        path = tmp_path / "fc"
        async with await asyncio.start_unix_server(lambda reader, writer: None, path):
            vm = Machine(socat_image.kernel, engine="qemu", vsock=Vsock(firecracker=path))
            with pytest.raises(UsageError, match="serves this socket already"):
                await vm.start()
            await vm.kill()

    asyncio.run(go())


def test_a_device_of_ours_beside_it(socat_image: Image) -> None:
    """Entropy by our device: the guest's second hardware generator reads what we make."""

    async def scenario(vm: Machine) -> None:
        text = await scenarios.command(vm, "cat /sys/class/misc/hw_random/rng_available")
        names = [name for name in text.split() if name.startswith("virtio_rng")]
        assert len(names) == 2
        for name in names:
            choose = f"echo {name} > /sys/class/misc/hw_random/rng_current"
            await scenarios.command(vm, f"{choose}; head -c 64 /dev/hwrng | wc -c")
        assert rng.octets

    rng = Rng()

    async def go() -> None:
        async with Machine(
            socat_image.kernel, socat_image.initrd, engine="qemu", devices=[rng]
        ) as vm:
            await scenarios.prompt(vm)
            await scenario(vm)

    uvloop.run(go())
