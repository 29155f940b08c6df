"""Shares of a machine: a Git tree and a directory of the host, mounted by the kernel's client."""

import asyncio
import hashlib
import random
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from test_boot import command, machine, prompt

sys.path.append(str(Path(__file__).parents[1]))

import share_scenarios as scenarios

from dataflow import Repository
from dataflow.aio.hostdir import host_directory
from dataflow.aio.server import Server
from hypervisor import ExitReason, Machine
from hypervisor.image.build import Image, Spec
from hypervisor.image.cache import Cache
from hypervisor.image.cpio import Entry, emit
from vpnstack import Gateway

pytestmark = pytest.mark.timeout(240)

MOUNT = "mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000"
LARGE = 64 << 20
ROOT = Path(__file__).parents[2]
FOUND = "results/uname"


async def power_off(vm: Machine) -> None:
    """End the guest with whatever it has mounted."""
    vm.console.write(b"poweroff -f\n")
    async with asyncio.timeout(30):
        assert (await vm.wait()).reason is ExitReason.POWER_OFF


def test_a_guest_commits_and_the_host_watches(image: Image, tmp_path: Path) -> None:
    async def type_in(vm: Machine) -> None:
        await prompt(vm)
        await command(vm, f"{MOUNT} data /mnt")
        assert "msize=512000" in await command(vm, "grep /mnt /proc/mounts")
        await command(vm, "mkdir -p /mnt/branch/main/transactions/t")
        await command(vm, "cd /mnt/branch/main/transactions/t && mkdir rw/results")
        await command(vm, "uname -r >rw/results/release && echo commit >ctl; cd /")

    async def go() -> str:
        async with (
            Repository.open(tmp_path / "state.git") as repo,
            Gateway("192.168.127.1/24", "fd00:127::1/64") as net,
            Machine(
                kernel=image.kernel,
                initrd=image.initrd,
                memory="256M",
                engine="kvm",
                nics=[net.port("vm1")],
                shares={"data": repo},
            ) as vm,
        ):
            typing = asyncio.create_task(type_in(vm))
            async for change in repo.branch("main").watch("results/"):
                found = change.commit, change.path
                break
            await typing
            assert found[1] == "results/release"
            assert found[0] == repo.branch("main").head
            assert (await repo.branch("main").read("results/release")).split() == [
                image.release.encode()
            ]
            await power_off(vm)
            return found[0]

    commit = asyncio.run(go())
    show = ["git", "-C", str(tmp_path / "state.git"), "show", f"{commit}:results/release"]
    assert subprocess.check_output(show, text=True).strip() == image.release


def test_quickstart(
    image: Image,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def build(spec: Spec, cache: Cache) -> Image:
        """Replace the /init of an image: packages are not to be had in here."""
        init = emit([Entry.file("init", spec.init or b"", 0o755)])
        (tmp_path / "initrd.cpio").write_bytes(image.initrd.read_bytes() + init)
        (tmp_path / image.kernel_name).symlink_to(image.kernel)
        return replace(image, directory=tmp_path)

    monkeypatch.setattr("hypervisor.image.build.build", build)
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "examples" / "quickstart.py"))
    printed = capsys.readouterr().out
    head = ["git", "-C", str(tmp_path / "state.git"), "rev-parse", "main"]
    assert printed.split()[:2] == [subprocess.check_output(head, text=True).strip(), FOUND]
    assert "Linux" in printed
    assert "POWER_OFF" in printed


def test_a_directory_both_ways_and_nothing_beside_it(image: Image, tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    (tmp_path / "secret").write_text("secret")
    (top / "hello").write_text("from the host\n")
    (top / "out").symlink_to("../secret")
    (top / "away").symlink_to(tmp_path)

    async def go() -> None:
        shares = {"src": top, "fixed": f"ro:{top}"}
        async with machine(image, shares=shares, cpus=2) as vm:
            await prompt(vm)
            await command(vm, f"mkdir /run/ro; {MOUNT} src /mnt; {MOUNT} fixed /run/ro")
            assert "from the host" in await command(vm, "cat /mnt/hello")
            await command(vm, "mkdir /mnt/d && echo from the guest >/mnt/d/new; sync")
            assert (top / "d/new").read_text() == "from the guest\n"
            await command(vm, "mv /mnt/d/new /mnt/moved; ln -s moved /mnt/link; rmdir /mnt/d")
            assert (top / "link").read_text() == "from the guest\n"
            assert not (top / "d").exists()
            for path in ("out", "away/secret", "../secret", "out/../../secret"):
                assert "secret" not in (await command(vm, f"cat /mnt/{path} 2>/dev/null"))
            assert "Read-only" in await command(vm, "echo no >/run/ro/hello")
            assert (top / "hello").read_text() == "from the host\n"
            await power_off(vm)

    asyncio.run(go())


def test_a_large_file_both_ways(image: Image, tmp_path: Path) -> None:
    data = random.Random(9).randbytes(1 << 20) * (LARGE >> 20)
    (tmp_path / "down").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()

    async def go() -> None:
        async with machine(image, shares={"src": tmp_path}, cpus=2) as vm:
            await prompt(vm)
            await command(vm, f"{MOUNT} src /mnt")
            # Without a cache every read(2) is a request: large ones.
            assert digest in await command(vm, "dd if=/mnt/down bs=500k | sha256sum")
            await command(vm, "dd if=/mnt/down of=/mnt/up bs=500k")
            await power_off(vm)
        assert hashlib.sha256((tmp_path / "up").read_bytes()).hexdigest() == digest

    asyncio.run(go())


def test_work_in_each_cache_mode(image: Image, probe: Path, tmp_path: Path) -> None:
    """A directory and a repository, each mounted in three ways at once."""
    top = tmp_path / "top"
    top.mkdir()
    files = scenarios.prepare(top, probe)

    async def go() -> None:
        async with (
            Server(host_directory(str(top))) as server,
            Repository.open(tmp_path / "state.git") as repo,
        ):
            shares: dict[str, object] = dict.fromkeys(scenarios.CACHES, server)
            shares |= {f"db-{cache}": repo for cache in scenarios.CACHES}
            async with machine(image, shares=shares) as vm:
                await prompt(vm)
                await scenarios.mount(vm)
                await scenarios.work(vm, top, files)
                await scenarios.locks(vm)
                await scenarios.both_sides(vm, top)
                await scenarios.commits(vm, repo, files)
                await power_off(vm)

    asyncio.run(go())
