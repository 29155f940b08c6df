"""The kvm lane: where this host's KVM cannot run kernels, each test runs in the nested machine.

A test is an ordinary function.  Outside, its fixtures are set up as ever and its body is replaced
by `pytest NODE` in the nested machine, whose verdict and output it takes over; with
TRIKIT_NESTED set, or on hosts with a KVM that is good, it simply runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nested import Nested

from hypervisor.engine import host
from hypervisor.errors import UsageError
from hypervisor.image.build import Image, Spec, build, load
from hypervisor.image.cache import Cache, default_directory

INSIDE = "TRIKIT_NESTED" in os.environ
DIRECT = INSIDE or host.kvm().good
GUEST = "TRIKIT_GUEST_IMAGE"
HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def nested(require: Callable[..., None]) -> Iterator[Nested]:
    """The nested machine, one for all tests of a run."""
    require(host.QEMU)
    try:
        with Nested() as machine:
            yield machine
    except UsageError as error:
        pytest.skip(f"no image: {error}")


@pytest.fixture(scope="session")
def image() -> Image:
    """The image that the guest of a guest boots; made outside, where packages can be had."""
    if INSIDE:
        return load(Path(os.environ[GUEST]))
    try:
        return build(Spec(), Cache(default_directory(os.environ)))
    except UsageError as error:
        pytest.skip(f"no image: {error}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of this directory need the nested machine, unless they run where they are."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.compat)
            if not DIRECT and isinstance(item, pytest.Function):
                item.fixturenames.insert(0, "nested")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test of this directory in the nested machine."""
    if DIRECT or not pyfuncitem.path.is_relative_to(HERE):
        return None
    if pyfuncitem.get_closest_marker("outside"):
        return None
    machine: Nested = pyfuncitem.funcargs["nested"]
    environment = {}
    if isinstance(image := pyfuncitem.funcargs.get("image"), Image):
        environment[GUEST] = str(image.directory)
    argv = [machine.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", pyfuncitem.nodeid]
    done = machine.run(argv, timeout=_deadline(pyfuncitem), environment=environment)
    if done.code:
        pytest.fail(f"in the nested machine: {done.output}", pytrace=False)
    if " skipped" in done.output.rstrip().rpartition("\n")[2]:
        pytest.skip(f"in the nested machine: {done.output}")
    return True


def _deadline(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) - 30 if marker and marker.args else 110.0
