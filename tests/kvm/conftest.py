"""The kvm lane: where this host's KVM cannot run kernels, its tests run in the nested machine.

A test is an ordinary function.  Outside, its fixtures are set up as ever, and its body is replaced
by the verdict of one pytest in the nested machine that runs them all in the same order and reports
as it goes.  With TRIKIT_NESTED set, or on hosts whose KVM is good, a test simply runs.

When the nested machine itself dies or falls silent, which is QEMU's fault (see nested.py) and no
test's, it is started once more for the tests that have no verdict yet, and the summary says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop
from _pytest._io import TerminalWriter
from nested import Done, Nested, NestedError

sys.path.append(str(Path(__file__).parents[1] / "compat"))

import p9_guest

from hypervisor.engine import host
from hypervisor.errors import UsageError
from hypervisor.image.apt import Apt, fetch
from hypervisor.image.build import Image, Spec, build, load
from hypervisor.image.cache import Cache, default_directory

INSIDE = "TRIKIT_NESTED" in os.environ
DIRECT = INSIDE or host.kvm().good
if DIRECT:  # no test leaves a thread, a descriptor or a mapping of guest memory
    from leaks import pytest_runtest_setup as pytest_runtest_setup
    from leaks import pytest_runtest_teardown as pytest_runtest_teardown
GUEST = "TRIKIT_GUEST_IMAGE"
CLOUD = "TRIKIT_GUEST_CLOUD"
SOCAT = "TRIKIT_GUEST_SOCAT"
PROBE = "TRIKIT_GUEST_PROBE"
HERE = Path(__file__).parent
MARK = "@@report "
A_TEST = 240.0  # seconds that a test may take on a busy machine
ALL_TESTS = 1200.0  # and all of them
STACKS = 120  # seconds into a test after which the stacks of all threads are printed

_faults: list[NestedError] = []  # of the nested machine, in this run


def forgive(fault: NestedError) -> None:
    """Take note of the nested machine's first fault; raise the second."""
    _faults.append(fault)
    if len(_faults) > 1:
        raise fault


class Inside:
    """One pytest in the nested machine, and what it says."""

    def __init__(self, machine: Nested, nodes: list[str], environment: dict[str, str]) -> None:
        self._machine = machine
        self._nodes = nodes
        self._environment = environment
        self._begin(nodes)

    def _begin(self, nodes: list[str]) -> None:
        argv = [self._machine.python, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        argv += ["-o", f"faulthandler_timeout={STACKS}", *nodes]
        timeout = min(A_TEST * len(nodes), ALL_TESTS)
        self._parts = self._machine.stream(argv, timeout=timeout, environment=self._environment)
        self._pending = ""
        self._seen = ""

    def verdict(self, node: str) -> tuple[str, str]:
        """Return the outcome of a test and why; what other tests printed is passed over."""
        try:
            return self._find(node)
        except NestedError as fault:
            forgive(fault)
        self._machine.restart()
        self._begin(self._nodes[self._nodes.index(node) :])
        return self._find(node)

    def _find(self, node: str) -> tuple[str, str]:
        for line in self._lines():
            _, mark, text = line.partition(MARK)
            if mark and (report := json.loads(text))["node"] == node:
                return report["outcome"], report["why"]
        return "failed", f"pytest ended without a word of it: {self._seen[-4000:]}"

    def _lines(self) -> Iterator[str]:
        while True:
            line, newline, rest = self._pending.partition("\n")
            if newline:
                self._pending = rest
                yield line
                continue
            part = next(self._parts, None)
            if part is None or isinstance(part, Done):
                return
            self._pending += part
            self._seen += part

    def finish(self) -> None:
        """Read it to its end, so that the machine takes other commands."""
        try:
            for _ in self._lines():
                pass
        except NestedError as fault:
            forgive(fault)
            self._machine.restart()


@pytest.fixture(scope="session")
def nested(require: Callable[..., None]) -> Iterator[Nested]:
    """The nested machine, one for all tests of a run."""
    require(host.QEMU)
    try:
        machine = Nested()
    except UsageError as error:
        pytest.skip(f"no image: {error}")
    try:
        machine.__enter__()
    except NestedError as fault:
        forgive(fault)
        machine.restart()
    with contextlib.closing(machine):
        yield machine


@pytest.fixture(scope="session")
def inside(
    request: pytest.FixtureRequest, nested: Nested, image: Image, cloud: tuple[Path, Path]
) -> Inside:
    """The pytest in the nested machine, for the tests of this run that belong there."""
    nodes = [item.nodeid for item in request.session.items if _belongs_inside(item)]
    environment = {GUEST: str(image.directory), CLOUD: ":".join(map(str, cloud))}
    used = {name for item in request.session.items for name in getattr(item, "fixturenames", ())}
    if "socat_image" in used:
        environment[SOCAT] = str(request.getfixturevalue("socat_image").directory)
    if "probe" in used:
        environment[PROBE] = str(request.getfixturevalue("probe"))
    return Inside(nested, nodes, environment)


@pytest.fixture(scope="session")
def image() -> Image:
    """The image that the guest of a guest boots; made outside, where packages can be had."""
    if INSIDE:
        return load(Path(os.environ[GUEST]))
    try:
        return build(Spec(), Cache(default_directory(os.environ)))
    except UsageError as error:
        pytest.skip(f"no image: {error}")


@pytest.fixture(scope="session")
def socat_image() -> Image:
    """The same with socat, which speaks vsock."""
    if INSIDE:
        return load(Path(os.environ[SOCAT]))
    try:
        return build(Spec(packages=("socat",)), Cache(default_directory(os.environ)))
    except UsageError as error:
        pytest.skip(f"no image: {error}")


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory, require: Callable[..., None]) -> Path:
    """The program that tries system calls in a guest; compiled outside, where that is quick."""
    if INSIDE:
        return Path(os.environ[PROBE])
    require("cc")
    return p9_guest.probe(tmp_path_factory.mktemp("probe"))


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The distribution's kernel for clouds as it is packed, a bzImage, and its initramfs."""
    if INSIDE:
        kernel, initrd = os.environ[CLOUD].split(":")
        return Path(kernel), Path(initrd)
    cache = Cache(default_directory(os.environ))
    try:
        made = build(Spec(kernel_package="linux-image-cloud-amd64"), cache)
        (package,) = Apt(cache.directory / "lists.json").kernel("linux-image-cloud-amd64")
        deb = fetch(package, cache, lambda what, done, total: None)
    except UsageError as error:
        pytest.skip(f"no image: {error}")
    path = tmp_path_factory.mktemp("cloud") / "vmlinuz"
    path.write_bytes(_vmlinuz(deb))
    return path, made.initrd


