"""Errors of KVM and of a machine on it, with what to do about them."""

from __future__ import annotations

import errno
import os

from ..errors import UsageError

# What to do when no machine can be made.
ADVICE = {
    errno.ENOENT: "run modprobe kvm_intel or modprobe kvm_amd",
    errno.ENXIO: "run modprobe kvm_intel or modprobe kvm_amd",
    errno.EACCES: "join the group kvm: usermod -aG kvm $USER",
    errno.EPERM: "join the group kvm: usermod -aG kvm $USER",
    errno.ENOTTY: "this is not KVM's device",
    errno.EISDIR: "this is not KVM's device",
    errno.EPROTO: "use a newer kernel",
    errno.EOPNOTSUPP: "use a newer kernel",
    errno.EBUSY: "another hypervisor holds the processor: stop it",
    errno.EMFILE: "raise the limit (ulimit -n), or run fewer machines",
}


class KvmError(UsageError):
    """The kernel refused `operation`; `errno` says why, `advice` what to do."""

    def __init__(self, operation: str, number: int, advice: str = "") -> None:
        what = f"{operation}: {os.strerror(number)}"
        super().__init__(f"{what}: {advice}" if advice else what)
        self.operation = operation
        self.errno = number


def check(operation: str, result: int) -> int:
    """Return what a call of the core gave, or raise what it failed with."""
    if result < 0:
        raise KvmError(operation, -result)
    return result
