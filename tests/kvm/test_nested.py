"""The nested machine itself: what the other tests of this lane stand on."""

import pytest
from nested import Nested

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
def test_the_host_is_read_only(outside: Nested) -> None:
    done = outside.run(["touch", __file__])
    assert done.code
    assert "Read-only" in done.output
