"""Machines of a few instructions, started, paused, answered, stopped and closed in random order.

    python tests/unit/hypervisor/kvm_soak.py [TURNS [SEED]]

Every choice comes from the seed, and time is counted in exits of the guests.  A turn that hangs
prints the stacks of all threads and ends the process; what a turn leaves behind fails it.
"""

from __future__ import annotations

import faulthandler
import os
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[3])]

from kvm_guest import STAY, Guest, enter  # noqa: E402
from leaks import settles  # noqa: E402

from hypervisor.core.kvm import Exit, State, VcpuState  # noqa: E402

HANG = 60  # seconds that one turn may take on a busy machine
ACTS = 40  # at most, a turn
LOOPS = {
    "serial": bytes.fromhex("baff03 ee ebfd"),  # out 0x3ff, al for ever: exits that C answers
    "ports": bytes.fromhex("e410 43 89d8 e712 ebf7"),  # in 0x10; inc bx; out 0x12, bx
    "both": bytes.fromhex("baff03 ee ee ee e410 e612 ebf7"),
    "strings": bytes.fromhex("be0020 b90700 ba3000 fc f36e ebf4"),  # rep outsb to 0x30
    "memory": bytes.fromhex("b800a0 8ed8 a11000 40 a32000 ebf7"),  # word [a000:10] to [a000:20]
    "busy": STAY,
    "asleep": bytes.fromhex("f4 ebfd"),
    "fault": bytes.fromhex("0f011e0020 cc"),  # no interrupt table: a triple fault
}


class Turn:
    """One machine and what is done to it."""

    def __init__(self, rng: random.Random, pool: ThreadPoolExecutor) -> None:
        self._rng = rng
        self._pool = pool
        self.guest = Guest(LOOPS[rng.choice(list(LOOPS))])
        self.uart = self.guest.vm.uart()
        self._open: list[Exit] = []
        self._paused = True
        for _ in range(rng.choice((0, 0, 1, 3))):
            vcpu = self.guest.vm.vcpu(self.guest.vm.supported_cpuid())
            enter(vcpu)
            vcpu.set(State.MP_STATE, bytes(4))  # runnable

    def run(self) -> None:
        """Do a random number of random things, then close."""
        acts = (self.pause, self.pause_in_a_thread, self.resume, self.take, self.answer)
        weights = (3, 1, 4, 6, 6)
        for act in self._rng.choices((*acts, self.look, self.feed), (*weights, 2, 2), k=self._many):
            act()
        self.end()

    @property
    def _many(self) -> int:
        return self._rng.randrange(ACTS)

    def pause(self) -> None:
        """Pause: on return no processor is in the guest."""
        self.guest.vm.pause()
        self._paused = True
        states = [vcpu.state for vcpu in self.guest.vm.vcpus]
        assert VcpuState.RUNNING not in states, states

    def pause_in_a_thread(self) -> None:
        """Pause while exits are taken and answered here."""
        done = self._pool.submit(self.guest.vm.pause)
        self.take()
        self.answer()
        assert done.result(HANG) is None
        self.pause()  # what was answered meanwhile is complete

    def resume(self) -> None:
        """Resume, and let some exits pass."""
        self.guest.vm.resume()
        self._paused = False
        goal = self._exits() + self._rng.randrange(20)
        for _ in range(self._rng.randrange(200)):
            if self._exits() >= goal:
                break

    def _exits(self) -> int:
        return sum(sum(vcpu.statistics().exits.values()) for vcpu in self.guest.vm.vcpus)

    def take(self) -> None:
        """Take what exits there are."""
        self._open += (found for found in self.guest.vm.exits() if not found.kind.final)

    def answer(self) -> None:
        """Answer some of them, in any order."""
        self._rng.shuffle(self._open)
        for _ in range(self._rng.randrange(len(self._open) + 1)):
            self.guest.vm.answer(self._open.pop(), self._rng.getrandbits(32))

    def look(self) -> None:
        """Read the registers of a paused machine."""
        if self._paused:
            for vcpu in self.guest.vm.vcpus:
                vcpu.get(State.REGS)

    def feed(self) -> None:
        """Use the serial port."""
        self.uart.write(self._rng.randbytes(40))
        self.uart.read()

    def end(self) -> None:
        """Close in one of the ways there are, maybe with a pause under way."""
        vm = self.guest.vm
        if self._rng.random() < 0.3:
            vm.stop()
        pausing = self._pool.submit(vm.pause) if self._rng.random() < 0.3 else None
        if self._rng.random() < 0.5:
            self._pool.submit(vm.release()).result(HANG)
        else:
            vm.close()
        if pausing is not None:
            pausing.exception(HANG)
        self.guest.close()


def held() -> tuple[int, int]:
    """Count what this process holds: descriptors, and mappings of guests and vCPUs."""
    maps = Path("/proc/self/maps").read_text()
    return len(os.listdir("/proc/self/fd")), maps.count("kvm") + maps.count("memfd:guest")


def soak(turns: int, seed: int) -> None:
    """Take that many turns; AssertionError for what is left behind, no return from a hang."""
    rng = random.Random(seed)
    with ThreadPoolExecutor(1) as pool:
        before = held()
        for _ in range(turns):
            faulthandler.dump_traceback_later(HANG, exit=True)
            Turn(rng, pool).run()
        faulthandler.cancel_dump_traceback_later()
        assert settles(held, before)


if __name__ == "__main__":
    chosen = [int(word) for word in sys.argv[1:]]
    soak(*chosen, *(1000, 5)[len(chosen) :])
