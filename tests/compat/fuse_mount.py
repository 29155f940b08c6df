"""A mount for tests: `dataflow mount` in a process of its own, as a user has it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

NOBODY = 65534


@contextlib.contextmanager
def mounting(
    what: str | Path, directory: Path, *options: str, user: int | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Mount for the block; the process has said that it is ready."""
    directory.mkdir(exist_ok=True)
    if user is not None:
        os.chown(directory, user, user)
    words = [sys.executable, "-m", "dataflow.cli", "mount", str(what), str(directory), *options]
    child = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        user=user,
        group=user,
        extra_groups=[] if user is not None else None,
    )
    assert child.stdout is not None
    try:
        first = child.stdout.readline()
        assert "mounted" in first, first + child.stdout.read()
        yield child
    finally:
        child.terminate()
        try:
            child.wait(20)
        finally:
            child.kill()
            child.stdout.close()


def git(repo: Path, *words: str) -> str:
    """Run plain git, as somebody, and return what it prints."""
    command = ["git", "-C", str(repo), "-c", "user.name=t", "-c", "user.email=t@t", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
