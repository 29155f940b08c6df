"""Serves a directory of the host, confined to it.

Every node holds an O_PATH descriptor of its inode and all work is relative to such descriptors
with O_NOFOLLOW, one name at a time; so no symbolic link and no concurrent rename leads outside.
Links are shown and never followed.  System calls that may block go through `run`, which the front
end makes of a thread pool (`hostdir`); reads of cached data do not (RWF_NOWAIT).
Descriptors are a limit: one for each place that clients hold, one more for each open file.
The server acts as its own user for all clients; files it makes as root are given to the client's.
What a call needs of a node it gets from the node itself: a thread may run it after the request was
cancelled, and the descriptor's number may be another file's by the time the node is gone.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from typing import Any

from ..core.host import lookup_nowait
from ..p9.const import OpenFlag, QidType
from ..p9.errors import P9Error
from ..p9.tree import (
    Attr,
    Context,
    Directory,
    Entry,
    File,
    Handle,
    Node,
    Qid,
    SetAttr,
    StatFs,
    Symlink,
    wants_write,
)
from . import hostattr
from .hosthandle import Host, HostHandle, Runner

_SPREAD = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: tells devices apart
_QID_TYPES = {stat.S_IFDIR: int(QidType.DIR), stat.S_IFLNK: int(QidType.SYMLINK)}
_OPEN_FLAGS = os.O_ACCMODE | os.O_TRUNC | os.O_APPEND | os.O_DSYNC | os.O_SYNC | os.O_EXCL


def _qid(st: os.stat_result) -> Qid:
    return _make_qid(st.st_mode, st.st_dev, st.st_ino, st.st_size, st.st_mtime_ns)


def _make_qid(mode: int, dev: int, ino: int, size: int, mtime_ns: int) -> Qid:
    number = (ino ^ dev * _SPREAD) & 0x7FFFFFFFFFFFFFFF  # no two inodes of a device share it
    return Qid(_QID_TYPES.get(stat.S_IFMT(mode), 0), (mtime_ns ^ size) & 0xFFFFFFFF, number)


class HostNode(Node):
    """A node of the host: an O_PATH descriptor, closed when the last fid lets go of it."""

    def __init__(self, host: Host, fd: int, mode: int, qid: Qid) -> None:
        self.host = host
        self.fd = fd
        self.kind = stat.S_IFMT(mode)  # type: ignore[misc]  # known only here
        self.stat_fd = fd
        self._seen = qid

    def close(self) -> None:
        """Let go of the inode now; nothing can be done with the node any more."""
        fd, self.fd = getattr(self, "fd", -1), -1
        self.stat_fd = -1
        if fd >= 0:
            os.close(fd)

    __del__ = close

    @property
    def qid_path(self) -> int:
        """A number derived from device and inode."""
        return self._seen.path

    @property
    def qid(self) -> Qid:
        """The identity as of the last look at the inode."""
        return self._seen

    @property
    def magic(self) -> str:
        """The magic link that reopens exactly this inode (proc(5))."""
        return f"/proc/self/fd/{self.fd}"

    async def attr(self, ctx: Context) -> Attr:
        """Return what stat(2) says."""
        return self.attr_nowait(ctx)

    def attr_nowait(self, ctx: Context) -> Attr:
        """Return what stat(2) says: an open inode is in memory."""
        st = os.fstat(self.fd)
        self._seen = _qid(st)
        target = os.readlink("", dir_fd=self.fd) if stat.S_ISLNK(st.st_mode) else ""
        return Attr(
            mode=st.st_mode,
            size=st.st_size,
            nlink=st.st_nlink,
            uid=st.st_uid,
            gid=st.st_gid,
            rdev=st.st_rdev,
            blksize=st.st_blksize,
            atime_ns=st.st_atime_ns,
            mtime_ns=st.st_mtime_ns,
            ctime_ns=st.st_ctime_ns,
            target=target,
            blocks=st.st_blocks,
        )

    async def setattr(self, change: SetAttr, ctx: Context) -> None:
        """Change what chmod(2), chown(2), truncate(2) and utimensat(2) change."""
        self.host.must_write()
        await self.host.run(self._setattr, change)

    def _setattr(self, change: SetAttr) -> None:
        hostattr.change(self.magic, self.kind, change, self.host.keep_setuid)

    async def statfs(self, ctx: Context) -> StatFs:
        """Return what statvfs(3) says."""
        v: os.statvfs_result = await self.host.run(lambda: os.statvfs(self.magic))
        return StatFs(
            bsize=v.f_bsize,
            blocks=v.f_blocks * v.f_frsize // v.f_bsize,
            bfree=v.f_bfree * v.f_frsize // v.f_bsize,
            bavail=v.f_bavail * v.f_frsize // v.f_bsize,
            files=v.f_files,
            ffree=v.f_ffree,
            fsid=v.f_fsid & 0xFFFFFFFFFFFFFFFF,
            namelen=v.f_namemax,
        )

    async def xattrs(self, ctx: Context) -> Sequence[str]:
        """Return what listxattr(2) says."""
        names: list[str] = await self.host.run(lambda: os.listxattr(self.magic))
        return names

    async def get_xattr(self, name: str, ctx: Context) -> bytes:
        """Return what getxattr(2) says."""
        value: bytes = await self.host.run(lambda: os.getxattr(self.magic, name))
        return value

    async def set_xattr(self, name: str, value: bytes, flags: int, ctx: Context) -> None:
        """Set or remove what clients may; see `hostattr`."""
        self.host.must_write()
        await self.host.run(self._set_xattr, name, value, flags)

    def _set_xattr(self, name: str, value: bytes, flags: int) -> None:
        hostattr.set_xattr(self.magic, name, value, flags, self.host.keep_setuid)


class HostFile(HostNode, File):
    """A regular file; devices, pipes and sockets are shown but not opened."""

    async def open(self, flags: int, ctx: Context) -> Handle:
        """Open the inode anew."""
        if wants_write(flags):
            self.host.must_write()
        if not stat.S_ISREG(self.kind):
            raise P9Error(errno.ENXIO)
        wanted = flags & _OPEN_FLAGS & ~os.O_EXCL | os.O_CLOEXEC
        fd: int = await self.host.run(self._open, wanted, undo=os.close)
        return HostHandle(self.host, fd, wanted)

    def _open(self, flags: int) -> int:
        fd = os.open(self.magic, flags)
        self.host.opened(fd, flags)
        return fd


class HostLink(HostNode, Symlink):
    """A symbolic link, which the server only reads."""

    async def readlink(self, ctx: Context) -> str:
        """Return where it points."""
        target: str = await self.host.run(lambda: os.readlink("", dir_fd=self.fd))
        return target


class HostDirectory(HostNode, Directory):
    """A directory of the host."""

    @classmethod
    def root(
        cls, path: str, run: Runner, *, read_only: bool = False, keep_setuid: bool = False
    ) -> HostDirectory:
        """Serve `path`, which may itself be reached through links."""
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        st = os.fstat(fd)
        return cls(Host(run, read_only, keep_setuid), fd, st.st_mode, _qid(st))

    async def lookup(self, name: str, ctx: Context) -> Node:
        """Open one name below."""
        node: Node = await self.host.run(self._lookup, name)
        return node

    def _lookup(self, name: str) -> HostNode:
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
        st = os.fstat(fd)
        return self._node(fd, st.st_mode, _qid(st))

    def _node(self, fd: int, mode: int, qid: Qid) -> HostNode:
        kinds: dict[int, type[HostNode]] = {stat.S_IFDIR: HostDirectory, stat.S_IFLNK: HostLink}
        return kinds.get(stat.S_IFMT(mode), HostFile)(self.host, fd, mode, qid)

    def lookup_nowait(self, name: str, ctx: Context) -> Node | None:
        """Open one name below if the kernel has it in memory."""
        found = lookup_nowait(self.fd, name)
        if found is None:
            return None
        fd, mode, dev, ino, size, mtime_ns = found
        return self._node(fd, mode, _make_qid(mode, dev, ino, size, mtime_ns))

    async def entries(self, ctx: Context) -> Sequence[Entry]:
        """List the names."""
        found: list[Entry] = await self.host.run(self._entries)
        return found

    def _entries(self) -> list[Entry]:
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)
        found = []
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    try:
                        found.append(Entry(entry.name, _qid(entry.stat(follow_symlinks=False))))
                    except FileNotFoundError:
                        continue
        finally:
            os.close(fd)
        return found

    async def create(self, name: str, flags: int, mode: int, ctx: Context) -> tuple[Node, Handle]:
        """Make or open a regular file."""
        self.host.must_write()
        node, fd = await self.host.run(
            self._create, name, flags, mode, ctx, undo=lambda made: os.close(made[1])
        )
        return node, HostHandle(self.host, fd, flags)

    def _create(self, name: str, flags: int, mode: int, ctx: Context) -> tuple[Node, int]:
        fd = self._open_new(name, flags & _OPEN_FLAGS, mode, ctx)
        try:
            st = os.fstat(fd)
            if not stat.S_ISREG(st.st_mode):
                raise P9Error(errno.ENXIO)
            path = os.open(f"/proc/self/fd/{fd}", os.O_PATH | os.O_CLOEXEC)
            return HostFile(self.host, path, st.st_mode, _qid(st)), fd
        except BaseException:
            os.close(fd)
            raise

    def _open_new(self, name: str, flags: int, mode: int, ctx: Context) -> int:
        """Make the file; or, without EXCL, open what is there, whoever wins a race for the name."""
        safe = flags & ~os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        mode = hostattr.masked(mode, stat.S_IFREG, self.host.keep_setuid)
        while True:
            try:
                fd = os.open(name, safe | os.O_CREAT | os.O_EXCL, mode, dir_fd=self.fd)
            except FileExistsError:
                if flags & OpenFlag.EXCL:
                    raise
            else:
                hostattr.made(fd, mode, ctx)
                return fd
            try:
                fd = os.open(name, safe, dir_fd=self.fd)
            except FileNotFoundError:
                continue
            self.host.opened(fd, flags)
            return fd

    async def mkdir(self, name: str, mode: int, ctx: Context) -> Node:
        """Make a directory."""
        self.host.must_write()
        mode = hostattr.masked(mode, stat.S_IFDIR, self.host.keep_setuid)
        return await self._make(name, mode, ctx, os.mkdir, name, mode)

    async def symlink(self, name: str, target: str, ctx: Context) -> Node:
        """Make a symbolic link."""
        self.host.must_write()
        return await self._make(name, 0, ctx, os.symlink, target, name)

    async def _make(
        self, name: str, mode: int, ctx: Context, func: Callable[..., Any], *args: Any
    ) -> Node:
        def make() -> Node:
            func(*args, dir_fd=self.fd)
            node = self._lookup(name)
            hostattr.made(node.magic, mode, ctx)
            return node

        node: Node = await self.host.run(make)
        return node

    async def link(self, name: str, node: Node, ctx: Context) -> None:
        """Make a hard link to a node of this tree."""
        self.host.must_write()
        if not isinstance(node, HostNode):
            raise P9Error(errno.EXDEV)
        await self.host.run(
            lambda: os.link(node.magic, name, dst_dir_fd=self.fd, follow_symlinks=True)
        )

    async def unlink(self, name: str, is_dir: bool, ctx: Context) -> None:
        """Remove a name."""
        self.host.must_write()
        await self.host.run(lambda: (os.rmdir if is_dir else os.unlink)(name, dir_fd=self.fd))

    async def rename(self, name: str, to: Directory, new_name: str, ctx: Context) -> None:
        """Move a name within the tree."""
        self.host.must_write()
        if not isinstance(to, HostDirectory):
            raise P9Error(errno.EXDEV)
        await self.host.run(lambda: os.rename(name, new_name, src_dir_fd=self.fd, dst_dir_fd=to.fd))
