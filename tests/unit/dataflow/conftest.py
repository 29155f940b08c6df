"""DataKit's tree, served to a client with the branch main."""

from __future__ import annotations

import pytest
from datakit import MAIN
from test_views import serve

from dataflow.p9.const import Dialect


@pytest.fixture
async def tree(tmp_path):
    async with serve(tmp_path) as served:
        yield served


@pytest.fixture
async def c(tree):
    async with tree.connect(dialect=Dialect.UNIX) as client:
        await client.mkdir(MAIN)
        yield client
