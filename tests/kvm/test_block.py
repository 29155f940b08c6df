"""Disks of the distribution's kernel on our own monitor: ext4 after a SIGKILL, read-only, discard,
qcow2; checked with e2fsck and qemu-img."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_boot import command, machine, prompt, user_exits

from hypervisor import Disk, EngineError, EventKind, ExitReason, Machine
from hypervisor.engine.kvm import KvmEngine
from hypervisor.image.build import Image

pytestmark = pytest.mark.timeout(240)

MONITOR = Path(__file__).with_name("block_monitor.py")
MIB = 1 << 20
FILES = 12
MOUNT = "modprobe ext4; mount -t ext4 /dev/vda /mnt"


def run(*argv: object) -> str:
    """Run a command of the host that must succeed."""
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout


def blocks(path: Path) -> int:
    """Return how many sectors a file takes."""
    return os.stat(path).st_blocks


@pytest.fixture
def ext4(tmp_path: Path) -> Path:
    """A sparse image with a file system made by the host."""
    path = tmp_path / "disk.img"
    path.touch()
    os.truncate(path, 64 * MIB)
    run("mkfs.ext4", "-q", "-F", "-E", "nodiscard", path)
    return path


def test_fsynced_files_outlive_a_killed_monitor(image: Image, ext4: Path) -> None:
    monitor = subprocess.Popen(
        [sys.executable, str(MONITOR), str(image.kernel), str(image.initrd), str(ext4)],
        stdout=subprocess.PIPE,
    )
    assert monitor.stdout is not None
    synced: dict[str, str] = {}
    try:
        for line in monitor.stdout:
            if line.startswith(b"@@ f"):
                _, name, checksum, *_ = line.decode().split()
                synced[name] = checksum
            if len(synced) == FILES:
                break
    finally:
        monitor.kill()  # in the middle of the next file
        monitor.wait()
        monitor.stdout.close()
    assert len(synced) == FILES
    run("e2fsck", "-p", ext4)  # replays the journal, and fails if more is needed
    run("e2fsck", "-f", "-n", ext4)
    for name, checksum in synced.items():
        body = subprocess.run(
            ["debugfs", "-R", f"cat /{name}", str(ext4)], capture_output=True, check=True
        ).stdout
        assert hashlib.sha256(body).hexdigest() == checksum, name


def test_ext4_by_the_guest_without_exits(image: Image, ext4: Path) -> None:
    async def go() -> None:
        disks = [Disk(ext4, serial="trikit-1")]
        async with machine(image, cpus=2, disks=disks) as vm:
            await prompt(vm)
            assert "trikit-1" in await command(vm, "cat /sys/block/vda/serial")
            assert "2" in await command(vm, "ls /sys/block/vda/mq | wc -l")
            await command(vm, f"{MOUNT} && dmesg -n 1")
            before = user_exits(vm)
            made = await command(vm, "yes trikit | head -c 4000000 >/mnt/f; sync; echo made")
            assert "made" in made
            await command(vm, "echo 3 >/proc/sys/vm/drop_caches")
            expected = hashlib.sha256((b"trikit\n" * 1_000_000)[:4_000_000]).hexdigest()
            assert expected in await command(vm, "sha256sum /mnt/f")
            assert user_exits(vm) == before, "data came to Python by an exit"
            await command(vm, "umount /mnt")
            assert isinstance(vm.engine, KvmEngine)
            with pytest.raises(EngineError, match="in use by another machine"):
                await machine(image, disks=disks).start()
            assert (await vm.stop(30)).reason is ExitReason.POWER_OFF

    asyncio.run(go())
    run("e2fsck", "-f", "-n", ext4)


def test_read_only(image: Image, ext4: Path) -> None:
    before = hashlib.sha256(ext4.read_bytes()).digest()

    async def go() -> None:
        async with machine(image, disks=[Disk(ext4, read_only=True)]) as vm:
            await prompt(vm)
            assert "1" in await command(vm, "cat /sys/block/vda/ro")
            said = await command(vm, "dd if=/dev/zero of=/dev/vda bs=4k count=1 conv=fsync")
            assert "not permitted" in said or "error" in said or "Read-only" in said
            assert "lost+found" in await command(vm, f"{MOUNT} -r; ls /mnt")

    asyncio.run(go())
    assert hashlib.sha256(ext4.read_bytes()).digest() == before


def test_discard_makes_the_file_sparse(image: Image, ext4: Path) -> None:
    async def go() -> None:
        async with machine(image, disks=[ext4]) as vm:
            await prompt(vm)
            await command(
                vm,
                f"{MOUNT}; dd if=/dev/zero of=/mnt/f bs=1M count=30; sync",
            )
            full = blocks(ext4)
            assert full > 30 * MIB // 512
            said = await command(vm, "rm /mnt/f; sync; fstrim -v /mnt; umount /mnt")
            assert blocks(ext4) < full - 25 * MIB // 512, said
            await command(vm, "blkdiscard /dev/vda")
            assert blocks(ext4) < MIB // 512

    asyncio.run(go())
    assert ext4.stat().st_size == 64 * MIB


def test_qcow2(image: Image, tmp_path: Path) -> None:
    path, raw = tmp_path / "disk.qcow2", tmp_path / "raw"

    async def go() -> None:
        async with machine(image, disks=[Disk(path, size="64M")]) as vm:
            await prompt(vm)
            line = "yes trikit | dd of=/dev/vda bs=1M count=8 iflag=fullblock conv=fsync"
            assert "8+0 records out" in await command(vm, line)
            await command(vm, "blkdiscard -o 4194304 -l 4194304 /dev/vda")
            assert (await vm.stop(30)).reason is ExitReason.POWER_OFF

    asyncio.run(go())
    assert "No errors" in run("qemu-img", "check", path)
    run("qemu-img", "convert", "-O", "raw", path, raw)
    body = raw.read_bytes()
    assert body[: 4 * MIB] == (b"trikit\n" * MIB)[: 4 * MIB]
    assert not any(body[4 * MIB :])


def test_a_disk_that_shrinks_under_its_machine(image: Image, ext4: Path) -> None:
    async def go() -> None:
        vm = machine(image, disks=[ext4])
        warnings: list[str] = []

        async def listen() -> None:
            async for event in vm.events():
                if event.kind is EventKind.WARNING:
                    warnings.append(event.detail)

        listener = asyncio.create_task(listen())
        await asyncio.sleep(0)
        async with vm:
            await prompt(vm)
            os.truncate(ext4, MIB)
            said = await command(vm, "dd if=/dev/vda of=/dev/null bs=1M skip=32 count=1")
            assert "error" in said
            assert "shorter" in warnings[0]
            assert image.release in await command(vm, "uname -r")
        await listener

    asyncio.run(go())


def test_the_same_on_qemu(image: Image, ext4: Path) -> None:
    async def go() -> None:
        options = {"engine": "qemu", "disks": [Disk(ext4, serial="trikit-2")]}
        async with Machine(image.kernel, image.initrd, **options) as vm:  # type: ignore[arg-type]
            await prompt(vm)
            assert "trikit-2" in await command(vm, "cat /sys/block/vda/serial")
            assert "lost+found" in await command(vm, f"{MOUNT}; ls /mnt; umount /mnt")
            with pytest.raises(EngineError, match="in use by another machine"):
                await machine(image, disks=[ext4]).start()
            assert (await vm.stop(30)).reason is ExitReason.POWER_OFF

    asyncio.run(go())
    run("e2fsck", "-f", "-n", ext4)
