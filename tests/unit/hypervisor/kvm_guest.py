"""Tiny guests for the host's own KVM: code at 0x1000, in real mode or in long mode."""

from __future__ import annotations

import select
import struct
from types import TracebackType

from hypervisor.core.kvm import Exit, ExitKind, State, Vcpu, Vm
from hypervisor.core.ram import GuestRam

CODE = 0x1000
RAM = 0x80000
DEADLINE = 20_000  # ms; only a test that fails comes near it
HLT = b"\xf4"
STAY = b"\xeb\xfe"  # jmp $
REGISTERS = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp")


class Guest:
    """A machine of one processor with `code`; paused until `vm.resume()`."""

    def __init__(self, code: bytes, long: bool = False, irqchip: bool = True) -> None:
        self.ram = GuestRam([(0, RAM)])
        self.vm = Vm(irqchip=irqchip)
        self.vm.map(0, self.ram.host(0), RAM)
        self.ram.write(CODE, code)
        self.vcpu = self.vm.vcpu(self.vm.supported_cpuid())
        enter(self.vcpu)
        if long:
            enter_long(self.vcpu, self.ram)

    def __enter__(self) -> Guest:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the machine, then its memory."""
        self.vm.close()
        self.ram.close()

    def exit(self) -> Exit:
        """Wait for the one next exit."""
        while True:
            wait_readable(self.vm.exit_fd)  # it may tell again what was taken already
            found = self.vm.exits()
            assert len(found) <= 1, found
            if found:
                return found[0]

    def answer(self, port: int, value: int) -> None:
        """Answer the next exit, which must read `port`."""
        found = self.exit()
        assert (found.kind, found.address, found.write) == (ExitKind.IO, port, False), str(found)
        self.vm.answer(found, value)

    def expect(self, port: int) -> int:
        """Return what the next exit, which must write to `port`, wrote; the guest goes on."""
        found = self.exit()
        assert (found.kind, found.address, found.write) == (ExitKind.IO, port, True), str(found)
        self.vm.answer(found)
        return found.value


def wait_readable(fd: int) -> None:
    """Block until `fd` is readable."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(DEADLINE), "nothing came"


def enter(vcpu: Vcpu, rip: int = CODE) -> None:
    """Put a processor into real mode at 0:`rip`, interrupts off."""
    sregs = bytearray(vcpu.get(State.SREGS))
    struct.pack_into("<Q", sregs, 0, 0)  # cs.base
    struct.pack_into("<H", sregs, 12, 0)  # cs.selector
    vcpu.set(State.SREGS, bytes(sregs))
    vcpu.set(State.REGS, regs(rip=rip, rsp=0x800))


def regs(rip: int, **values: int) -> bytes:
    """Pack struct kvm_regs."""
    general = [values.get(name, 0) for name in REGISTERS]
    return struct.pack("<18Q", *general, *[0] * 8, rip, 2)


def register(vcpu: Vcpu, name: str) -> int:
    """Return one general register, or rip."""
    at = 16 if name == "rip" else REGISTERS.index(name)
    return int(struct.unpack_from("<Q", vcpu.get(State.REGS), 8 * at)[0])


def enter_long(vcpu: Vcpu, ram: GuestRam) -> None:
    """Switch to 64-bit mode with 0-1 GiB and 3-4 GiB mapped by 2 MiB pages."""
    for gpa, entries in ((0x9000, {0: 0xA003}), (0xA000, {0: 0xB003, 3: 0xC003})):
        for index, entry in entries.items():
            ram.write(gpa + 8 * index, struct.pack("<Q", entry))
    for gpa, base in ((0xB000, 0), (0xC000, 0xC0000000)):
        ram.write(gpa, struct.pack("<512Q", *(base + (n << 21) | 0x83 for n in range(512))))
    sregs = bytearray(vcpu.get(State.SREGS))
    code = struct.pack("<QIH10B", 0, 0xFFFFFFFF, 8, 11, 1, 0, 0, 1, 1, 1, 0, 0, 0)
    data = struct.pack("<QIH10B", 0, 0xFFFFFFFF, 16, 3, 1, 0, 1, 1, 0, 1, 0, 0, 0)
    sregs[: 6 * 24] = code + data * 5
    struct.pack_into("<Q", sregs, 224, 0x80000011)  # cr0: PG, ET, PE
    struct.pack_into("<Q", sregs, 240, 0x9000)  # cr3
    struct.pack_into("<Q", sregs, 248, 0x20)  # cr4: PAE
    struct.pack_into("<Q", sregs, 264, 0x500)  # efer: LME, LMA
    vcpu.set(State.SREGS, bytes(sregs))


def pic(unmasked: int, handler: int, base: int = 8) -> bytes:
    """Code that sets up the interrupt controller for one line, with its handler at 0:`handler`."""
    vector = 4 * (base + unmasked)
    writes = [(0x20, 0x11), (0x21, base), (0x21, 4), (0x21, 1), (0x21, 0xFF & ~(1 << unmasked))]
    code = b"".join(bytes((0xB0, value, 0xE6, port)) for port, value in writes)
    code += b"\xc7\x06" + struct.pack("<HH", vector, handler)  # mov word [vector], handler
    return code + b"\xc7\x06" + struct.pack("<HH", vector + 2, 0)


# Handler: bx as the value at port 0x99, end of interrupt, return.
TELL = b"\x89\xd8\xe7\x99\xb0\x20\xe6\x20\xcf"
# Interrupts on, tell at port 0x98 that it is ready, then sleep for ever.
SLEEP = b"\xfb\xe6\x98\xf4\xeb\xfd"


class Ports(Guest):
    """A guest that accesses the ports that it is told to."""

    CODE = bytes.fromhex("ba8000 ed 89c3 ed 89da 84e4 7403 ee ebf0 ec ba8200 ee ebe9")

    def __init__(self) -> None:
        super().__init__(self.CODE)

    def write(self, port: int, value: int) -> None:
        """Let the guest write one byte; returns once it may be under way."""
        self.answer(0x80, port)
        self.answer(0x80, 0x100 | value)

    def read(self, port: int) -> int:
        """Let the guest read one byte."""
        self.answer(0x80, port)
        self.answer(0x80, 0)
        return self.expect(0x82)
