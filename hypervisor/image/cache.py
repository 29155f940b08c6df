"""The cache of downloaded packages and built images: content-addressed, safe for many builders.

An entry is a directory that appears by one rename(2), so it is there in full or not at all.  A
builder holds the lock of its key, so two that want the same image build it once.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ..errors import UsageError


def default_directory(environ: Mapping[str, str]) -> Path:
    """Return `trikit` in the user's cache directory (XDG Base Directory Specification)."""
    base = environ.get("XDG_CACHE_HOME") or ""
    root = Path(base) if os.path.isabs(base) else Path(os.path.expanduser("~/.cache"))
    return root / "trikit"


class Cache:
    """A directory with `debs/`, `images/` and `locks/`, made when first needed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.debs = directory / "debs"
        self.images = directory / "images"

    @contextmanager
    def locked(self, key: str) -> Iterator[None]:
        """Hold the lock of `key` against other threads and processes."""
        locks = self._made(self.directory / "locks")
        with open(locks / key, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def publishing(self, target: Path) -> Iterator[Path]:
        """Give a fresh directory that becomes `target` if the block succeeds, else vanishes."""
        parent = self._made(target.parent)
        fresh = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
        try:
            yield fresh
            fresh.chmod(0o755)
            if target.exists():
                shutil.rmtree(target)
            os.rename(fresh, target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def entries(self) -> list[Path]:
        """Return the directories of the images that are complete, oldest first."""
        found = [p for p in self.images.glob("*/image.json") if not p.parent.name.startswith(".")]
        return [p.parent for p in sorted(found, key=lambda p: (p.stat().st_mtime, p))]

    def prune(self, keep: frozenset[str] = frozenset()) -> int:
        """Remove every image but those named in `keep`, and all packages; return bytes freed."""
        freed = 0
        doomed = [p for p in self.images.glob("*") if p.name not in keep]
        for path in [*doomed, *self.debs.glob("*")]:
            freed += size_of(path)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return freed

    def _made(self, path: Path) -> Path:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"cannot make the cache {path}: {error.strerror}; set XDG_CACHE_HOME or --cache"
            ) from None
        return path


def size_of(path: Path) -> int:
    """Return the bytes of the files at and below `path`."""
    if path.is_file():
        return path.stat().st_size
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def replace(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, also among others who do the same."""
    handle, fresh = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    with open(handle, "wb") as file:
        file.write(data)
    os.replace(fresh, path)
