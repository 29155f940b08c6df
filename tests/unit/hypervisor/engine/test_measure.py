"""What a machine uses of the host."""

import os
import threading
import time

from hypervisor.engine import measure
from vpnstack.link.port import PortStatistics


def test_own_threads_and_their_time() -> None:
    others = set(measure.thread_ids())
    begun, end = threading.Event(), threading.Event()

    def work() -> None:
        begin = time.thread_time()
        while time.thread_time() < begin + 0.03:
            pass
        begun.set()
        end.wait()

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait()
    (tid,) = [tid for tid in measure.thread_ids() if tid not in others]
    assert tid == thread.native_id
    (used,) = measure.seconds([tid])
    assert 0.0 < used < 5.0
    end.set()
    thread.join()


def test_threads_and_processes_that_are_gone() -> None:
    assert measure.thread_ids(2**22 + 1) == []
    assert measure.seconds([2**22 + 1]) == [0.0]
    assert measure.qemu_vcpu_ids(2**22 + 1) == []
    assert measure.process_shared(2**22 + 1) == 0


def test_threads_by_qemus_names() -> None:
    begun, end = threading.Barrier(3), threading.Event()

    def work(name: str) -> None:
        with open(f"/proc/self/task/{threading.get_native_id()}/comm", "w") as comm:
            comm.write(name)
        begun.wait()
        end.wait()

    threads = [threading.Thread(target=work, args=(name,)) for name in ("CPU 1/TCG", "CPU 0/TCG")]
    for thread in threads:
        thread.start()
    begun.wait()
    assert measure.qemu_vcpu_ids(os.getpid()) == [threads[1].native_id, threads[0].native_id]
    end.set()
    for thread in threads:
        thread.join()


def test_memory_in_use_is_what_was_touched() -> None:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 1 << 20)
    assert measure.file_resident(fd) == 0
    os.pwrite(fd, b"x", 0)
    os.pwrite(fd, b"x", 500_000)
    assert measure.file_resident(fd) == 2 * 4096
    os.close(fd)


def test_a_port_receives_what_the_guest_sends() -> None:
    port = PortStatistics(rx_frames=1, rx_octets=60, tx_frames=2, tx_octets=120)
    assert measure.nic("n", port) == measure.NicUsage("n", 2, 120, 1, 60)
