"""What a vCPU of `core.kvm` came out of the guest for."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class ExitKind(enum.IntEnum):
    """Why a vCPU stands still; numbers as in `enum hv_exit_kind` (core/kvm.h)."""

    IO = 1  # waits for an answer
    MMIO = 2  # waits for an answer
    HLT = 3  # without an interrupt controller only; this and the rest end the vCPU
    SHUTDOWN = 4  # triple fault
    FAIL_ENTRY = 5
    INTERNAL_ERROR = 6
    SYSTEM_EVENT = 7
    UNKNOWN = 8  # an exit that nothing here asks for
    ERROR = 9  # KVM_RUN itself failed

    @property
    def final(self) -> bool:
        """True when the vCPU has ended and takes no answer."""
        return self > ExitKind.MMIO


@dataclass(frozen=True, slots=True)
class Exit:
    """An access of vCPU `vcpu` to a port (IO) or to guest physical memory (MMIO), or its end.

    `value` is what the guest wrote, little endian in `size` bytes (1, 2, 4; MMIO up to 8).
    String instructions come as one exit an element.  On a final exit `address` is the detail:
    the hardware's reason, KVM's suberror, the event's type, the exit's number or the errno.
    """

    vcpu: int
    kind: ExitKind
    address: int
    size: int
    write: bool
    value: int

    def __str__(self) -> str:
        if self.kind.final:
            return f"vcpu {self.vcpu} {self.kind.name} {self.address:#x}"
        verb = f"write {self.value:#x}" if self.write else "read"
        return f"vcpu {self.vcpu} {self.kind.name} {self.address:#x}/{self.size} {verb}"
