"""What all unit tests run under: properties that repeat, and a small heap to look through."""

from __future__ import annotations

import gc

from hypothesis import HealthCheck, settings

settings.register_profile(
    "repeatable",
    derandomize=True,
    database=None,
    deadline=None,  # a loaded machine is no failure
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("repeatable")


def pytest_collection_finish() -> None:
    """Keep what was imported out of the garbage collector's way: hundreds of tests call it."""
    gc.collect()
    gc.freeze()
