"""Which engine is chosen, and what doctor says of it."""

import pytest

from hypervisor.engine import choice
from hypervisor.engine.host import Fact


def kvm(good: bool, found: str = "") -> object:
    return lambda: Fact("kvm", good, found, "modprobe")


def test_kvm_where_it_is_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice.host, "kvm", kvm(True))
    assert choice.choose() == "kvm"
    assert choice.explain().good


def test_qemu_elsewhere_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice.host, "kvm", kvm(False, "no /dev/kvm"))
    monkeypatch.setattr(choice.host, "program", lambda *_: Fact("qemu", True, "/usr/bin/qemu"))
    assert choice.choose() == "qemu"
    fact = choice.explain()
    assert (fact.good, fact.found) == (True, "qemu, as no /dev/kvm")


def test_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice.host, "kvm", kvm(False, "no /dev/kvm"))
    monkeypatch.setattr(choice.host, "program", lambda *_: Fact("qemu", False, "", "apt-get"))
    fact = choice.explain()
    assert (fact.good, fact.advice) == (False, "apt-get")
