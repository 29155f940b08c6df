"""Devices on benches, closed after each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from mmio_driver import Bench

from hypervisor.devices.base import Device


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(device: Device, size: int = 1 << 20) -> Bench:
        made.append(Bench(device, size))
        return made[-1]

    yield make
    for each in made:
        each.close()
