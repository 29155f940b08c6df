"""Tiny machines in any order of calls, on a KVM that runs guests on the processor."""

from kvm_soak import soak


def test_any_order_of_calls_ends() -> None:
    soak(20, seed=3)
