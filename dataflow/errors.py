"""The errors of dataflow: one root, and two branches, local misuse and the other side's fault.

Every error carries the `errno` a file system client gets for it.  The texts are DataKit's where a
client of it could depend on them; a path or an id follows after a colon.
"""

from __future__ import annotations

import errno as _errno
from typing import Any, ClassVar


class DataflowError(Exception):
    """Anything this kit raises by design; its message fits one line and says what to do."""

    errno: ClassVar[int] = _errno.EIO


class UsageError(DataflowError):
    """The caller asked for something that cannot be: a wrong argument, a path that is not there."""

    errno = _errno.EINVAL


class PeerError(DataflowError):
    """The other side misbehaved: a damaged repository, a lock left behind, a broken client."""


class NotFoundError(UsageError):
    """Nothing is at that path, branch or id."""

    errno = _errno.ENOENT

    def __init__(self, what: str = "") -> None:
        super().__init__(_said("No such file or directory", what))
        self.what = what


class IsDirectoryError(UsageError):
    """A directory stands where a file was expected."""

    errno = _errno.EISDIR

    def __init__(self, what: str = "") -> None:
        super().__init__(_said("Is a directory", what))
        self.what = what


class NotDirectoryError(UsageError):
    """A file stands where a directory was expected."""

    errno = _errno.ENOTDIR

    def __init__(self, what: str = "") -> None:
        super().__init__(_said("Is not a directory", what))
        self.what = what


class ExistsError(UsageError):
    """Something is there already."""

    errno = _errno.EEXIST

    def __init__(self, what: str = "") -> None:
        super().__init__(_said("Already exists", what))
        self.what = what


class NotEmptyError(UsageError):
    """A directory still holds something."""

    errno = _errno.ENOTEMPTY

    def __init__(self, what: str = "") -> None:
        super().__init__(_said("Directory is not empty", what))
        self.what = what


class ReadOnlyError(UsageError):
    """This tree, file or directory cannot be written."""

    errno = _errno.EROFS


class NotPermittedError(UsageError):
    """The object does not know this operation."""

    errno = _errno.EPERM

    def __init__(self, what: str = "") -> None:
        super().__init__(_said("Operation not permitted", what))


class InvalidNameError(UsageError):
    """A path component or a branch name that Git or a file system could not hold."""


class NameTooLongError(InvalidNameError):
    """A name, a path or a chain of directories is longer than may be."""

    errno = _errno.ENAMETOOLONG


class InvalidHashError(UsageError):
    """A text that is no object id, or an id of the wrong kind of object."""

    def __init__(self, found: str) -> None:
        super().__init__(f"invalid-hash {_quoted(found)}")
        self.found = found


class UnknownCommandError(UsageError):
    """A control file was given a word it does not know."""

    def __init__(self, found: str) -> None:
        super().__init__(f"Unknown command {_quoted(found)}")
        self.found = found


class TransactionClosedError(UsageError):
    """The transaction was committed or closed before."""

    errno = _errno.ESTALE


class NotFastForwardError(UsageError):
    """The new head does not descend from the branch's head."""

    errno = _errno.EBUSY

    def __init__(self, branch: str, head: str, wanted: str) -> None:
        super().__init__(f"not-fast-forward: {branch} is at {head}, {wanted} does not contain it")
        self.branch, self.head, self.wanted = branch, head, wanted


class MergeConflictError(UsageError):
    """Both sides changed the same paths (`paths`, `reason` of the first).

    `conflicts` has them as data: `dataflow.tree.conflicts.Conflict`.
    """

    errno = _errno.EBUSY

    def __init__(
        self, paths: tuple[str, ...], reason: str, conflicts: tuple[Any, ...] = ()
    ) -> None:
        shown = ", ".join(paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")
        super().__init__(f"Merge conflict: {reason} ({shown})")
        self.paths, self.reason, self.conflicts = paths, reason, conflicts


class ConflictsRemainError(UsageError):
    """A commit was asked for while `conflicts` still lists `paths`."""

    errno = _errno.EBUSY

    def __init__(self, paths: tuple[str, ...]) -> None:
        super().__init__(f"conflicts file is not empty: {len(paths)} unresolved, first {paths[0]}")
        self.paths = paths


class QuotaError(UsageError):
    """An owner's open transactions are too many, or hold too much."""

    errno = _errno.EDQUOT

    def __init__(self, wanted: int, used: int, limit: int, what: str = "octets in edits") -> None:
        super().__init__(f"{what}: {used} and {wanted} more, at most {limit}")
        self.wanted, self.used, self.limit = wanted, used, limit


class AccessError(UsageError):
    """It belongs to somebody else."""

    errno = _errno.EACCES


class ObjectMissingError(PeerError):
    """The repository lacks an object that something in it names."""

    errno = _errno.ENOENT

    def __init__(self, oid: str) -> None:
        super().__init__(f"object {oid} is not in the repository")
        self.oid = oid


class ObjectCorruptError(PeerError):
    """An object's octets do not parse as what they should be."""

    def __init__(self, oid: str, reason: str) -> None:
        super().__init__(f"object {oid} is damaged: {reason}")
        self.oid = oid


class RefChangedError(PeerError):
    """A compare-and-set found another value; somebody else moved the reference."""

    errno = _errno.EAGAIN

    def __init__(self, name: str, expected: str | None, found: str | None) -> None:
        super().__init__(f"{name}: expected {expected or 'nothing'}, found {found or 'nothing'}")
        self.name, self.expected, self.found = name, expected, found


class RefLockedError(PeerError):
    """A lock file of Git was in the way for the whole time allowed; `age` seconds old."""

    errno = _errno.EBUSY

    def __init__(self, path: str, age: float, waited: float) -> None:
        super().__init__(
            f"{path} exists since {age:.1f} s, waited {waited:.1f} s; "
            "if no git process is running, a dead one left it: remove it"
        )
        self.path, self.age, self.waited = path, age, waited


class RemoteUrlError(UsageError):
    """A remote has no URL yet."""

    def __init__(self, name: str) -> None:
        super().__init__(f"error: remote url is not defined: {name}")
        self.name = name


class NoRemoteHeadError(PeerError):
    """The other repository has no branch of that name."""

    errno = _errno.ENOENT

    def __init__(self, url: str, branch: str) -> None:
        super().__init__(f"error: no head to fetch: {url} has no branch {branch!r}")
        self.url, self.branch = url, branch


class CannotFetchError(PeerError):
    """Fetching failed: the other side, or the way to it."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"error: cannot fetch {url}: {reason}")
        self.url, self.reason = url, reason


class CannotPushError(PeerError):
    """Pushing failed: the other side refused it, or the way to it is broken."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"error: cannot push to {url}: {reason}")
        self.url, self.reason = url, reason


class HistoryTooDeepError(PeerError):
    """A walk through history met its bound before it had an answer."""

    errno = _errno.E2BIG


def _said(text: str, what: str) -> str:
    return f"{text}: {what}" if what else text


def _quoted(found: str) -> str:
    """Return a text in double quotes, as DataKit shows what it does not know; on one line."""
    return '"' + repr(found)[1:-1].replace('"', '\\"') + '"'
