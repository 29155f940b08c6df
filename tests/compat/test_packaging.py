"""What a user gets: `pip install .` in a bare virtual environment, and the files in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KITS = ("vpnstack", "hypervisor", "dataflow")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def sources(target: Path) -> Path:
    """Copy what the package is built from, without anything built in place."""
    built = shutil.ignore_patterns("*.so", "*.o", "_core.c", "__pycache__")
    target.mkdir()
    for kit in KITS:
        shutil.copytree(ROOT / kit, target / kit, ignore=built)
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target)
    return target


def run(*argv: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        argv, cwd=cwd, capture_output=True, text=True, timeout=280, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, require: Callable[..., None]) -> Path:
    """A bare virtual environment with the package in it, built from source."""
    require("gcc")
    base = tmp_path_factory.mktemp("packaging")
    source = sources(base / "source")
    venv.create(base / "venv", with_pip=True, symlinks=True)
    python = base / "venv/bin/python"
    run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", ".", cwd=source)
    return base / "venv"


def test_both_cores_load(environment: Path, tmp_path: Path) -> None:
    code = (
        "import vpnstack.core._core as a, hypervisor.core._core as b; print(a.__file__, b.__file__)"
    )
    for name in run(environment / "bin/python", "-I", "-c", code, cwd=tmp_path).split():
        assert Path(name).is_relative_to(environment)


@pytest.mark.parametrize("name", ["vpnstack", "hypervisor", "dataflow"])
def test_console_script(environment: Path, tmp_path: Path, name: str) -> None:
    assert "version" in run(environment / f"bin/{name}", "--version", cwd=tmp_path)


def test_files_that_are_not_modules(environment: Path, tmp_path: Path) -> None:
    """The frame header for other C code, the helper that is started by path, the typing marks."""
    code = "import vpnstack; print(vpnstack.get_include())"
    core = Path(run(environment / "bin/python", "-I", "-c", code, cwd=tmp_path).strip())
    kits = core.parents[1]
    for name in (
        "vpnstack/core/frame.h",
        "vpnstack/host/nshelper.py",
        *(f"{kit}/py.typed" for kit in KITS),
    ):
        assert (kits / name).is_file(), name
    assert not (kits / "tests").exists()


def test_requirements_are_consistent(environment: Path, tmp_path: Path) -> None:
    pip = [environment / "bin/python", "-m", "pip", "--disable-pip-version-check"]
    assert "No broken requirements" in run(*pip, "check", cwd=tmp_path)


def test_without_our_monitor(tmp_path: Path, require: Callable[..., None]) -> None:
    """As on a processor that it is not for: all imports, and `doctor` says why qemu is chosen."""
    require("gcc", "qemu-system-x86_64")
    source = sources(tmp_path / "source")
    build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    run(*build, cwd=source, TRIKIT_NO_MONITOR="1")
    code = (
        "import hypervisor, hypervisor.engine.kvm, hypervisor.core._core as core\n"
        "from hypervisor.engine.choice import choose\n"
        "print(core.__file__, choose(), hasattr(core.lib, 'hv_vm_new'))"
    )
    path = str(source)
    said = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=path).split()
    assert Path(said[0]).is_relative_to(source)
    assert said[1:] == ["qemu", "False"]
    doctor = [sys.executable, "-m", "hypervisor.cli", "doctor", "--json"]
    facts = run(*doctor, cwd=tmp_path, PYTHONPATH=path)
    assert "our monitor is for x86-64, and this was built without it" in facts
