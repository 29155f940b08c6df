"""Machines on the host's own KVM: exits, doorbells, interrupts, pauses and release."""

from __future__ import annotations

import errno
import os
import random
import resource
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from kvm_guest import CODE, HLT, SLEEP, STAY, TELL, Guest, enter, pic, register, regs, wait_readable
from leaks import settles

from hypervisor.core.kvm import VCPUS_MAX, Exit, ExitKind, KvmError, State, VcpuState, Vm, why_not
from hypervisor.errors import UsageError

DEADLINE = 20.0  # seconds; only a test that fails comes near it
REASON = why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"no KVM machine here: {REASON}")

OUT_99 = b"\xe6\x99"  # out 0x99, al


@pytest.fixture
def doorbell() -> Iterator[int]:
    """An eventfd."""
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    yield fd
    os.close(fd)


def test_port_read_and_write_are_answered() -> None:
    with Guest(bytes.fromhex("e410 0401 e611") + HLT) as guest:  # in al; add al,1; out al
        guest.vm.resume()
        found = guest.exit()
        assert found == Exit(0, ExitKind.IO, 0x10, 1, False, 0)
        assert guest.vcpu.state is VcpuState.WAITING
        guest.vm.answer(found, 0x41)
        assert guest.expect(0x11) == 0x42
        assert guest.vcpu.statistics().python == 2
        assert guest.vcpu.statistics().exits[2] == 2  # KVM_EXIT_IO


def test_string_output_comes_element_by_element() -> None:
    with Guest(bytes.fromhex("be0020 b90300 ba3000 fc f36e") + HLT) as guest:
        guest.ram.write(0x2000, b"abc")
        guest.vm.resume()
        assert bytes(guest.expect(0x30) for _ in range(3)) == b"abc"


def test_wide_port_reads_keep_their_size() -> None:
    with Guest(bytes.fromhex("ba0006 66ed 66ef") + HLT) as guest:  # in eax, dx; out dx, eax
        guest.vm.resume()
        guest.answer(0x600, 0x1_1234_5678)
        assert guest.expect(0x600) == 0x12345678


def test_mmio_in_real_mode() -> None:
    code = bytes.fromhex("b800a0 8ed8 a11000 40 a32000")  # ds = a000; ax = [10]; ax++; [20] = ax
    with Guest(code + HLT) as guest:
        guest.vm.resume()
        found = guest.exit()
        assert found == Exit(0, ExitKind.MMIO, 0xA0010, 2, False, 0)
        guest.vm.answer(found, 0x1233)
        assert guest.exit() == Exit(0, ExitKind.MMIO, 0xA0020, 2, True, 0x1234)


def test_mmio_in_long_mode() -> None:
    code = bytes.fromhex("b8000000d0 488b5808 48ffc3 48895850")  # rbx = [rax+8]; rbx++; [rax+50]
    with Guest(code + HLT, long=True) as guest:
        guest.vm.resume()
        found = guest.exit()
        assert found == Exit(0, ExitKind.MMIO, 0xD0000008, 8, False, 0)
        guest.vm.answer(found, 0x1122334455667787)
        assert guest.exit() == Exit(0, ExitKind.MMIO, 0xD0000050, 8, True, 0x1122334455667788)


def test_a_page_is_read_without_an_exit_and_written_with_one() -> None:
    code = bytes.fromhex("b8000000d0 8b18 ffc3 895804")  # ebx = [rax]; ebx++; [rax+4] = ebx
    with Guest(code + HLT, long=True) as guest:
        page = guest.vm.page(0xD0000000)
        page[:4] = (0x74726976).to_bytes(4, "little")
        guest.vm.resume()
        assert guest.exit() == Exit(0, ExitKind.MMIO, 0xD0000004, 4, True, 0x74726977)
        assert page[4:8] == bytes(4)
        page.release()


