"""The fids of one connection: names the client gave to places in the tree."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .errors import P9Error
from .tree import Context, Directory, Entry, Handle, Node

if TYPE_CHECKING:
    from .server import Request

FIDS_MAX = 65536


class Place:
    """A node as it was reached: `..` goes to `parent`, the root's is itself."""

    __slots__ = ("name", "node", "parent")

    def __init__(self, node: Node, parent: Place | None = None, name: str = "") -> None:
        self.node = node
        self.parent = parent
        self.name = name

    @property
    def directory(self) -> Directory:
        """The node as a directory; ENOTDIR if it is none."""
        if not isinstance(self.node, Directory):
            raise P9Error(errno.ENOTDIR, "Is not a directory")
        return self.node

    @property
    def holder(self) -> tuple[Directory, str]:
        """The directory that holds this node, and its name there; EBUSY for the root."""
        if self.parent is None:
            raise P9Error(errno.EBUSY, "Can't rename or remove /")
        return self.parent.directory, self.name

    def moved(self, old: tuple[int, str], parent: Place, name: str) -> None:
        """Follow a rename of (qid path of the directory, name), here or further up."""
        here: Place = self
        while here.parent is not None:
            if (here.parent.node.qid_path, here.name) == old:
                here.parent, here.name = parent, name
                return
            here = here.parent


class XattrRead:
    """A fid made by Txattrwalk: it reads a value, or the list of names."""

    __slots__ = ("value",)

    def __init__(self, value: bytes) -> None:
        self.value = value


class XattrWrite:
    """A fid after Txattrcreate: it collects the value, which is set when the fid is clunked."""

    __slots__ = ("flags", "name", "size", "value")

    def __init__(self, name: str, size: int, flags: int) -> None:
        self.name = name
        self.size = size
        self.flags = flags
        self.value = bytearray()


class Fid:
    """One fid: a place, who reached it, and what it is open as."""

    __slots__ = (
        "cookie",
        "ctx",
        "handle",
        "listing",
        "offset",
        "open",
        "place",
        "remove",
        "requests",
        "rest",
        "xattr",
    )

    def __init__(self, place: Place, ctx: Context) -> None:
        self.place = place
        self.ctx = ctx
        self.open = False  # also while an open is under way
        self.handle: Handle | None = None  # of an open file; a directory has none
        self.listing: tuple[Entry, ...] = ()  # of an open directory, as of its last rewind
        self.offset = 0  # 9P2000 directories: the offset at which the next read must go on
        self.rest = 0  # 9P2000 directories: the room that the last read left over
        self.cookie = 0  # 9P2000 directories: the entry that comes next
        self.remove = False  # ORCLOSE
        self.xattr: XattrRead | XattrWrite | None = None
        self.requests: set[Request] = set()  # in flight on this fid

    @property
    def node(self) -> Node:
        """The node at this fid's place."""
        return self.place.node

    def must_open(self) -> Handle:
        """Return the handle; EBADF where the fid is not an open file."""
        if self.handle is None:
            raise P9Error(errno.EBADF, "Can't read from unopened fid")
        return self.handle

    def begin_open(self) -> None:
        """Claim the fid for an open; EBADF if it is open already."""
        if self.open or self.xattr is not None:
            raise P9Error(errno.EBADF, "Already open")
        self.open = True


class FidTable:
    """The fids of one connection, at most `limit`."""

    def __init__(self, limit: int = FIDS_MAX) -> None:
        self._limit = limit
        self._fids: dict[int, Fid | None] = {}  # None: reserved by a request under way

    def __len__(self) -> int:
        return len(self._fids)

    def __iter__(self) -> Iterator[Fid]:
        return iter([fid for fid in self._fids.values() if fid is not None])

    def get(self, number: int) -> Fid:
        """Return a fid; EBADF if there is none."""
        fid = self._fids.get(number)
        if fid is None:
            raise P9Error(errno.EBADF, "Unknown fid")
        return fid

    def reserve(self, number: int) -> None:
        """Claim a number before awaiting; then `put` or `release` it."""
        if number in self._fids:
            raise P9Error(errno.EBADF, "Fid in use")
        if len(self._fids) >= self._limit:
            raise P9Error(errno.EMFILE, f"More than {self._limit} fids")
        self._fids[number] = None

    def put(self, number: int, fid: Fid) -> None:
        """Fill a reserved number."""
        self._fids[number] = fid

    def release(self, number: int) -> None:
        """Give up a reserved number; one that was filled stays."""
        if self._fids.get(number, self) is None:
            del self._fids[number]

    def pop(self, number: int) -> Fid:
        """Remove a fid and return it; EBADF if there is none."""
        fid = self.get(number)
        del self._fids[number]
        return fid