def _vmlinuz(deb: Path) -> bytes:
    unpacking = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE)
    try:
        with tarfile.open(fileobj=unpacking.stdout, mode="r|") as archive:
            for member in archive:
                if member.name.startswith("./boot/vmlinuz-"):
                    file = archive.extractfile(member)
                    assert file is not None
                    return file.read()
        raise AssertionError(f"{deb} holds no kernel")
    finally:
        unpacking.kill()
        unpacking.communicate()


@pytest.fixture
def outside(request: pytest.FixtureRequest, nested: Nested) -> Nested:
    """The nested machine when nothing runs in it, for the tests that are marked so."""
    if any(_belongs_inside(item) for item in request.session.items):
        request.getfixturevalue("inside").finish()
    return nested


def _belongs_inside(item: pytest.Item) -> bool:
    here = item.path.is_relative_to(HERE) and isinstance(item, pytest.Function)
    return here and not DIRECT and item.get_closest_marker("outside") is None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that stay outside come last: the machine then has nothing else to do."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.compat)
            if not INSIDE:  # the first waits for two machines to come up
                item.add_marker(pytest.mark.timeout(3 * A_TEST), append=False)
        if _belongs_inside(item):
            assert isinstance(item, pytest.Function)
            item.fixturenames.insert(0, "inside")
    items.sort(key=lambda item: item.get_closest_marker("outside") is not None)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Take over what the test's run in the nested machine gave."""
    if not _belongs_inside(pyfuncitem):
        return None
    try:
        outcome, why = pyfuncitem.funcargs["inside"].verdict(pyfuncitem.nodeid)
    except NestedError as fault:
        outcome, why = "failed", str(fault)
    if outcome == "skipped":
        pytest.skip(f"in the nested machine: {why}")
    if outcome != "passed":
        pytest.fail(f"in the nested machine: {why}", pytrace=False)
    return True


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Inside, tell what became of a test: one line, the first that is not good or the last."""
    if not INSIDE or (report.when != "teardown" and report.passed):
        return
    message = {"node": report.nodeid, "outcome": report.outcome, "why": report.longreprtext}
    _screen[0].write(f"\n{MARK}{json.dumps(message)}\n", flush=True)


_screen: list[TerminalWriter] = []


def pytest_sessionstart(session: pytest.Session) -> None:
    """Keep what writes past pytest's own capturing."""
    _screen.append(session.config.get_terminal_writer())
    uvloop.run(asyncio.sleep(0))  # libuv opens two descriptors for the life of the process


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say that the nested machine had to be started again, and what was known of its end."""
    for fault in _faults:
        terminalreporter.section("the nested machine failed (QEMU's emulation); started once more")
        terminalreporter.write_line(str(fault))
