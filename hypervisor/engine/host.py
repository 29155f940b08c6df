"""What this host can do for machines, and why not: the facts that choose an engine."""

from __future__ import annotations

import fcntl
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..core.kvm import ADVICE, BUILT, UNBUILT

_KVM_GET_API_VERSION = 0xAE00
_KVM_CREATE_VM = 0xAE01
_KVM_API_VERSION = 12
QEMU = "qemu-system-x86_64"


@dataclass(frozen=True, slots=True)
class Fact:
    """One ability: whether it is there, what was found, and what to do if it is missing."""

    name: str
    good: bool
    found: str
    advice: str = ""


def kvm(device: Path = Path("/dev/kvm"), cpuinfo: Path = Path("/proc/cpuinfo")) -> Fact:
    """Tell whether KVM runs unmodified kernels here: processor, permission, and a trial machine."""
    if not BUILT:
        return Fact("kvm", False, UNBUILT, "emulation is used instead")
    if not (_flags(cpuinfo) & {"svm", "vmx"}):
        return Fact("kvm", False, "the CPU shows neither svm nor vmx", "emulation is used instead")
    try:
        handle = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        advice = ADVICE.get(error.errno or 0, "see dmesg")
        return Fact("kvm", False, f"{device}: {error.strerror}", advice)
    try:
        return _try_kvm(handle)
    finally:
        os.close(handle)


def _try_kvm(handle: int) -> Fact:
    try:
        version = fcntl.ioctl(handle, _KVM_GET_API_VERSION)
        if version != _KVM_API_VERSION:
            found = f"API version {version}, expected {_KVM_API_VERSION}"
            return Fact("kvm", False, found, "use a newer kernel")
        os.close(fcntl.ioctl(handle, _KVM_CREATE_VM))
    except OSError as error:
        return Fact("kvm", False, f"making a machine failed: {error.strerror}", "see dmesg")
    return Fact("kvm", True, "makes machines")


def _flags(cpuinfo: Path) -> set[str]:
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").split())


def program(name: str, package: str) -> Fact:
    """Tell whether a program is installed."""
    path = shutil.which(name)
    if path is None:
        return Fact(name, False, "not installed", f"run apt-get install {package}")
    return Fact(name, True, path)


def survey() -> list[Fact]:
    """Return every fact that matters, the most important first."""
    return [
        kvm(),
        program(QEMU, "qemu-system-x86"),
        program("setpriv", "util-linux"),
        program("apt-get", "apt"),
        program("dpkg-deb", "dpkg"),
        _lists(),
    ]


def _lists() -> Fact:
    if any(Path("/var/lib/apt/lists").glob("*Packages*")):
        return Fact("package lists", True, "/var/lib/apt/lists")
    return Fact("package lists", False, "none", "run apt-get update")