def test_a_doorbell_rings_without_an_exit(doorbell: int) -> None:
    code = bytes.fromhex("ba4001 b007 ee ee b008 ee")  # 7 twice, then 8, to port 0x140
    with Guest(code + HLT) as guest:
        guest.vm.ioeventfd(doorbell, 0x140, 1, 7, port=True)
        guest.vm.resume()
        found = guest.exit()
        assert (found.address, found.value) == (0x140, 8)
        assert os.eventfd_read(doorbell) == 2
        guest.vm.remove_ioeventfd(doorbell, 0x140, 1, 7, port=True)


def test_a_doorbell_in_a_device_page(doorbell: int) -> None:
    code = bytes.fromhex("b8000000d0 31c9 894850 ffc1 894850")  # [rax+50] = 0, then 1
    with Guest(code + HLT, long=True) as guest:
        guest.vm.page(0xD0000000)
        guest.vm.ioeventfd(doorbell, 0xD0000050, 4, 0)
        guest.vm.resume()
        assert guest.exit() == Exit(0, ExitKind.MMIO, 0xD0000050, 4, True, 1)
        assert os.eventfd_read(doorbell) == 1


def test_an_irqfd_wakes_a_halted_processor(doorbell: int) -> None:
    with Guest(pic(5, 0x1800) + b"\xbb\x05\x00" + SLEEP) as guest:
        guest.ram.write(0x1800, TELL)
        guest.vm.irqfd(doorbell, 5)
        guest.vm.resume()
        guest.expect(0x98)
        for _ in range(3):
            os.eventfd_write(doorbell, 1)
            assert guest.expect(0x99) == 5
        guest.vm.remove_irqfd(doorbell, 5)


def test_an_interrupt_line() -> None:
    with Guest(pic(6, 0x1800) + b"\xbb\x06\x00" + SLEEP) as guest:
        guest.ram.write(0x1800, TELL)
        guest.vm.resume()
        guest.expect(0x98)
        guest.vm.irq_line(6, True)
        guest.vm.irq_line(6, False)
        assert guest.expect(0x99) == 6


def test_pause_takes_a_busy_processor_out_of_the_guest() -> None:
    with Guest(OUT_99 + STAY) as guest:
        guest.ram.write(0x1800, OUT_99 + STAY)
        guest.vm.resume()
        guest.expect(0x99)
        guest.vm.pause()
        assert guest.vcpu.state is VcpuState.PAUSED
        assert register(guest.vcpu, "rip") == CODE + len(OUT_99)
        guest.vcpu.set(State.REGS, regs(rip=0x1800, rax=0x77))
        guest.vm.resume()
        assert guest.expect(0x99) == 0x77


def test_an_access_answered_while_paused_is_completed_but_no_more() -> None:
    with Guest(b"\xe4\x10" + OUT_99 + STAY) as guest:
        guest.vm.resume()
        found = guest.exit()
        guest.vm.pause()
        assert guest.vcpu.state is VcpuState.WAITING
        guest.vm.answer(found, 0x5A)
        assert register(guest.vcpu, "rax") == 0x5A
        assert register(guest.vcpu, "rip") == CODE + 2
        assert guest.vcpu.state is VcpuState.PAUSED
        assert guest.vm.exits() == []
        guest.vm.resume()
        assert guest.expect(0x99) == 0x5A


def test_an_access_answered_after_pause_and_resume() -> None:
    with Guest(b"\xe4\x10" + OUT_99 + STAY) as guest:
        guest.vm.resume()
        found = guest.exit()
        guest.vm.pause()
        guest.vm.resume()
        guest.vm.answer(found, 0x5B)
        assert guest.expect(0x99) == 0x5B


def test_pauses_and_answers_in_any_order_lose_nothing() -> None:
    code = bytes.fromhex("e410 43 89d8 e712 ebf7")  # in 0x10; inc bx; out 0x12, bx; again
    rng = random.Random(5)
    with Guest(code) as guest:
        values = []
        paused = True
        for _ in range(3000):
            act = rng.choice((guest.vm.pause, guest.vm.resume, None))
            if act:
                act()
                paused = act == guest.vm.pause
            elif found := guest.vm.exits() if paused else [guest.exit()]:
                values += [found[0].value] if found[0].write else []
                guest.vm.answer(found[0], 1)
            if paused:
                assert register(guest.vcpu, "rip") in range(CODE, CODE + len(code))
                assert guest.vcpu.state in (VcpuState.PAUSED, VcpuState.WAITING)
        assert values == list(range(1, len(values) + 1))
        assert len(values) > 100


