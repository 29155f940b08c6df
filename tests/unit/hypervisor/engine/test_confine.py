"""What a program behind the filter may make of files, tried with the system's own tools."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hypervisor.engine import confine


def confined(*program: object) -> "subprocess.CompletedProcess[str]":
    command = confine.command(list(map(str, program)))
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("contents")
    return path


@pytest.mark.parametrize("mode", ["4755", "2755", "6755", "u+s"])
def test_no_set_id_bit(file: Path, mode: str) -> None:
    done = confined("chmod", mode, file)
    assert done.returncode == 1
    assert "Operation not permitted" in done.stderr
    assert not file.stat().st_mode & 0o6000


@pytest.mark.parametrize("mode", ["755", "1777", "u-s,g-s", "0"])
def test_other_bits(file: Path, mode: str) -> None:
    assert confined("chmod", mode, file).returncode == 0


CALLS = {
    "open": "os.open(path, os.O_CREAT | os.O_WRONLY, mode)",
    "fchmod": "os.fchmod(os.open(path, os.O_CREAT | os.O_WRONLY), mode)",
    "mknod": "os.mknod(path, stat.S_IFREG | mode)",
    "creat": "libc.creat(path.encode(), mode) >= 0 or failed()",
    "chmod": "os.mkdir(path), os.chmod(path, mode)",
    "fchmodat": "os.mkdir(path), os.chmod('new', mode, dir_fd=os.open('.', 0))",
}
PROGRAM = """
import ctypes, os, stat, sys
libc = ctypes.CDLL(None, use_errno=True)
def failed():
    raise OSError(ctypes.get_errno(), "it failed")
path, mode = "new", int(sys.argv[1], 8)
"""


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("mode", "good"), [("4755", False), ("2755", False), ("755", True)])
def test_every_call_with_a_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, mode: str, good: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    done = confined(sys.executable, "-c", PROGRAM + CALLS[call], mode)
    assert (done.returncode == 0) is good, done.stderr
    assert good or "PermissionError: [Errno 1]" in done.stderr
    made = tmp_path / "new"
    assert not (made.exists() and made.stat().st_mode & 0o6000)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who alone makes device nodes")
def test_root_makes_no_device_nodes_and_no_file_capabilities(tmp_path: Path, file: Path) -> None:
    assert confined("mknod", tmp_path / "null", "c", "1", "3").returncode == 1
    value = bytes([0, 0, 0, 2]) + bytes(16)  # struct vfs_cap_data: no capability at all
    setcap = f"import os; os.setxattr({str(file)!r}, 'security.capability', {value!r})"
    assert "PermissionError" in confined(sys.executable, "-c", setcap).stderr
    assert confined("mkfifo", tmp_path / "fifo").returncode == 0
    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)


def test_code_and_output_are_the_programs() -> None:
    done = confined("sh", "-c", "echo out; exit 3")
    assert (done.returncode, done.stdout) == (3, "out\n")
