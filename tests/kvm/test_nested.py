"""The nested machine itself: what the other tests of this lane stand on."""

import re

import pytest
from nested import Nested, NestedError

from hypervisor.engine import host


def test_kvm_is_good_inside() -> None:
    fact = host.kvm()
    assert fact.good, fact.found


@pytest.mark.outside
def test_output_and_code_come_back(outside: Nested) -> None:
    done = outside.run(["sh", "-c", "echo one; sleep 0; echo two >&2; exit 3"])
    assert (done.code, done.output) == (3, "one\ntwo\n")


@pytest.mark.outside
def test_a_command_past_its_deadline_is_ended(outside: Nested) -> None:
    assert outside.run(["sleep", "infinity"], timeout=0).code == 124
    assert outside.run(["true"]).code == 0


@pytest.mark.outside
def test_the_state_of_qemu_can_be_told(outside: Nested) -> None:
    for _ in range(2):
        state = outside.state()
        assert "VM status: running" in state
        assert re.search(r"^  RIP=[0-9a-f]{16} .* HLT=[01]", state, re.M)
        assert re.search(r"^  lapic 0: IRR ", state, re.M)
    assert outside.run(["true"]).code == 0


@pytest.mark.outside
def test_a_machine_that_is_gone_says_so_and_starts_anew(outside: Nested) -> None:
    with pytest.raises(NestedError, match=r"is gone\nQEMU ended with 0\nits console"):
        outside.run(["sh", "-c", "echo b >/proc/sysrq-trigger; sleep infinity"])
    outside.restart()
    assert outside.run(["true"]).code == 0


@pytest.mark.outside
def test_the_host_is_read_only(outside: Nested) -> None:
    done = outside.run(["touch", __file__])
    assert done.code
    assert "Read-only" in done.output
