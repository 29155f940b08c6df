"""What cannot run: one line that says what to do, and nothing of a machine left.

That nothing is left is checked after each test, see leaks.py.
"""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from guest_images import bz_image, newc, vmlinux

from hypervisor import EngineError, ExitReason, Machine, UsageError
from hypervisor.aio.console import Console
from hypervisor.core.kvm import why_not
from hypervisor.engine import check
from hypervisor.engine.base import Config
from hypervisor.engine.host import QEMU
from hypervisor.engine.kvm import KvmEngine

REASON = why_not()
needs_kvm = pytest.mark.skipif(REASON is not None, reason=f"no KVM machine here: {REASON}")
NOBODY = 65534
GOOD = vmlinux(b"\xeb\xfe")
KERNELS = {
    "a script": (b"#!/bin/sh\necho I am no kernel\n", "it begins with 23212f62"),
    "zeros": (bytes(4096), "not a kernel"),
    "an empty file": (b"", "it is empty"),
    "half a magic": (b"\x7fEL", "not a kernel"),
    "gzip": (b"\x1f\x8b\x08" + bytes(999), "gunzip"),
    "arm64": (bytes(56) + b"ARMd" + bytes(999), "kernel for arm64: take one for x86-64"),
    "ELF for arm64": (vmlinux(machine=183), "arm64: expected a bzImage or an ELF vmlinux for x86-"),
    "32-bit ELF": (b"\x7fELF\x01\x01\x01".ljust(18, b"\0") + b"\x03\0" + bytes(99), "32-bit x86"),
    "32-bit bzImage": (bz_image(xloadflags=0), "take a kernel for x86-64"),
    "a truncated bzImage": (bz_image()[:3000], "copy it again"),
    "a truncated ELF": (vmlinux(bytes(5000))[:1000], "copy it again"),
    "too large a kernel": (vmlinux(memsz=64 << 20), "give the machine more memory"),
}
INITRDS = {
    "an empty one": (b"", "the initrd is empty"),
    "a truncated one": (newc("a", "b", "c")[:-300], "copy it again"),
    "too large a one": (newc("a") + bytes(32 << 20), "give the machine more memory"),
}


@pytest.fixture(params=["kvm", "qemu"])
def engine(request: pytest.FixtureRequest) -> str:
    """The engine's name, where it can run."""
    if request.param == "kvm" and REASON is not None:
        pytest.skip(f"no KVM machine here: {REASON}")
    if request.param == "qemu" and shutil.which(QEMU) is None:
        pytest.skip("QEMU is not installed")
    return str(request.param)


@pytest.fixture
def file(tmp_path: Path) -> Callable[[bytes], Path]:
    """Make a file."""

    def make(data: bytes) -> Path:
        path = tmp_path / f"file{len(list(tmp_path.iterdir()))}"
        path.write_bytes(data)
        return path

    return make


async def refused(vm: Machine, message: str) -> None:
    """Start `vm`, which must say `message` in one line, and be over and done with."""
    with pytest.raises(EngineError) as caught:
        await vm.start()
    said = str(caught.value)
    assert message in said
    assert "\n" not in said
    end = await vm.wait()
    assert (end.reason, end.message) == (ExitReason.FAILED, said)
    assert vm.console.closed
    assert await vm.kill() == end


@pytest.mark.parametrize("what", KERNELS)
async def test_a_kernel_that_is_none(engine: str, file: Callable[[bytes], Path], what: str) -> None:
    data, message = KERNELS[what]
    await refused(Machine(file(data), engine=engine, memory="32M"), message)


@pytest.mark.parametrize("what", INITRDS)
async def test_an_initrd_that_is_none(
    engine: str, file: Callable[[bytes], Path], what: str
) -> None:
    data, message = INITRDS[what]
    await refused(Machine(file(GOOD), file(data), engine=engine, memory="32M"), message)


@pytest.mark.parametrize("memory", ["8T", "900T"])
async def test_more_memory_than_there_is(
    engine: str, file: Callable[[bytes], Path], memory: str
) -> None:
    await refused(Machine(file(GOOD), engine=engine, memory=memory), "ask for less")


@pytest.mark.parametrize("text", ["", "MemTotal: many kB\n", "MemTotal: 1 kB\n"])
def test_a_host_that_does_not_say_what_it_has(file: Callable[[bytes], Path], text: str) -> None:
    config = Config("vm", file(GOOD), None, "", 1 << 50, 1)
    check.check(config, file(text.encode()))


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(UsageError, match="not a regular file"):
            Machine(path)


async def test_a_kernel_that_vanished(engine: str, file: Callable[[bytes], Path]) -> None:
    path = file(GOOD)
    vm = Machine(path, engine=engine, memory="32M")
    path.unlink()
    await refused(vm, f"{path}: No such file or directory")


@needs_kvm
@pytest.mark.parametrize(
    ("device", "advice"),
    [
        ("absent", "modprobe"),
        ("/dev/null", "this is not KVM's device"),
        ("/dev", "this is not KVM's device"),
    ],
)
async def test_a_device_that_is_not_kvms(
    file: Callable[[bytes], Path], device: str, advice: str
) -> None:
    engine = KvmEngine(device=device)
    console = Console()
    config = Machine(file(GOOD), memory="32M").config
    with pytest.raises(EngineError, match=advice) as caught:
        await engine.start(config, console, lambda kind, detail: None)
    assert str(caught.value).startswith(f"{device}: ")
    assert console.closed


@needs_kvm
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_no_permission() -> None:
    """Another user's process, whose one line names the group; any program is kernel enough."""
    kernel = Path(sys.executable).resolve()
    script = "import sys, asyncio; sys.path[:0] = sys.argv[2:]\n" + (
        "from hypervisor import Machine, EngineError\n"
        "async def main():\n"
        "    try:\n"
        "        await Machine(sys.argv[1], memory='32M', engine='kvm').start()\n"
        "    except EngineError as error:\n"
        "        print(error)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, kernel, *sys.path],
        user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, text=True, check=False,
        cwd="/", env={"PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout == (
        "/dev/kvm: open the KVM device: Permission denied:"
        " join the group kvm: usermod -aG kvm $USER\n"
    )


@pytest.fixture
def limit() -> Iterator[Callable[[int], None]]:
    """Set how many descriptors this process may have beside those that it has."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def set_limit(more: int) -> None:
        taken = {int(number) for number in os.listdir("/proc/self/fd")}
        free = [number for number in range(1000) if number not in taken]
        resource.setrlimit(resource.RLIMIT_NOFILE, (free[more], before[1]))

    yield set_limit
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@needs_kvm
async def test_no_descriptor_left_at_any_moment_of_a_start(
    file: Callable[[bytes], Path], limit: Callable[[int], None]
) -> None:
    """One more each time, until a machine runs: each failure is one line, and leaves nothing."""
    path = file(GOOD)
    said: list[str] = []
    for more, vm in enumerate([Machine(path, memory="32M", engine="kvm") for _ in range(100)]):
        limit(more)
        try:
            await vm.start()
        except EngineError as error:
            said.append(str(error))
        if (await vm.kill()).reason is ExitReason.KILLED:
            break
    assert len(said) > 10
    assert not [line for line in said if "\n" in line or "ulimit -n" not in line]


@needs_kvm
async def test_a_start_that_is_cancelled(file: Callable[[bytes], Path]) -> None:
    vm = Machine(file(GOOD), memory="32M", engine="kvm")
    task = asyncio.create_task(vm.start())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert (await vm.kill()).reason in {ExitReason.FAILED, ExitReason.KILLED}
