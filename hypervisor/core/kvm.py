"""KVM behind three small classes: a virtual machine, its processors, its serial port.

vCPU threads run in C (`run.c`) and never take the GIL.  What they cannot answer themselves comes
to Python as an `Exit`: `Vm.exit_fd` becomes readable, `Vm.exits()` returns what waits, and
`Vm.answer()` lets that vCPU go on.  Nothing here needs an event loop; nothing blocks but `pause`
and `close`, for as long as the kernel takes to leave guest code: off the loop they run in a thread.

State passes as the kernel's packed structures (linux/kvm.h); sizes are checked in C.
"""

from __future__ import annotations

import enum
import errno
import mmap
import platform
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError
from ._core import ffi, lib
from .exits import Exit, ExitKind
from .kvmerror import ADVICE, KvmError, check

__all__ = [
    "KVM",
    "VCPUS_MAX",
    "Exit",
    "ExitKind",
    "KvmError",
    "State",
    "Uart",
    "Vcpu",
    "VcpuState",
    "VcpuStatistics",
    "Vm",
    "why_not",
]

KVM = "/dev/kvm"
VCPUS_MAX = 16  # HV_VCPUS_MAX
PAGE = 4096
_CPUID_MAX = 256 * 40
BUILT = hasattr(lib, "hv_vm_new")  # see build.py
UNBUILT = f"our monitor is for x86-64, and this was built without it ({platform.machine()})"


class VcpuState(enum.IntEnum):
    """What a vCPU's thread does; numbers as in `enum hv_vcpu_state`."""

    PAUSED = 0
    RUNNING = 1
    WAITING = 2  # for an answer; counts as paused too when the machine is
    ENDED = 3


class State(enum.IntEnum):
    """The parts of a vCPU's state and the kernel's structure for each (`enum hv_state`)."""

    REGS = 0  # struct kvm_regs
    SREGS = 1  # struct kvm_sregs
    FPU = 2  # struct kvm_fpu
    LAPIC = 3  # struct kvm_lapic_state
    MP_STATE = 4  # struct kvm_mp_state
    XCRS = 5  # struct kvm_xcrs
    XSAVE = 6  # struct kvm_xsave
    EVENTS = 7  # struct kvm_vcpu_events
    DEBUGREGS = 8  # struct kvm_debugregs


@dataclass(frozen=True, slots=True)
class VcpuStatistics:
    """Counters of one vCPU: exits from guest code that reached this process.

    `exits` maps KVM's exit numbers (KVM_EXIT_IO = 2, ...) to counts; `python` counts those that
    Python answered, `serial` those that the UART did, `kicks` the interruptions by signal.
    """

    exits: dict[int, int]
    python: int
    serial: int
    kicks: int


class Vcpu:
    """One virtual processor; made by `Vm.vcpu`, paused until `Vm.resume`.

    State is read and written while the machine is paused; KvmError(EBUSY) otherwise.
    """

    def __init__(self, vm: Vm, index: int) -> None:
        self._vm = vm
        self.index = index

    @property
    def state(self) -> VcpuState:
        """What its thread does now."""
        state = lib.hv_vcpu_state(self._vm.handle, self.index)
        return VcpuState(check(f"state of vCPU {self.index}", state))

    def get(self, what: State) -> bytes:
        """Return one part of the state, as the kernel's structure."""
        size = check("size of vCPU state", lib.hv_state_size(what))
        out = ffi.new("uint8_t[]", size)
        got = lib.hv_vcpu_get(self._vm.handle, self.index, what, out, size)
        check(f"read {what.name} of vCPU {self.index}", got)
        return bytes(ffi.buffer(out, size))

    def set(self, what: State, data: bytes) -> None:
        """Write one part of the state; KvmError(EINVAL) when `data` is not of its size."""
        done = lib.hv_vcpu_set(self._vm.handle, self.index, what, data, len(data))
        check(f"write {what.name} of vCPU {self.index}", done)

    def get_msrs(self, indices: list[int]) -> dict[int, int]:
        """Return the model-specific registers among `indices` that can be read."""
        entries = ffi.new("struct hv_msr[]", [(index, 0, 0) for index in indices])
        got = lib.hv_vcpu_get_msrs(self._vm.handle, self.index, entries, len(indices))
        check(f"read MSRs of vCPU {self.index}", got)
        return {entries[i].index: entries[i].data for i in range(got)}

    def set_msrs(self, values: dict[int, int]) -> None:
        """Write model-specific registers; KvmError naming the first one that was refused."""
        entries = ffi.new("struct hv_msr[]", [(index, 0, data) for index, data in values.items()])
        done = lib.hv_vcpu_set_msrs(self._vm.handle, self.index, entries, len(values))
        check(f"write MSRs of vCPU {self.index}", done)
        if done < len(values):
            refused = list(values)[done]
            raise KvmError(f"write MSR {refused:#x} of vCPU {self.index}", errno.EINVAL)

    def statistics(self) -> VcpuStatistics:
        """Return the counters; cheap, at any time."""
        counters = ffi.new("struct hv_counters *")
        check("counters", lib.hv_vcpu_counters(self._vm.handle, self.index, counters))
        exits = {number: count for number, count in enumerate(counters.exits) if count}
        return VcpuStatistics(exits, counters.python, counters.serial, counters.kicks)


