"""Children: exit codes, last words, and death with the parent."""

import asyncio
import os
import shutil
import signal

import pytest

from hypervisor.aio.process import Child

pytestmark = pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


async def test_exit_code_and_last_words() -> None:
    before = descriptors()
    child = Child(["sh", "-c", "echo one >&2; echo two >&2; exit 7"])
    assert await child.returncode == 7
    assert child.last_words == "one; two"
    assert descriptors() <= before


async def test_kill() -> None:
    child = Child(["sleep", "60"])
    child.kill()
    assert await asyncio.wait_for(child.returncode, 5) == -signal.SIGKILL
    child.kill()  # does nothing


async def test_last_words_are_bounded() -> None:
    child = Child(["sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x >&2"])
    await child.returncode
    assert 0 < len(child.last_words) <= 4096


async def test_parent_death_signal_is_set() -> None:
    child = Child(["python3", "-c", PDEATHSIG])
    await child.returncode
    assert child.last_words == str(int(signal.SIGKILL))


PDEATHSIG = """
import ctypes, sys
out = ctypes.c_int()
ctypes.CDLL(None).prctl(2, ctypes.byref(out), 0, 0, 0)
sys.stderr.write(str(out.value))
"""
