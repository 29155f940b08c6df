"""What all tests share: `require`, which says that a test needs something of this machine.

Where that is missing, the test is skipped with the reason; with CI set (and not empty) it fails
instead, so that a lane that tests nothing cannot look green.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


def missing(what: str) -> str:
    """Say what is wrong with requirement `what`; empty when it is there.

    "root" is the privilege, "/path" a file, "module:NAME" a Python module, and anything else a
    program on PATH (or in sbin).
    """
    if what == "root":
        return "" if os.geteuid() == 0 else "not root"
    if what.startswith("/"):
        return "" if Path(what).exists() else f"{what} does not exist"
    if what.startswith("module:"):
        name = what.removeprefix("module:")
        return "" if importlib.util.find_spec(name) else f"Python module {name} is not installed"
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    return "" if shutil.which(what, path=path) else f"{what} is not installed"


def require_all(*needs: str) -> None:
    """Skip the running test, or fail it under CI, unless all `needs` (see `missing`) are met."""
    reasons = "; ".join(reason for reason in map(missing, needs) if reason)
    if reasons and os.environ.get("CI"):
        pytest.fail(f"CI is set, and a peer is missing: {reasons}", pytrace=False)
    if reasons:
        pytest.skip(reasons)


@pytest.fixture(scope="session")
def require() -> Callable[..., None]:
    """Give `require_all` to tests: `require("root", "qemu-system-x86_64")`."""
    return require_all


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever lies in tests/compat is in the compat lane, marked or not."""
    compat = Path(__file__).parent / "compat"
    for item in items:
        if item.path.is_relative_to(compat):
            item.add_marker(pytest.mark.compat)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Under CI a skip in the compat lane is a failure, however it came about."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.skipped and os.environ.get("CI") and item.get_closest_marker("compat"):
        report.outcome = "failed"
        report.longrepr = f"CI is set, and a peer is missing: {report.longrepr}"
