"""A file that holds a process's number, and says by its existence that it runs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import UsageError


@contextlib.contextmanager
def pidfile(path: Path | None) -> Iterator[None]:
    """Make `path` with our number in it, decimal and nothing else; remove it at the end.

    It must not exist: UsageError says whose it is.
    """
    if path is None:
        yield
        return
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        raise UsageError(f"the pidfile {path} exists: {_owner(path)}") from None
    except OSError as error:
        raise UsageError(f"cannot make the pidfile {path}: {error.strerror}") from None
    try:
        with os.fdopen(handle, "w") as file:
            file.write(str(os.getpid()))
        yield
    finally:
        path.unlink(missing_ok=True)


def _owner(path: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        pid = int(path.read_text())
        if Path(f"/proc/{pid}").exists():
            return f"process {pid} runs, use another -F"
    return "its process is gone, remove it"
