"""The fuzz targets of rings, messages, registers, devices and boot files, a fixed run of each.

The fast lane does a quarter of it.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest


@pytest.mark.parametrize("parts", [4, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("fuzz_vring", 2000),
        ("fuzz_vhost_messages", 1000),
        ("fuzz_blk", 200),
        ("fuzz_vhost_replies", 300),
        ("fuzz_boot", 1000),
        ("fuzz_mmio", 300),
        ("fuzz_virtio9p", 300),
        ("fuzz_devices", 500),
        ("fuzz_uart", 50),
        ("fuzz_vsock", 60),
        ("fuzz_vhost_device", 200),
    ],
)
def test_fixed_run(name: str, count: int, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "fuzz"))
    importlib.import_module(name).fuzz(seed=1, count=count // parts)