def test_a_kick_that_is_lost_is_repeated() -> None:
    limits = resource.getrlimit(resource.RLIMIT_SIGPENDING)
    with Guest(OUT_99 + STAY) as guest, ThreadPoolExecutor(1) as pool:
        guest.vm.resume()
        guest.expect(0x99)
        resource.setrlimit(resource.RLIMIT_SIGPENDING, (0, limits[1]))  # no signal can be queued
        try:
            pausing = pool.submit(guest.vm.pause)
            wait([pausing], timeout=0.03)  # some kernels leave the guest all the same
        finally:
            resource.setrlimit(resource.RLIMIT_SIGPENDING, limits)
        pausing.result(DEADLINE)
        assert guest.vcpu.state is VcpuState.PAUSED


def test_stop_ends_a_busy_processor_without_waiting() -> None:
    with Guest(OUT_99 + STAY) as guest:
        guest.vm.resume()
        guest.expect(0x99)
        guest.vm.stop()
        guest.vm.pause()  # it waits until none is in the guest
        assert guest.vcpu.state is VcpuState.ENDED
        guest.vm.resume()
        assert guest.vcpu.state is VcpuState.ENDED


def test_stop_ends_a_processor_that_waits_for_an_answer() -> None:
    with Guest(b"\xe4\x10" + STAY) as guest:
        guest.vm.resume()
        found = guest.exit()
        guest.vm.stop()
        guest.vm.answer(found)  # dropped, also when the thread is still there
        guest.vm.answer(found)
        guest.close()
        with pytest.raises(UsageError, match="closed"):
            guest.vm.answer(found)


def test_release_closes_at_once_and_frees_in_any_thread() -> None:
    before = held()
    guest = Guest(OUT_99 + STAY)
    guest.vm.resume()
    guest.expect(0x99)
    free = guest.vm.release()
    assert guest.vm.closed
    with pytest.raises(UsageError, match="closed"):
        guest.vm.pause()
    guest.vm.close()
    assert held() > before
    with ThreadPoolExecutor(1) as pool:
        pool.submit(free).result(DEADLINE)
    guest.ram.close()
    assert settles(held, before)


def test_a_machine_may_be_closed_while_a_thread_pauses_it() -> None:
    with ThreadPoolExecutor(1) as pool:
        for _ in range(10):
            with Guest(STAY) as guest:
                guest.vm.resume()
                pausing = pool.submit(guest.vm.pause)
                guest.vm.close()
                error = pausing.exception(DEADLINE)
                assert error is None or "closed" in str(error)


def test_no_more_processors_than_there_is_room_for() -> None:
    with Vm() as vm:
        for _ in range(VCPUS_MAX):
            vm.vcpu()
        with pytest.raises(KvmError, match="vCPU 16"):
            vm.vcpu()


def test_a_triple_fault_ends_the_processor() -> None:
    with Guest(bytes.fromhex("0f0b"), long=True) as guest:  # ud2 without handlers
        guest.vm.resume()
        found = guest.exit()
        assert found.kind is ExitKind.SHUTDOWN
        assert found.kind.final
        assert guest.vcpu.state is VcpuState.ENDED
        with pytest.raises(KvmError):
            guest.vm.answer(found)


def test_halt_without_interrupt_controllers_ends_the_processor() -> None:
    with Guest(HLT, irqchip=False) as guest:
        guest.vm.resume()
        assert guest.exit().kind is ExitKind.HLT


