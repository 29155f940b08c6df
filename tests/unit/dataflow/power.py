"""A disk that loses power: what a directory may look like if all that was not synced is at risk.

`PowerCut` watches the syncs that `dataflow.store` makes in a directory and keeps what is durable
beside it.  It is stricter than any file system: a new name is durable only after its directory was
synced, a file only after its own sync, in the state it had then.  `cut` makes a copy in which each
difference between the disk and what is durable has survived, is lost, or is half written, as a
seeded generator says; pages of a file of unchanged size survive sector by sector.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

SECTOR = 512
State = tuple[bytes, int]  # octets, and when they were written in nanoseconds


class LateThread(threading.Thread):
    """A thread that runs as late as it may: when it is waited for."""

    def start(self) -> None:
        """Do nothing yet."""

    def join(self, timeout: float | None = None) -> None:
        """Run."""
        self.run()


class PowerCut:
    """Watches `live`; `at_sync` is called before and after each sync."""

    def __init__(self, live: Path, monkeypatch) -> None:
        self.live = live
        self.names: dict[str, int] = {}  # durable: relative path to inode
        self.content: dict[int, tuple[bytes, int]] = {}  # durable, by inode, with its mtime
        self.at_sync: Callable[[], object] = lambda: None
        self._keep: list[int] = []  # descriptors: an inode's number is not used again
        self._mine = threading.get_ident()
        self.sync_all(-1)
        monkeypatch.setattr("dataflow.store.journal.os.fdatasync", self.sync)
        monkeypatch.setattr("dataflow.store.syncing.os.fsync", self.sync)
        monkeypatch.setattr("dataflow.store.journal.syncfs", self.sync_all)
        monkeypatch.setattr("dataflow.store.syncing.syncfs", self.sync_all)
        monkeypatch.setattr("dataflow.store.journal.threading.Thread", LateThread)

    def sync(self, fd: int) -> None:
        """Take a file, or a directory's names, as durable."""
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        if not path.is_relative_to(self.live) or threading.get_ident() != self._mine:
            return  # a thread in the background would make every run another one
        self.at_sync()
        if path.is_dir():
            self._sync_names(path)
        else:
            self._sync_file(path)
        self.at_sync()

    def sync_all(self, fd: int) -> None:
        """Take everything as durable (syncfs)."""
        self.names.clear()
        for path in self.live.rglob("*"):
            if path.is_file():
                self._sync_file(path)
                self.names[str(path.relative_to(self.live))] = path.stat().st_ino

    def _sync_file(self, path: Path) -> None:
        inode = path.stat().st_ino
        if inode not in self.content:
            self._keep.append(os.open(path, os.O_RDONLY))
        self.content[inode] = _state(path)

    def _sync_names(self, directory: Path) -> None:
        here = str(directory.relative_to(self.live))
        for name in [n for n in self.names if os.path.dirname(n) == here]:
            del self.names[name]
        for path in directory.iterdir():
            if path.is_file():
                self.names[str(path.relative_to(self.live))] = path.stat().st_ino

    def close(self) -> None:
        """Let the inodes go."""
        for fd in self._keep:
            os.close(fd)

    def cut(self, where: Path, rng: random.Random) -> Path:
        """Make in `where` what may be left after a power cut now."""
        now = {str(p.relative_to(self.live)): p for p in self.live.rglob("*") if p.is_file()}
        for link in [p for p in self.live.rglob("*.lock") if p.is_symlink()]:
            if rng.random() < 0.5:  # a short link is in its inode: there, or not
                target = where / link.relative_to(self.live)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(os.readlink(link))
        for name in sorted(now.keys() | self.names.keys()):
            found = self._survivor(name, now.get(name), rng)
            if found is not None:
                target = where / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(found[0])
                os.utime(target, ns=(found[1], found[1]))
        for directory in ("refs/heads", "refs/tags", "objects/info", "objects/pack"):
            (where / directory).mkdir(parents=True, exist_ok=True)
        return where

    def _survivor(self, name: str, path: Path | None, rng: random.Random) -> State | None:
        old = self.content.get(self.names[name], (b"", 0)) if name in self.names else None
        new = _state(path) if path else None
        if path and old and new and path.stat().st_ino == self.names[name]:
            return (_mixed(old[0], new[0], rng), new[1]) if len(old[0]) == len(new[0]) else new
        if new and path and path.stat().st_ino not in self.content:
            new = (rng.choice([new[0], b"", new[0][: rng.randint(0, len(new[0]))]]), new[1])
        return rng.choice([old, new])


def _state(path: Path) -> State:
    return path.read_bytes(), path.stat().st_mtime_ns


def _mixed(old: bytes, new: bytes, rng: random.Random) -> bytes:
    if old == new:
        return old
    out = bytearray(old)
    for at in range(0, len(old), SECTOR):
        if old[at : at + SECTOR] != new[at : at + SECTOR] and rng.random() < 0.5:
            out[at : at + SECTOR] = new[at : at + SECTOR]
    return bytes(out)
