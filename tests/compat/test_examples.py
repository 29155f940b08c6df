"""The programs of examples/, run as a user runs them, in a directory of their own.

quickstart.py needs KVM: tests/kvm runs it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def example(name: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run examples/NAME in `cwd`."""
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=280, check=False,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(Path.home()),
             "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_demo(require: Callable[..., None], tmp_path: Path) -> None:
    require("qemu-system-x86_64", "module:aiohttp")
    run = example("demo.py", "--json", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    steps = json.loads(run.stdout)
    assert {step["name"] for step in steps} >= {"dhcp", "ipv6", "download", "upload", "watch"}
    assert [step["name"] for step in steps if not step["ok"]] == []
    assert (tmp_path / "demo-console.log").stat().st_size > 0


def test_prototype(tmp_path: Path) -> None:
    run = example("prototype.py", "200000", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("Tally, 40") == run.stdout.count("TCP, CUBIC") == 3
    assert run.stdout == example("prototype.py", "200000", cwd=tmp_path).stdout  # virtual time


def test_congestion(tmp_path: Path) -> None:
    run = example("congestion.py", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    rows = {line.split()[0]: line.split() for line in run.stdout.splitlines()[1:]}
    speed = {name: float(row[1]) for name, row in rows.items()}
    delay = {name: float(row[5]) for name, row in rows.items()}
    assert speed["delay"] > 0.9 * speed["cubic"] > 10
    assert delay["delay"] < 0.5 * delay["cubic"]


def test_p9_objects(require: Callable[..., None], tmp_path: Path) -> None:
    require("diodcat")
    program = [sys.executable, str(ROOT / "examples" / "p9_objects.py")]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        program, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment
    ) as server:
        try:
            assert server.stdout is not None
            assert "5640" in server.stdout.readline()
            read = ["diodcat", "-s", "127.0.0.1:5640", "-a", "/", "hello"]
            done = subprocess.run(read, capture_output=True, text=True, timeout=20, check=False)
            assert done.stdout == "hello, world\n", done.stderr
        finally:
            server.terminate()
