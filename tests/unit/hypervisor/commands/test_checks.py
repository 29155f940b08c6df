"""What is refused before a machine is made, in one line that says what to do."""

import gzip
import lzma
import os
import struct
from pathlib import Path

import pytest

from hypervisor.commands import checks
from hypervisor.commands.pidfile import pidfile
from hypervisor.errors import UsageError

MEMINFO = "MemTotal:       4194304 kB\nMemFree: 1 kB\nMemAvailable:   2097152 kB\n"


def test_memory_that_is_available() -> None:
    assert checks.memory(1 << 30, MEMINFO) == ""


def test_memory_beyond_what_is_available_warns() -> None:
    assert "3072M of memory asked, 2048M are available" in checks.memory(3 << 30, MEMINFO)


def test_memory_beyond_the_hosts_is_refused() -> None:
    with pytest.raises(UsageError, match=r"5120M of memory asked, the host has 4096M: .* -m"):
        checks.memory(5 << 30, MEMINFO)


def test_memory_of_an_unknown_host() -> None:
    assert checks.memory(1 << 50, "") == ""


def test_kernels(tmp_path: Path) -> None:
    elf = tmp_path / "vmlinux"
    elf.write_bytes(b"\x7fELF" + bytes(100))
    checks.kernel(elf)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(UsageError, match=r"text is not a kernel: expected a bzImage"):
        checks.kernel(tmp_path / "text")
    with pytest.raises(UsageError, match=r"cannot read the kernel .*none: No such file"):
        checks.kernel(tmp_path / "none")


DRIVER = b"....\0virtio-mmio\0...."
CMDLINE = DRIVER + b"virtio-mmio-cmdline\0"
ELF = b"\x7fELF" + bytes(100)


@pytest.mark.parametrize(
    ("kernel", "initrd", "warns"),
    [
        (ELF, DRIVER, True),  # a module, as Debian's
        (ELF, gzip.compress(DRIVER, mtime=0), True),
        (ELF + DRIVER, None, True),  # part of the kernel
        (ELF, CMDLINE, False),
        (ELF, gzip.compress(CMDLINE, mtime=0), False),
        (ELF + CMDLINE, None, False),
        (ELF, b"\x28\xb5\x2f\xfd", False),  # zstd: nobody knows
        (ELF, gzip.compress(DRIVER, mtime=0)[:-12], False),  # cut short
        (ELF, None, False),
    ],
)
def test_devices_without_acpi(
    tmp_path: Path, kernel: bytes, initrd: bytes | None, warns: bool
) -> None:
    (tmp_path / "kernel").write_bytes(kernel)
    if initrd is not None:
        (tmp_path / "initrd").write_bytes(initrd)
    path = tmp_path / "initrd" if initrd is not None else None
    warning = checks.without_acpi(tmp_path / "kernel", path)
    assert ("has no CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES" in warning) is warns
    assert "\n" not in warning


def test_devices_without_acpi_of_a_bzimage(tmp_path: Path) -> None:
    payload = lzma.compress(ELF + DRIVER) + bytes(4)
    image = bytearray(1024)
    image[0x1F1] = 1  # sectors of setup code
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, 0x20C)
    struct.pack_into("<II", image, 0x248, 0, len(payload))
    (tmp_path / "kernel").write_bytes(bytes(image) + payload)
    assert "no devices" in checks.without_acpi(tmp_path / "kernel", None)


def test_kvm_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path / "kvm"
    with pytest.raises(UsageError, match=r"no .*kvm: run modprobe"):
        checks.engine("kvm", device)
    device.touch()
    checks.engine("kvm", device)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UsageError, match=r"no permission for .*usermod -aG kvm \$USER.*--engine"):
        checks.engine("kvm", device)
    checks.engine("qemu", device)


def test_pidfile_is_the_number_alone_and_goes(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with pidfile(path):
        assert path.read_bytes() == str(os.getpid()).encode()
        with pytest.raises(UsageError, match=f"exists: process {os.getpid()} runs"), pidfile(path):
            pass
    assert not path.exists()


def test_pidfile_that_a_killed_process_left(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_text("4194305")  # beyond the largest there can be
    with pytest.raises(UsageError, match="its process is gone, remove it"), pidfile(path):
        pass
    assert path.exists()


def test_pidfile_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot make"), pidfile(tmp_path / "no" / "pid"):
        pass


def test_no_pidfile() -> None:
    with pidfile(None):
        pass
