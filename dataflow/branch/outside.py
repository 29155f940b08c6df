"""Sees what others do to the branches: a `git push` into the directory, another process's commit.

Git and we move a reference by renaming a file into its directory, or into the repository for
`packed-refs`; the kernel tells of both by inotify, within a millisecond and for nothing while
nothing happens.  Directories of branches come and go, so those on the way to each watched branch
are watched as they are found.  Where inotify is blind (network file systems and FUSE: others write
there without this kernel's knowledge) references are read every `poll_interval` seconds.  They are
read everywhere every `SAFETY_INTERVAL` seconds, should an event have been lost.

inotify_simple: the kernel's interface as it is, a hundred lines, no thread.  watchfiles and
watchdog bring a thread and a delay of their own, made to gather the many events of an editor.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping

from inotify_simple import INotify, flags

from ..store.base import HEADS, Oid

SAFETY_INTERVAL = 5.0
# File systems on which every write goes through this kernel.
LOCAL = frozenset({"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay"})
LOCAL |= {"ramfs", "reiserfs", "tmpfs", "xfs", "zfs"}
_MASK = flags.MOVED_TO | flags.CREATE | flags.DELETE | flags.DELETE_SELF | flags.ONLYDIR

Look = Callable[[], Awaitable[Mapping[str, Oid | None]]]


def is_local(path: str, mounts: str = "/proc/self/mountinfo") -> bool:
    """Say whether inotify sees every write below `path` (proc_pid_mountinfo(5))."""
    best, kind = "", ""
    wanted = os.path.realpath(path).rstrip("/") + "/"
    try:
        with open(mounts, encoding="utf-8", errors="surrogateescape") as f:
            for line in f:
                fields = line.split(" ")
                where = fields[4].replace("\\040", " ").rstrip("/") + "/"
                if wanted.startswith(where) and len(where) >= len(best):
                    best, kind = where, fields[fields.index("-") + 1]
    except (OSError, ValueError, IndexError):
        return False
    return kind in LOCAL


class RefEvents:
    """inotify on the directories of some branches' references, below `git_dir`."""

    def __init__(self, git_dir: str, changed: Callable[[str | None], object]) -> None:
        self._top = git_dir
        self._changed = changed  # called with a branch, or None: any may have moved
        self._inotify = INotify(nonblocking=True)
        self.complete = True  # false once the kernel refused a watch
        self._branches: set[str] = set()
        self._paths: dict[int, str] = {}  # by watch descriptor
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._inotify.fileno(), self._ready)
        self._add("")

    def watch(self, branch: str) -> None:
        """See what happens to a branch from now on."""
        self._branches.add(branch)
        self._follow(branch)

    def unwatch(self, branch: str) -> None:
        """Let go of a branch, and of the directories that no other one needs."""
        self._branches.discard(branch)
        needed = {d for b in self._branches for d in _directories(b)} | {""}
        for number, path in list(self._paths.items()):
            if path not in needed:
                del self._paths[number]
                with contextlib.suppress(OSError):  # the directory is gone
                    self._inotify.rm_watch(number)

    def _follow(self, branch: str) -> None:
        for directory in _directories(branch):
            if not self._add(directory):
                break

    def _add(self, directory: str) -> bool:
        """Watch a directory; twice is once for the kernel.  False where there is none."""
        try:
            number = self._inotify.add_watch(os.path.join(self._top, directory), _MASK)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:  # ENOSPC: fs.inotify.max_user_watches
            self.complete = False
            return False
        self._paths[number] = directory
        return True

    def _ready(self) -> None:
        moved: dict[str | None, None] = {}
        for event in self._inotify.read(timeout=0):
            if event.mask & flags.Q_OVERFLOW:
                moved[None] = None
            elif event.mask & flags.IGNORED:
                self._paths.pop(event.wd, None)
            else:
                directory = self._paths.get(event.wd, "")
                self._note(event.mask, os.path.join(directory, event.name), moved)
        if None in moved:
            moved = {None: None}
        for branch in moved:
            self._changed(branch)

    def _note(self, mask: int, path: str, moved: dict[str | None, None]) -> None:
        if path == "packed-refs":
            moved[None] = None
        elif mask & flags.ISDIR and (path + "/").startswith(HEADS):
            below = path[len(HEADS) :] + "/"
            for branch in self._branches:
                if branch.startswith(below):
                    self._follow(branch)  # and then look: it may have been there before us
                    moved[branch] = None
        elif path.startswith(HEADS) and path[len(HEADS) :] in self._branches:
            moved[path[len(HEADS) :]] = None

    def close(self) -> None:
        """Stop."""
        self._loop.remove_reader(self._inotify.fileno())
        self._inotify.close()


class Poller:
    """Reads the references of the watched branches every `interval` seconds."""

    def __init__(self, interval: float, look: Look, changed: Callable[[str], object]) -> None:
        self.interval = interval
        self._look = look
        self._changed = changed
        self._seen: dict[str, Oid | None] = {}
        self._task = asyncio.get_running_loop().create_task(self._run(), name="dataflow-poll")

    async def _run(self) -> None:
        while True:
            found = await self._look()
            for branch, oid in found.items():
                if branch not in self._seen or self._seen[branch] != oid:
                    self._changed(branch)
            self._seen = dict(found)
            await asyncio.sleep(self.interval)

    def close(self) -> None:
        """Stop, soon."""
        self._task.cancel()


def _directories(branch: str) -> Iterable[str]:
    """Return the directories on the way to a branch's file, from the top."""
    parts = (HEADS + branch).split("/")
    return ["/".join(parts[:i]) for i in range(1, len(parts))]
