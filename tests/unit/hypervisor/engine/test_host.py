"""What a host can do: the reasons when it cannot."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from hypervisor.engine.host import kvm, program


def test_kvm_without_cpu_flags(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("flags\t: fpu vme de\n")
    fact = kvm(cpuinfo=tmp_path / "cpuinfo")
    assert not fact.good
    assert "neither svm nor vmx" in fact.found


def test_kvm_without_device(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("flags\t: fpu svm\n")
    fact = kvm(tmp_path / "kvm", tmp_path / "cpuinfo")
    assert not fact.good
    assert "modprobe" in fact.advice


def test_kvm_with_a_device_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("flags\t: fpu vmx\n")
    (tmp_path / "kvm").write_text("")
    fact = kvm(tmp_path / "kvm", tmp_path / "cpuinfo")
    assert not fact.good
    assert "making a machine failed" in fact.found


def test_program_that_is_absent() -> None:
    fact = program("no-such-program", "some-package")
    assert (fact.good, fact.advice) == (False, "run apt-get install some-package")


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.EACCES, "usermod"), (errno.ENOENT, "modprobe"), (errno.EIO, "dmesg")],
)
def test_kvm_that_does_not_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, advice: str
) -> None:
    (tmp_path / "cpuinfo").write_text("flags\t: fpu vmx\n")

    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    fact = kvm(cpuinfo=tmp_path / "cpuinfo")
    monkeypatch.undo()
    assert not fact.good
    assert advice in fact.advice


def test_kvm_of_an_old_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text("flags\t: fpu vmx\n")
    (tmp_path / "kvm").write_text("")
    monkeypatch.setattr(fcntl, "ioctl", lambda handle, number: 10)
    fact = kvm(tmp_path / "kvm", tmp_path / "cpuinfo")
    assert (fact.good, fact.found) == (False, "API version 10, expected 12")
