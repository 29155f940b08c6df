"""Directories that QEMU shares, by the same `shares=` as on our own monitor."""

import asyncio
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import p9_guest
import pytest
from test_qemu_machine import command, prompt

sys.path.append(str(Path(__file__).parents[1]))

import share_scenarios as scenarios

from dataflow import Repository
from hypervisor import EngineError, Machine, State
from hypervisor.engine.host import QEMU
from hypervisor.errors import UsageError
from hypervisor.image.build import Image, Spec, build
from hypervisor.image.cache import Cache, default_directory

pytestmark = [pytest.mark.compat, pytest.mark.timeout(180)]

MOUNT = "mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000"


@pytest.fixture
def image(require: Callable[..., None]) -> Image:
    require(QEMU)
    try:
        return build(Spec(), Cache(default_directory(os.environ)))
    except UsageError as error:
        pytest.skip(f"no image: {error}")


async def test_a_directory_of_the_host(image: Image, tmp_path: Path) -> None:
    top = tmp_path / "a, b"
    top.mkdir()
    (tmp_path / "secret").write_text("secret")
    (top / "hello").write_text("from the host\n")
    (top / "out").symlink_to("../secret")
    shares = {"src": top, "fixed": f"ro:{top}"}
    async with Machine(image.kernel, image.initrd, engine="qemu", shares=shares) as vm:
        await prompt(vm)
        await command(vm, f"mkdir /run/ro; {MOUNT} src /mnt; {MOUNT} fixed /run/ro")
        assert "from the host" in await command(vm, "cat /mnt/hello")
        await command(vm, "echo from the guest >/mnt/new; sync")
        assert (top / "new").read_text() == "from the guest\n"
        assert "secret" not in await command(vm, "cat /mnt/out 2>/dev/null")
        assert "Read-only" in await command(vm, "echo no >/run/ro/hello")


@pytest.mark.parametrize("kind", ["dir", "setuid"])
async def test_set_id_bits_and_device_nodes(image: Image, tmp_path: Path, kind: str) -> None:
    """The guest's root is not the host's, unless the share says so."""
    shares = {"src": f"{kind}:{tmp_path}"}
    async with Machine(image.kernel, image.initrd, engine="qemu", shares=shares) as vm:
        await prompt(vm)
        done = await command(
            vm,
            f"{MOUNT} src /mnt; cd /mnt; cp /bin/busybox sh; chmod 4755 sh; touch f; chmod 750 f;"
            " mkdir d; ln -s f l; mknod null c 1 3; cd /; umount /mnt",
        )
    kept = kind == "setuid"
    assert ("chmod: sh: Operation not permitted" not in done) is kept, done
    assert bool((tmp_path / "sh").stat().st_mode & stat.S_ISUID) is kept
    assert kept or not (tmp_path / "null").exists()  # newer ones of QEMU make none anyway
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o750
    assert (tmp_path / "d").is_dir()
    assert (tmp_path / "l").readlink() == Path("f")


async def test_work_in_each_cache_mode(
    image: Image, require: Callable[..., None], tmp_path: Path
) -> None:
    """What tests/kvm asks of our own device, so that the two can be told apart."""
    require("cc")
    top = tmp_path / "top"
    top.mkdir()
    files = scenarios.prepare(top, p9_guest.probe(tmp_path))
    shares = dict.fromkeys(scenarios.CACHES, top)
    async with Machine(image.kernel, image.initrd, engine="qemu", shares=shares) as vm:
        await prompt(vm)
        await scenarios.mount(vm)
        await scenarios.work(vm, top, files, "qemu")
        await scenarios.both_sides(vm, top)


async def test_a_repository_is_for_the_engine_kvm(image: Image) -> None:
    async with Repository.memory() as repo:
        vm = Machine(image.kernel, image.initrd, engine="qemu", shares={"data": repo})
        with pytest.raises(EngineError, match=r"share data is no directory.*at the gateway"):
            await vm.start()
        assert vm.status() is State.ENDED
        assert asyncio.all_tasks() == {asyncio.current_task()}
