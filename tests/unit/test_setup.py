"""scripts/setup where packages are missing, with a `dpkg-query` and an `apt-get` of our own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

SETUP = Path(__file__).parents[2] / "scripts/setup"
TOOLS = ["bash", "dirname", "mktemp", "tail", "cat", "rm", "env"]
DPKG = 'case "$*" in *{missing}*) exit 1;; *) printf installed;; esac'

Machine = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Run setup for a purpose on a machine on which one package is missing."""
    bins = tmp_path / "bin"
    bins.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (bins / tool).symlink_to(found)
    (tmp_path / "scripts").mkdir()
    script = shutil.copy(SETUP, tmp_path / "scripts")

    def run(purpose: str, **programs: str) -> subprocess.CompletedProcess[str]:
        programs = {"python3": "exit 0", "sudo": "exit 1", "apt-get": "exit 0"} | programs
        for name, text in programs.items():
            path = bins / name.replace("_", "-")
            path.write_text(f"#!/bin/bash\n{text}\n")
            path.chmod(0o755)
        return subprocess.run(
            ["/bin/bash", script, purpose],
            env={"PATH": str(bins), "TMPDIR": str(tmp_path)},
            capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip

    return run


def test_no_privilege_says_what_to_install(machine: Machine) -> None:
    done = machine("demo", dpkg_query=DPKG.format(missing="qemu"), id="echo 1000")
    assert done.returncode == 1
    assert done.stderr.splitlines()[1:] == [
        "    sudo apt-get install -y --no-install-recommends qemu-system-x86"
    ]


def test_demo_does_not_want_what_only_tests_need(machine: Machine) -> None:
    wanted = [
        machine(purpose, dpkg_query="exit 1", id="echo 1000").stderr for purpose in ("demo", "test")
    ]
    assert ["dpdk-dev" in text for text in wanted] == [False, True]
    assert all("qemu-system-x86" in text for text in wanted)


def test_a_python_that_serves_needs_no_packages(machine: Machine) -> None:
    """`python3` here claims to be new enough, with headers and venv, as pyenv's would."""
    done = machine("demo", dpkg_query="exit 1", id="echo 1000")
    assert "python3" not in done.stderr


def test_failed_apt_shows_why(machine: Machine) -> None:
    apt = 'case "$*" in *install*) echo "E: no space left"; exit 100;; esac'
    done = machine("demo", dpkg_query=DPKG.format(missing="kmod"), id="echo 0", **{"apt-get": apt})
    assert done.returncode == 1
    assert "setup: installing packages: kmod" in done.stdout
    assert "E: no space left" in done.stderr


def test_sudo_is_used_where_it_needs_no_password(machine: Machine) -> None:
    done = machine(
        "demo",
        dpkg_query=DPKG.format(missing="kmod"),
        id="echo 1000",
        sudo='case "$*" in *install*) echo "sudo: $*"; exit 1;; esac',
    )
    assert "sudo: -n env DEBIAN_FRONTEND=noninteractive apt-get install" in done.stderr


def test_unknown_purpose(machine: Machine) -> None:
    done = machine("nonsense", dpkg_query="printf installed")
    assert done.returncode == 1
    assert "expected demo, test or fuzz, found nonsense" in done.stderr