def test_two_processors_wait_at_the_same_time() -> None:
    with Guest(b"\xe4\x10" + OUT_99 + STAY) as guest:
        other = guest.vm.vcpu(guest.vm.supported_cpuid())
        enter(other)
        other.set(State.MP_STATE, bytes(4))  # runnable: nobody sends it a start-up interrupt
        guest.vm.resume()
        found: dict[int, Exit] = {}
        while len(found) < 2:
            wait_readable(guest.vm.exit_fd)
            found |= {each.vcpu: each for each in guest.vm.exits()}
        guest.vm.answer(found[1], 11)
        assert guest.exit() == Exit(1, ExitKind.IO, 0x99, 1, True, 11)
        guest.vm.answer(found[0], 10)
        assert guest.exit() == Exit(0, ExitKind.IO, 0x99, 1, True, 10)


def test_state_is_refused_while_running_and_of_a_wrong_size() -> None:
    with Guest(STAY) as guest:
        with pytest.raises(KvmError) as wrong:
            guest.vcpu.set(State.REGS, b"short")
        assert wrong.value.errno == errno.EINVAL
        guest.vm.resume()
        with pytest.raises(KvmError) as busy:
            guest.vcpu.get(State.REGS)
        assert busy.value.errno == errno.EBUSY


@pytest.mark.parametrize("what", State)
def test_state_can_be_read_and_written_back(what: State) -> None:
    with Guest(HLT) as guest:
        before = guest.vcpu.get(what)
        guest.vcpu.set(what, before)
        assert len(guest.vcpu.get(what)) == len(before)


def test_msrs() -> None:
    with Guest(HLT) as guest:
        guest.vcpu.set_msrs({0x174: 8, 0x175: 0x1000})  # SYSENTER_CS, SYSENTER_ESP
        assert guest.vcpu.get_msrs([0x174, 0xDEAD_BEEF, 0x175]) == {0x174: 8, 0x175: 0x1000}
        with pytest.raises(KvmError, match="0xdeadbeef"):
            guest.vcpu.set_msrs({0x174: 9, 0xDEAD_BEEF: 1})


def test_the_clock_can_be_set() -> None:
    with Vm() as vm:
        vm.clock = 10**15
        assert 10**15 <= vm.clock < 10**15 + 60 * 10**9


def test_a_path_that_is_not_kvm() -> None:
    with pytest.raises(UsageError, match=r"/dev/null: .*version 12"):
        Vm("/dev/null")
    assert why_not("/nowhere") == (
        "/nowhere: open the KVM device: No such file or directory: "
        "run modprobe kvm_intel or modprobe kvm_amd"
    )


def end_new(guest: Guest) -> None:
    """Never started."""


def end_waiting(guest: Guest) -> None:
    """Its exit is not answered."""
    guest.vm.resume()
    guest.exit()


def end_running(guest: Guest) -> None:
    """In the guest."""
    guest.vm.resume()
    guest.expect(0x99)


def end_paused(guest: Guest) -> None:
    """Started and paused."""
    end_running(guest)
    guest.vm.pause()


def held() -> tuple[int, int, int]:
    """Count what this process holds: descriptors, threads, mappings of guests and vCPUs."""
    proc = Path("/proc/self")
    maps = (proc / "maps").read_text()
    ours = maps.count("kvm") + maps.count("memfd:guest")
    return len(os.listdir(proc / "fd")), len(os.listdir(proc / "task")), ours


def mapped() -> int:
    """Return the bytes of address space in use, to the page."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * 4096


@pytest.mark.parametrize("turns", [28, pytest.param(253, marks=pytest.mark.slow)])
@pytest.mark.parametrize("end", [end_new, end_waiting, end_running, end_paused])
def test_starts_and_stops_leave_nothing(end: Callable[[Guest], None], turns: int) -> None:
    for turn in range(turns):
        with Guest(OUT_99 + STAY) as guest:
            guest.vm.uart()
            end(guest)
        if turn == 2:  # the C library keeps a stack or two for the next thread
            before, size = held(), mapped()
    assert settles(held, before)
    assert mapped() - size < turns << 16  # a stack or a serial port's rings are 128 KiB
