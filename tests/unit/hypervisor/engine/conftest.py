"""Machines whose kernels are a few instructions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from guest_images import vmlinux

from hypervisor import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Callable[..., Machine]:
    """Make a machine on our own engine whose kernel is some code, entered in 64-bit mode."""

    def make(code: bytes, **options: object) -> Machine:
        path = tmp_path / f"kernel-{len(list(tmp_path.iterdir()))}"
        path.write_bytes(vmlinux(bytes(0x40) + code))
        return Machine(path, engine="kvm", memory="32M", **options)  # type: ignore[arg-type]

    return make
