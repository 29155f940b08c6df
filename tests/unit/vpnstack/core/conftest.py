"""A connection that is lent, of either version of IP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .lanes import world


@pytest.fixture(params=[4, 6])
def w(request: pytest.FixtureRequest) -> Iterator[Any]:
    made = world.World(request.param)
    assert made.offer()
    yield made
    made.close()
