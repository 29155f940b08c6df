"""Machines started, paused, answered, stopped and closed in random order: none hangs or leaks."""

import pytest
from kvm_soak import soak

from hypervisor.core.kvm import why_not

REASON = why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"no KVM machine here: {REASON}")


@pytest.mark.parametrize(
    "turns", [25, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_any_order_of_calls_ends(turns: int) -> None:
    soak(turns, seed=turns)
