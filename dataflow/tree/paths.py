"""Paths inside a tree: tuples of octet strings, checked once where they enter.

Git forbids empty names, `.`, `..`, slashes, NUL and everything that some file system would take
for `.git` (fsck's `hasDotgit`: any case, HFS+ with ignorable characters, NTFS with trailing dots,
spaces or a stream, and its short name `git~1`).  A component has at most 255 octets, as Linux
has it.  Texts are UTF-8 with `surrogateescape`, so every Git name has a Python text.
"""

from __future__ import annotations

import re

from ..errors import InvalidNameError, NameTooLongError, NotPermittedError

NAME_MAX = 255
PATH_MAX = 4096
DEPTH_MAX = 256  # names in the path of what is made: all that descends has stack for more

Path = tuple[bytes, ...]
ROOT: Path = ()

_HFS_IGNORED = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
_NTFS_GITMODULES = re.compile(
    rb"(\.gitmodules|gitmod~[1-4]|gi7eba~[1-9]|gi7eb~[1-9]\d|gi7e~[1-9]\d\d)[ .]*([:].*)?",
    re.IGNORECASE | re.DOTALL,
)
_NTFS_DOTGIT = re.compile(rb"(\.git|git~1)[ .]*([:\\].*)?", re.IGNORECASE | re.DOTALL)


def check_name(name: bytes) -> bytes:
    """Return `name` if it may stand in a tree, else raise `InvalidNameError`."""
    if name in {b"", b".", b".."} or b"/" in name or b"\0" in name:
        raise InvalidNameError(f"{name!r} cannot be a name in a tree")
    if len(name) > NAME_MAX:
        raise NameTooLongError(f"name of {len(name)} octets, at most {NAME_MAX}: {name[:32]!r}...")
    if _is_dotgit(name):
        raise InvalidNameError(f"{name!r} is Git's own directory on some system")
    return name


def _is_dotgit(name: bytes) -> bool:
    if any(_NTFS_DOTGIT.fullmatch(part) for part in name.split(b"\\")):
        return True
    if name.isascii():
        return False
    return _HFS_IGNORED.sub("", name.decode("utf-8", "replace")).lower() == ".git"


def check_link_name(name: bytes) -> bytes:
    """Return `name` if a link may have it: `.gitmodules` is none (fsck's `gitmodulesSymlink`)."""
    plain = (
        name if name.isascii() else _HFS_IGNORED.sub("", name.decode("utf-8", "replace")).encode()
    )
    if _NTFS_GITMODULES.fullmatch(plain):
        raise NotPermittedError(f"{name!r} as a link (fsck gitmodulesSymlink)")
    return name


def parse(path: str | bytes) -> Path:
    """Take a path apart; one leading or trailing slash is forgiven, "" is the root."""
    octets = path.encode("utf-8", "surrogateescape") if isinstance(path, str) else path
    octets = octets.removeprefix(b"/").removesuffix(b"/")
    if not octets:
        return ROOT
    if len(octets) > PATH_MAX:
        raise NameTooLongError(f"path of {len(octets)} octets, at most {PATH_MAX}")
    return tuple(check_name(name) for name in octets.split(b"/"))


def check_depth(path: Path) -> None:
    """Raise `NameTooLongError` where `path` is too deep for something to be made there."""
    if len(path) > DEPTH_MAX:
        raise NameTooLongError(f"path of {len(path)} names, at most {DEPTH_MAX}")


def text(path: Path) -> str:
    """Return the path as text, components joined with slashes."""
    return b"/".join(path).decode("utf-8", "surrogateescape")
