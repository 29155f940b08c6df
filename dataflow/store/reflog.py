"""Git's reflogs, so that plain `git reflog` shows our moves: `logs/<reference>`, a line a move.

As git has it (git-config, core.logAllRefUpdates): a bare repository logs only if that is set, as it
is in those that we make, and whatever is set, a log that exists goes on.  Lines are not synced: a
log is a convenience, what was committed is not in it alone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence

from dulwich.objects import ZERO_SHA, ObjectID
from dulwich.reflog import format_reflog_line
from dulwich.repo import Repo

from .base import HEADS, Kind, Oid, RefUpdate

_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC

Get = Callable[[Oid], tuple[Kind, bytes]]


class Reflogs:
    """The reflogs of a repository."""

    def __init__(self, repo: Repo, get: Get) -> None:
        self._top = os.path.join(repo.commondir(), "logs")
        self._get = get
        try:
            wanted = repo.get_config_stack()
            self._all = wanted.get((b"core",), b"logallrefupdates").lower() in {b"true", b"always"}
        except (KeyError, PermissionError):  # HOME may be another user's: `sudo -u`, a service
            self._all = not repo.bare

    def note(self, updates: Sequence[RefUpdate]) -> None:
        """Log moves that have been made; an error here undoes nothing, so there is none."""
        for update in updates:
            with contextlib.suppress(OSError, ValueError, LookupError):
                self._note(update)

    def _note(self, update: RefUpdate) -> None:
        path = os.path.join(self._top, update.name)
        if update.new is None:
            os.unlink(path)
            return
        fd = self._open(path, update.name)
        if fd is not None:
            try:
                os.write(fd, self._line(update.old, update.new) + b"\n")
            finally:
                os.close(fd)

    def _open(self, path: str, name: str) -> int | None:
        """Open the log of a reference, made if it is to have one."""
        try:
            return os.open(path, _APPEND)
        except FileNotFoundError:
            if not (self._all and name.startswith(HEADS)):
                return None
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return os.open(path, _APPEND | os.O_CREAT, 0o666)

    def _line(self, old: Oid | None, new: Oid) -> bytes:
        _, raw = self._get(new)
        head, _, message = raw.partition(b"\n\n")
        by = next(x for x in head.split(b"\n") if x.startswith(b"committer ")).split(b" ", 1)[1]
        who, when, zone = by.rsplit(b" ", 2)
        minutes = int(zone[-4:-2]) * 60 + int(zone[-2:])
        seconds = -60 * minutes if zone.startswith(b"-") else 60 * minutes
        subject = message.split(b"\n", 1)[0]
        what = b"commit: " if old else b"commit (initial): "
        before = ObjectID(old.encode()) if old else ZERO_SHA
        after = ObjectID(new.encode())
        return format_reflog_line(before, after, who, int(when), seconds, what + subject)
