"""Which engine runs machines on this host, and why."""

from __future__ import annotations

from . import host


def choose() -> str:
    """Return "kvm" where KVM runs unmodified kernels, "qemu" elsewhere."""
    return "kvm" if host.kvm().good else "qemu"


def explain() -> host.Fact:
    """Return the choice as one of `doctor`'s facts; good when that engine can run here."""
    fact = host.kvm()
    if fact.good:
        return host.Fact("engine", True, "kvm: our own monitor, in process")
    qemu = host.program(host.QEMU, "qemu-system-x86")
    return host.Fact("engine", qemu.good, f"qemu, as {fact.found}", qemu.advice or fact.advice)
