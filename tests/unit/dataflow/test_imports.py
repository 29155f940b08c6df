"""What loads what: 9P works without Git, and every public name is there."""

import subprocess
import sys

import pytest

import dataflow

P9 = (
    "dataflow.p9.server", "dataflow.p9.client", "dataflow.p9.tree", "dataflow.p9.nodes",
    "dataflow.aio.server", "dataflow.aio.client", "dataflow.aio.hostdir", "dataflow.aio.remote",
)  # fmt: skip


@pytest.mark.parametrize("module", P9)
def test_9p_loads_no_git(module):
    code = f"import sys, {module}; sys.exit('dulwich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize("name", dataflow.__all__)
def test_public_names_load(name):
    assert getattr(dataflow, name).__name__
    assert name in dir(dataflow)


def test_other_names_do_not():
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        dataflow.Nothing  # noqa: B018
