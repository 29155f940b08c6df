"""What a machine has cost and moved so far: frozen snapshots, the same for every engine.

What an engine cannot see stays empty: QEMU's exits and queues are in another process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..core import kvm

# KVM_EXIT_* (linux/kvm.h); those that a guest of ours can cause
_EXITS = {
    1: "exception",
    2: "io",
    5: "hlt",
    6: "mmio",
    7: "irq window open",
    8: "shutdown",
    9: "fail entry",
    10: "intr",
    17: "internal error",
    24: "system event",
    26: "ioapic eoi",
}


@dataclass(frozen=True, slots=True)
class Boot:
    """When what was reached: `started` in seconds since 1970, the rest in seconds after it.

    0.0 is what did not happen yet, or what the engine does not tell.
    """

    started: float = 0.0
    wired: float = 0.0  # memory, doorbells and interrupts are there
    loaded: float = 0.0  # kernel and initrd are in the guest's memory
    first_instruction: float = 0.0
    first_output: float = 0.0  # on the serial console


@dataclass(frozen=True, slots=True)
class QueueStatistics:
    """Counters of one virtqueue since the machine started, resets included."""

    kicks: int = 0  # doorbells that were answered: several that came together are one
    chains: int = 0  # requests or frames taken
    octets: int = 0  # in them: what the driver wrote, and what we did
    calls: int = 0  # interrupts

    def __add__(self, other: QueueStatistics) -> QueueStatistics:
        return QueueStatistics(
            self.kicks + other.kicks,
            self.chains + other.chains,
            self.octets + other.octets,
            self.calls + other.calls,
        )


@dataclass(frozen=True, slots=True)
class DeviceStatistics:
    """Counters of one virtio device."""

    name: str  # its class, in lower case
    device_id: int  # virtio 1.2, chapter 5
    exits: int = 0  # writes to its registers
    resets: int = 0
    failures: int = 0  # DEVICE_NEEDS_RESET: its driver broke a rule
    queues: tuple[QueueStatistics, ...] = ()


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a machine has cost so far; after its end, what it had cost then."""

    boot: Boot = field(default_factory=Boot)
    vcpus: tuple[kvm.VcpuStatistics, ...] = ()
    devices: tuple[DeviceStatistics, ...] = ()  # in the order of their pages

    @property
    def exits(self) -> Mapping[str, int]:
        """Exits from guest code that reached this process, by reason."""
        counts: dict[str, int] = {}
        for vcpu in self.vcpus:
            for number, count in vcpu.exits.items():
                name = _EXITS.get(number, f"exit {number}")
                counts[name] = counts.get(name, 0) + count
        return counts

    @property
    def user_exits(self) -> int:
        """Exits that Python answered; the serial port's are answered in C."""
        return sum(vcpu.python for vcpu in self.vcpus)

    @property
    def serial_exits(self) -> int:
        """Exits that the serial port answered."""
        return sum(vcpu.serial for vcpu in self.vcpus)