class Uart:
    """The 16550 at one port range of a machine, in C; made by `Vm.uart`.

    `fd` is an eventfd, readable when output waits or when room for input came back.
    """

    def __init__(self, vm: Vm, fd: int) -> None:
        self._vm = vm
        self.fd = fd

    def read(self) -> bytes:
        """Return what the guest wrote since, at most 64 KiB; clears `fd`."""
        out = ffi.new("uint8_t[]", lib.HV_UART_RING)
        got = check("read serial port", lib.hv_uart_read(self._vm.handle, out, len(out)))
        return bytes(ffi.buffer(out, got))

    def write(self, data: bytes) -> int:
        """Give the guest input; returns how many bytes found room (a 64 KiB ring)."""
        return check("write serial port", lib.hv_uart_write(self._vm.handle, data, len(data)))

    @property
    def dropped(self) -> int:
        """Bytes lost because the guest wrote while the port said that it was full."""
        return check("serial port", lib.hv_uart_dropped(self._vm.handle))


class Vm:
    """A virtual machine with in-kernel interrupt controllers (LAPIC, IOAPIC, PIC) and PIT.

    It starts paused, without memory and processors.  UsageError says in one line why it cannot
    be made.  `close` releases threads, descriptors and mappings whatever the state.
    """

    def __init__(self, path: str = KVM, irqchip: bool = True) -> None:
        if not BUILT:
            raise UsageError(f"{UNBUILT}: choose the engine qemu")
        failure = ffi.new("struct hv_failure *")
        handle = lib.hv_vm_new(path.encode(), irqchip, failure)
        if handle == ffi.NULL:
            number, step = int(failure.error), ffi.string(failure.step).decode()
            raise KvmError(f"{path}: {step}", number, ADVICE.get(number, ""))
        self._handle: Any = handle
        self.exit_fd: int = lib.hv_vm_exit_fd(handle)
        self.vcpus: list[Vcpu] = []
        self._kept: list[Any] = []
        self._slots = 0
        self._waiting = threading.Lock()  # whoever waits for the vCPUs holds it

    def __enter__(self) -> Vm:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def handle(self) -> Any:
        """The C machine; UsageError once closed."""
        if self._handle is None:
            raise UsageError("the virtual machine is closed")
        return self._handle

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._handle is None

    # Memory

    def map(self, gpa: int, host: int, size: int, readonly: bool = False) -> int:
        """Show `size` bytes at host address `host` to the guest at `gpa`; returns the slot.

        All three are multiples of 4 KiB.  Reads of a readonly slot do not exit, writes do (MMIO).
        The memory must stay mapped until `unmap` or `close`.
        """
        slot = self.next_slot()
        done = lib.hv_vm_map(self.handle, slot, gpa, host, size, readonly)
        check(f"map {size} bytes at {gpa:#x}", done)
        return slot

    def unmap(self, slot: int) -> None:
        """Take a slot away from the guest."""
        check(f"unmap slot {slot}", lib.hv_vm_map(self.handle, slot, 0, 0, 0, False))

    def page(self, gpa: int, size: int = PAGE) -> memoryview:
        """Make memory (`keep`) that a guest reads at `gpa` without an exit; writes are MMIO exits.

        For the registers of devices, which may share one.
        """
        memory, host = self.keep(size)
        self.map(gpa, host, size, readonly=True)
        return memory

    def keep(self, size: int) -> tuple[memoryview, int]:
        """Return zeroed memory that lives as long as the machine, and its host address."""
        memory = mmap.mmap(-1, size)
        address = ffi.from_buffer("uint8_t[]", memory, require_writable=True)
        self._kept.append((address, memory))
        return memoryview(memory), int(ffi.cast("uintptr_t", address))

    def next_slot(self) -> int:
        """Return the number of a memory slot that nobody has."""
        self._slots += 1
        return self._slots - 1

    # Doorbells and interrupts

    def ioeventfd(
        self, fd: int, address: int, size: int, value: int | None = None, port: bool = False
    ) -> None:
        """Signal eventfd `fd` on guest writes to `address`, without an exit.

        Only writes of `size` bytes (1, 2, 4, 8; 0: any, without a value) and of `value`, if given.
        """
        self._ioeventfd(fd, address, size, value, port, False)

    def remove_ioeventfd(
        self, fd: int, address: int, size: int, value: int | None = None, port: bool = False
    ) -> None:
        """Undo `ioeventfd` with the same arguments."""
        self._ioeventfd(fd, address, size, value, port, True)

    def _ioeventfd(
        self, fd: int, address: int, size: int, value: int | None, port: bool, remove: bool
    ) -> None:
        match = value is not None
        done = lib.hv_vm_ioeventfd(self.handle, fd, address, size, match, value or 0, port, remove)
        check(f"ioeventfd at {address:#x}", done)

    def irqfd(self, fd: int, gsi: int) -> None:
        """Raise an edge on interrupt `gsi` whenever eventfd `fd` is written."""
        check(f"irqfd for GSI {gsi}", lib.hv_vm_irqfd(self.handle, fd, gsi, False))

    def remove_irqfd(self, fd: int, gsi: int) -> None:
        """Undo `irqfd`."""
        check(f"irqfd for GSI {gsi}", lib.hv_vm_irqfd(self.handle, fd, gsi, True))

    def irq_line(self, gsi: int, level: bool) -> None:
        """Set the level of interrupt line `gsi`."""
        check(f"interrupt line {gsi}", lib.hv_vm_irq_line(self.handle, gsi, level))

    def signal_msi(self, address: int, data: int) -> None:
        """Deliver a message-signalled interrupt."""
        check("MSI", lib.hv_vm_signal_msi(self.handle, address, data))

    # Processors

    def supported_cpuid(self) -> bytes:
        """Return what KVM can offer here: packed `struct kvm_cpuid_entry2`, 40 bytes each."""
        out = ffi.new("uint8_t[]", _CPUID_MAX)
        size = check("supported CPUID", lib.hv_vm_cpuid(self.handle, out, len(out)))
        return bytes(ffi.buffer(out, size))

    def vcpu(self, cpuid: bytes = b"") -> Vcpu:
        """Add a processor; its index (and APIC id) is the count so far.  `cpuid` as above."""
        index = len(self.vcpus)
        done = lib.hv_vcpu_new(self.handle, index, cpuid, len(cpuid))
        check(f"vCPU {index}", done)
        self.vcpus.append(Vcpu(self, index))
        return self.vcpus[-1]

    def resume(self) -> None:
        """Let all processors run, at first and after `pause`.

        The guest's watchdogs are told of the pause (KVM_KVMCLOCK_CTRL).
        """
        with self._waiting:
            check("resume", lib.hv_vm_resume(self.handle))

    def pause(self) -> None:
        """Stop all processors; on return none is in guest code, and their state is whole.

        An exit that waits for its answer stays so, and may be answered meanwhile.  May be called
        in any thread.  KvmError(ETIMEDOUT) after 10 seconds in which the kernel did not stop one.
        """
        with self._waiting:
            check("pause", lib.hv_vm_pause(self.handle))

    def stop(self) -> None:
        """Tell all processors to end for good; returns at once, `close` waits for them.

        Answers are dropped from here on.
        """
        check("stop", lib.hv_vm_stop(self.handle))

    # Exits

    def exits(self) -> list[Exit]:
        """Return the exits that came since, in no order between vCPUs; clears `exit_fd`."""
        out = ffi.new("struct hv_exit[]", VCPUS_MAX)
        count = check("exits", lib.hv_vm_exits(self.handle, out, VCPUS_MAX))
        return [
            Exit(e.vcpu, ExitKind(e.kind), e.addr, e.size, bool(e.write), e.data)
            for e in out[0:count]
        ]

    def answer(self, exit: Exit, value: int = 0) -> None:
        """Let the vCPU of an IO or MMIO exit go on; a read gets `value`, cut to its size."""
        done = lib.hv_vm_answer(self.handle, exit.vcpu, value & 0xFFFFFFFFFFFFFFFF)
        check(f"answer to vCPU {exit.vcpu}", done)

    # Time and the serial port

    @property
    def clock(self) -> int:
        """The guest's kvmclock in nanoseconds; it runs on while the machine is paused."""
        out = ffi.new("uint64_t *")
        check("read clock", lib.hv_vm_clock(self.handle, out, False))
        return int(out[0])

    @clock.setter
    def clock(self, value: int) -> None:
        check("set clock", lib.hv_vm_clock(self.handle, ffi.new("uint64_t *", value), True))

    def uart(self, port: int = 0x3F8, gsi: int = 4) -> Uart:
        """Put a 16550 at `port`..`port + 7` with interrupt `gsi`; one a machine."""
        fd = check(f"serial port at {port:#x}", lib.hv_uart_new(self.handle, port, gsi))
        return Uart(self, fd)

    def close(self) -> None:
        """End all threads and release everything; calling it again does nothing.

        The kernel takes 10 to 100 ms for it: a loop that others wait for calls `release`.
        """
        self.release()()

    def release(self) -> Callable[[], None]:
        """Close the machine to all callers at once; what is returned does the rest, in any thread.

        It raises KvmError(ETIMEDOUT) when the kernel does not let go of a processor in 10 seconds;
        the machine then stays until the process ends.
        """
        handle, self._handle = self._handle, None

        def free() -> None:
            if handle is not None:
                with self._waiting:
                    check("close the virtual machine", lib.hv_vm_free(handle))
                self._kept.clear()

        if handle is not None:
            lib.hv_vm_stop(handle)
        return free


def why_not(path: str = KVM) -> str | None:
    """Say in one line why no machine can be made here; None when one can."""
    try:
        Vm(path).close()
    except UsageError as error:
        return str(error)
    return None
