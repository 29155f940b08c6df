"""Memory, doorbells and interrupts of a machine, asked of the kernel in one call that blocks.

Each memory slot waits for a grace period of the kernel's, on older kernels each doorbell too:
milliseconds altogether, without the GIL and without coming back for it in between.
"""

from __future__ import annotations

from ._core import ffi, lib
from .kvm import KvmError, Vm


class Wiring:
    """A list of what `vm` is to have; `connect` asks for it, once, in any thread."""

    def __init__(self, vm: Vm) -> None:
        self._vm = vm
        self._slots: list[tuple[int, bool, int, int, int]] = []
        self._doorbells: list[tuple[int, int, int, int]] = []
        self._lines: list[tuple[int, int]] = []

    def map(self, gpa: int, host: int, size: int, readonly: bool = False) -> None:
        """Show memory to the guest, as `Vm.map` does."""
        self._slots.append((self._vm.next_slot(), readonly, gpa, host, size))

    def page(self, gpa: int, size: int) -> memoryview:
        """Make memory that the guest only reads, as `Vm.page` does."""
        memory, host = self._vm.keep(size)
        self.map(gpa, host, size, readonly=True)
        return memory

    def ioeventfd(self, fd: int, address: int, size: int, value: int) -> None:
        """Signal `fd` when the guest writes `value`, `size` bytes, to `address`."""
        self._doorbells.append((fd, size, address, value))

    def irqfd(self, fd: int, gsi: int) -> None:
        """Raise an edge on interrupt `gsi` whenever `fd` is written."""
        self._lines.append((fd, gsi))

    def connect(self) -> None:
        """Ask the kernel for all of it; raises `KvmError`."""
        slots = ffi.new("struct hv_slot[]", self._slots)
        doorbells = ffi.new("struct hv_doorbell[]", self._doorbells)
        lines = ffi.new("struct hv_line[]", self._lines)
        done = lib.hv_vm_wire(
            self._vm.handle, slots, len(slots), doorbells, len(doorbells), lines, len(lines)
        )
        if done < 0:
            raise KvmError("memory, doorbells and interrupts", -done)
