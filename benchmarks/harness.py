"""What the benchmarks share: namespaces, processes, what they cost, and certain cleaning up.

Everything that a benchmark makes is entered in a `Lab`, which takes it away again in the reverse
order: at the end, on an error, and on SIGINT, SIGTERM and SIGHUP.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[1]
LOAD = Path(__file__).with_name("load.py")
NETNS_DIR = Path("/run/netns")
TICKS = os.sysconf("SC_CLK_TCK")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class BenchmarkError(Exception):
    """A measurement cannot be made; the message says why, in one line."""


def need(*programs: str) -> None:
    """Raise `BenchmarkError` unless we are root and `programs` are installed."""
    if os.geteuid() != 0:
        raise BenchmarkError("expected root: namespaces and devices are made")
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        raise BenchmarkError(f"not installed: {', '.join(missing)}")


def ip(*argv: str) -> None:
    """Run iproute2; raises `BenchmarkError` with what it said."""
    done = subprocess.run(["ip", *argv], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"ip {' '.join(argv)}: {done.stderr.strip()}")


class Namespace:
    """A network namespace of our own with a loopback device; `argv` runs a command inside."""

    def __init__(self, name: str) -> None:
        self.name = name
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")

    @property
    def path(self) -> Path:
        """The file that stands for it."""
        return NETNS_DIR / self.name

    def argv(self, *command: str) -> list[str]:
        """Return the command line that runs `command` inside."""
        return ["nsenter", f"--net={self.path}", *command]

    def ip(self, *command: str) -> None:
        """Run iproute2 inside."""
        ip("-n", self.name, *command)

    def sysctl(self, key: str, value: str) -> None:
        """Set a parameter of the namespace."""
        subprocess.run(self.argv("sysctl", "-qw", f"{key}={value}"), check=True)

    def close(self) -> None:
        """Remove the name; the namespace ends with its last process."""
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True, check=False)


class Process:
    """A process that we started, and what it and its children have cost so far."""

    def __init__(self, argv: Sequence[str], **options: Any) -> None:
        self.log = tempfile.TemporaryFile()  # noqa: SIM115
        streams: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "stdout": self.log,
            "stderr": self.log,
        }
        self.popen: subprocess.Popen[bytes] = subprocess.Popen(
            argv, env=environment(), start_new_session=True, **(streams | options)
        )

    @property
    def pid(self) -> int:
        """The process ID."""
        return int(self.popen.pid)

    def tree(self) -> list[int]:
        """Return its process ID and those of its descendants."""
        found = [self.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    found += map(int, (task / "children").read_text().split())
        return found

    def cpu(self) -> float:
        """Return seconds of CPU that it, its children and those it waited for have used."""
        total = 0
        for pid in self.tree():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime: proc(5)
        return total / TICKS

    def memory(self, key: str = "VmHWM") -> int:
        """Return bytes of `key` of /proc/PID/status, of all its processes: peak resident size."""
        total = 0
        for pid in self.tree():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    if line.startswith(key + ":"):
                        total += int(line.split()[1]) << 10
        return total

    def said(self) -> str:
        """Return the end of its output."""
        self.log.seek(0)
        return self.log.read().decode(errors="replace")[-2000:]

    def close(self) -> None:
        """End it with its children: SIGTERM, and after two seconds SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGTERM)
        try:
            self.popen.wait(2)
        except subprocess.TimeoutExpired:
            pass
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.popen.wait()
        self.log.close()


class Lab(contextlib.ExitStack):
    """Namespaces and processes of one run; leaving it ends and removes all of them."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        super().__enter__()
        for number in SIGNALS:
            self._before[number] = signal.signal(number, _interrupted)
        return self

    def __exit__(self, *exc: Any) -> bool | None:
        for number in map(int, (*SIGNALS, signal.SIGINT)):  # nothing cuts the cleaning up short
            self._before.setdefault(number, signal.getsignal(number))
            signal.signal(number, signal.SIG_IGN)
        try:
            return super().__exit__(*exc)
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def namespace(self, role: str) -> Namespace:
        """Make a namespace; connections may use a closed one's ports again at once."""
        self._count += 1
        made = Namespace(f"bench-{os.getpid()}-{self._count}-{role}")
        self.callback(made.close)
        made.sysctl("net.ipv4.tcp_tw_reuse", "1")
        made.sysctl("net.ipv4.ip_local_port_range", "10240 65535")
        return made

    def process(self, argv: Sequence[str], **options: Any) -> Process:
        """Start a process."""
        made = Process(argv, **options)
        self.callback(made.close)
        return made

    def directory(self) -> Path:
        """Make a directory that is removed at the end."""
        path = Path(tempfile.mkdtemp(prefix="bench-"))
        self.callback(shutil.rmtree, path, ignore_errors=True)
        return path

    @contextlib.contextmanager
    def ready(self) -> Iterator[int]:
        """Give a descriptor at which a process says that it is ready, and wait for that."""
        read, write = os.pipe()
        os.set_inheritable(write, True)
        try:
            yield write
            os.close(write)
            write = -1
            if not os.read(read, 16):
                raise BenchmarkError("a process ended before it was ready")
        finally:
            os.close(read)
            if write >= 0:
                os.close(write)


def _interrupted(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def environment() -> dict[str, str]:
    """Return the environment of all processes: this checkout, and where iproute2 lies."""
    return os.environ | {"PYTHONPATH": str(ROOT), "PATH": PATH, "LC_ALL": "C"}


def load(where: Namespace, kind: str, *argv: object, timeout: float = 60) -> Any:
    """Run a client of load.py in a namespace; return what it measured."""
    line = where.argv(sys.executable, "-S", str(LOAD), kind, *map(str, argv))
    return json.loads(output(line, timeout))


def output(argv: Sequence[str], timeout: float = 60) -> str:
    """Run a command to its end and return its output; raises `BenchmarkError`."""
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=timeout, check=False, env=environment()
        )
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"{argv[2]}: no result in {timeout:.0f} s") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise BenchmarkError(f"{argv[2]}: exit code {done.returncode}: {(said or ['?'])[-1]}")
    return done.stdout


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 10) -> None:
    """Poll until `condition` holds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise BenchmarkError(f"{what}: not after {seconds:.0f} s")
        time.sleep(0.01)
