"""A machine on the engine made of nothing."""

from pathlib import Path

import pytest
from fake_engine import EchoEngine

from hypervisor import Machine
from hypervisor import machine as machine_module


@pytest.fixture
def vm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setitem(machine_module.ENGINES, "auto", EchoEngine)
    kernel = tmp_path / "kernel"
    kernel.write_bytes(b"k")
    return Machine(kernel, name="web")
