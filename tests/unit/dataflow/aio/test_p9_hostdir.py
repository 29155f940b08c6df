"""A served host directory: what works in it, and that nothing leads out."""

import asyncio
import contextlib
import errno
import os
import socket
import stat
import threading

import pytest

from dataflow.aio import hosttree
from dataflow.aio.hostdir import host_directory
from dataflow.aio.hosttree import HostDirectory
from dataflow.p9.const import (
    LOCK_BLOCK,
    NOGID,
    Dialect,
    LockStatus,
    LockType,
    Mode9,
    OpenFlag,
)
from dataflow.p9.errors import P9Error
from dataflow.p9.messages import (
    Tclunk,
    Tcreate,
    Tlcreate,
    Tlink,
    Tlock,
    Tmkdir,
    Tmknod,
    Topen,
    Tread,
    Trenameat,
    Tstat,
    Twalk,
    Twrite,
    Txattrcreate,
    Txattrwalk,
)
from dataflow.p9.tree import Context, SetAttr


@pytest.fixture
def root(tmp_path):
    top = tmp_path / "top"
    (top / "sub").mkdir(parents=True)
    (top / "f").write_bytes(b"content")
    (tmp_path / "secret").write_bytes(b"secret")
    (top / "out").symlink_to("../secret")
    (top / "outdir").symlink_to("..")
    return top


@pytest.fixture
async def client(pair, root):
    return await pair.client(await pair.server(host_directory(str(root))), msize=65536)


async def test_files(client, root):
    data = os.urandom(300000)
    await client.write("new", data)
    assert (root / "new").read_bytes() == data
    assert await client.read("new") == data
    await client.write("new", b"x")
    assert (root / "new").read_bytes() == b"x"
    await client.setattr("new", SetAttr(size=5, mode=0o600))
    assert (root / "new").stat().st_size == 5
    assert stat.S_IMODE((root / "new").stat().st_mode) == 0o600
    await client.setattr("new", SetAttr(mtime_ns=10**18, atime_ns=10**18))
    assert (root / "new").stat().st_mtime_ns == 10**18
    await client.remove("new")
    assert not (root / "new").exists()


async def test_directories_and_renames(client, root):
    await client.mkdir("sub/a")
    await client.write("sub/a/f", b"1")
    await client.rename("sub/a", "b")
    assert (root / "b/f").read_bytes() == b"1"
    await client.rpc(Trenameat(client.root, "f", client.root, "g"))
    assert sorted(await client.listdir()) == ["b", "g", "out", "outdir", "sub"]
    with pytest.raises(P9Error) as info:
        await client.remove("b")
    assert info.value.errno == errno.ENOTEMPTY


async def test_append(client, root):
    async with await client.open("f", OpenFlag.WRONLY | OpenFlag.APPEND) as f:
        await f.write(0, b"+more")
    assert (root / "f").read_bytes() == b"content+more"


@pytest.mark.parametrize(
    "path", ["out", "outdir/secret", "../secret", "../../etc/passwd", "sub/../../secret"]
)
async def test_nothing_leads_out(client, path, tmp_path):
    with pytest.raises(P9Error):
        await client.read(path)
    with contextlib.suppress(P9Error):  # ".." of the root is the root: this may write inside
        await client.write(path, b"overwritten")
    assert (tmp_path / "secret").read_bytes() == b"secret"


async def test_parent_of_the_root_is_the_root(client, root):
    await client.rpc(Twalk(client.root, 50, ("..", "..", "f")))
    inode = (await client.stat("f")).size
    assert inode == 7


async def test_nothing_was_written_outside(client, root, tmp_path):
    with pytest.raises(P9Error):
        await client.write("out", b"x")
    assert (tmp_path / "secret").read_bytes() == b"secret"


async def test_links(client, root):
    await client.symlink("l", "anything/at all")
    assert await client.readlink("l") == "anything/at all"
    await client.rpc(Twalk(client.root, 60, ("f",)))
    await client.rpc(Tlink(client.root, 60, "hard"))
    assert (root / "hard").samefile(root / "f")


async def test_special_files_are_not_opened(client, root):
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(root / "sock"))
    for name in ("pipe", "sock"):
        with pytest.raises(P9Error) as info:
            await client.read(name)
        assert info.value.errno == errno.ENXIO
    assert stat.S_ISFIFO((await client.stat("pipe")).mode)


async def test_odd_names(client, root):
    for name in ("\udcff\udcfe", "x" * 255, ".git", "a b\nc"):
        await client.write(name, b"1")
        assert await client.read(name) == b"1"
        assert name in await client.listdir()
    with pytest.raises(P9Error):
        await client.write("x" * 256, b"1")


async def test_read_only(pair, root):
    c = await pair.client(await pair.server(host_directory(str(root), read_only=True)))
    assert await c.read("f") == b"content"
    for attempt in (
        c.write("f", b""),
        c.write("n", b""),
        c.mkdir("n"),
        c.remove("f"),
        c.rename("f", "n"),
        c.symlink("n", "t"),
        c.setattr("f", SetAttr(size=0)),
        c.open("f", OpenFlag.RDWR),
        c.open("f", OpenFlag.RDONLY | OpenFlag.TRUNC),
    ):
        with pytest.raises(P9Error) as info:
            await attempt
        assert info.value.errno == errno.EROFS
    assert (root / "f").read_bytes() == b"content"


async def test_statfs(client):
    assert (await client.statfs()).blocks > 0


async def test_xattr(client, root):
    try:
        os.setxattr(root / "f", "user.probe", b"1")
    except OSError:
        pytest.skip("the file system has no user attributes")
    await client.rpc(Twalk(client.root, 70, ("f",)))
    await client.rpc(Txattrcreate(70, "user.t", 5, 0))
    await client.rpc(Twrite(70, 0, b"va"))
    await client.rpc(Twrite(70, 2, b"lue"))
    await client.rpc(Tclunk(70))
    assert os.getxattr(root / "f", "user.t") == b"value"
    await client.rpc(Twalk(client.root, 71, ("f",)))
    assert (await client.rpc(Txattrwalk(71, 72, "user.t"))).size == 5
    assert bytes((await client.rpc(Tread(72, 0, 100))).data) == b"value"
    size = (await client.rpc(Txattrwalk(71, 73, ""))).size
    names = bytes((await client.rpc(Tread(73, 0, size))).data)
    assert b"user.t\0" in names


async def test_locks_between_clients(pair, root):
    server = await pair.server(host_directory(str(root)))
    a, b = await pair.client(server), await pair.client(server)
    for c in (a, b):
        await c.rpc(Twalk(c.root, 80, ("f",)))
    write = Tlock(80, 1, 0, 0, 0, 1, "host")
    assert (await a.rpc(write)).status == 0
    assert (await b.rpc(write)).status == 1
    assert (await b.rpc(write._replace(start=0, length=0, locktype=2))).status == 0
    assert (await a.rpc(write._replace(locktype=2))).status == 0
    assert (await b.rpc(write)).status == 0


async def test_descriptors_are_given_back(pair, root):
    before = len(os.listdir("/proc/self/fd"))
    server = await pair.server(host_directory(str(root)))
    c = await pair.client(server)
    for _ in range(50):
        await c.read("f")
    assert len(os.listdir("/proc/self/fd")) <= before + 6


@pytest.mark.parametrize("nowait", [True, False], ids=["openat2", "openat"])
async def test_a_name_that_turns_into_a_link_leads_nowhere(pair, root, monkeypatch, nowait):
    """Walks while a directory and a link to the outside change places all the time."""
    if not nowait:
        monkeypatch.setattr(hosttree, "lookup_nowait", lambda fd, name: None)
    (root / "real").mkdir()
    (root / "real/secret").write_bytes(b"public")
    (root / "here").mkdir()
    (root / "here/secret").write_bytes(b"public")
    os.symlink("..", root / "link")  # ../secret is what must never be read
    c = await pair.client(await pair.server(host_directory(str(root))))
    seen, stop = set(), threading.Event()

    def swap():
        while not stop.is_set():
            os.rename(root / "here", root / "aside")
            os.rename(root / "link", root / "here")
            os.rename(root / "here", root / "link")
            os.rename(root / "aside", root / "here")

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(300):
            try:
                seen.add(await c.read("here/secret"))
            except P9Error as err:
                seen.add(err.errno)
    finally:
        stop.set()
        thread.join()
    assert b"public" in seen
    assert seen <= {b"public", errno.ENOENT, errno.ENOTDIR}, seen


async def test_mknod_is_refused(client, root):
    for kind in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK):
        with pytest.raises(P9Error) as caught:
            await client.rpc(Tmknod(client.root, "node", kind | 0o666, 1, 3, 0))
        assert caught.value.errno == errno.EPERM
    assert not (root / "node").exists()


async def test_a_new_file_has_the_mode_and_group_asked_for(client, root):
    old = os.umask(0o077)
    try:
        await client.rpc(Twalk(client.root, 50, ()))
        await client.rpc(Tlcreate(50, "new", OpenFlag.WRONLY, 0o664, os.getgid()))
        await client.rpc(Tmkdir(client.root, "dir", 0o777, NOGID))
    finally:
        os.umask(old)
    assert stat.S_IMODE((root / "new").stat().st_mode) == 0o664
    assert stat.S_IMODE((root / "dir").stat().st_mode) == 0o777
    await client.rpc(Tclunk(50))


async def test_create_opens_what_is_there_unless_it_is_exclusive(client, root):
    await client.rpc(Twalk(client.root, 50, ()))
    await client.rpc(Tlcreate(50, "f", OpenFlag.WRONLY, 0o777, NOGID))
    await client.rpc(Twrite(50, 0, b"CON"))
    assert (root / "f").read_bytes() == b"CONtent"
    assert not (root / "f").stat().st_mode & 0o111
    await client.rpc(Tclunk(50))
    await client.rpc(Twalk(client.root, 50, ()))
    with pytest.raises(P9Error) as info:
        await client.rpc(Tlcreate(50, "f", OpenFlag.EXCL, 0o777, NOGID))
    assert info.value.errno == errno.EEXIST


async def test_set_id_bits_are_masked(client, root):
    await client.setattr("f", SetAttr(mode=0o6755))
    assert stat.S_IMODE((root / "f").stat().st_mode) == 0o755
    await client.setattr("sub", SetAttr(mode=0o7777))
    assert stat.S_IMODE((root / "sub").stat().st_mode) == 0o3777
    await client.rpc(Twalk(client.root, 50, ()))
    await client.rpc(Tlcreate(50, "new", OpenFlag.WRONLY, 0o6711, NOGID))
    assert stat.S_IMODE((root / "new").stat().st_mode) == 0o711


@pytest.mark.parametrize("change", ["open", "truncate", "create"])
async def test_a_file_with_set_id_bits_loses_them_when_it_changes(client, root, change):
    (root / "f").chmod(0o6755)
    if change == "open":
        await (await client.open("f", OpenFlag.WRONLY)).close()
    elif change == "truncate":
        await client.setattr("f", SetAttr(size=1))
    else:
        await client.rpc(Twalk(client.root, 50, ()))
        await client.rpc(Tlcreate(50, "f", OpenFlag.WRONLY, 0o755, NOGID))
    assert stat.S_IMODE((root / "f").stat().st_mode) == 0o755


async def test_trusted_clients_keep_set_id_bits(pair, root):
    server = await pair.server(host_directory(str(root), keep_setuid=True))
    client = await pair.client(server)
    await client.setattr("f", SetAttr(mode=0o6755))
    await (await client.open("f", OpenFlag.WRONLY)).close()
    assert stat.S_IMODE((root / "f").stat().st_mode) == 0o6755


@pytest.mark.parametrize("name", ["security.capability", "trusted.x", "system.other"])
async def test_attributes_that_lend_rights_are_refused(client, name):
    await client.rpc(Twalk(client.root, 50, ("f",)))
    await client.rpc(Txattrcreate(50, name, 1, 0))
    await client.rpc(Twrite(50, 0, b"x"))
    with pytest.raises(P9Error) as info:
        await client.rpc(Tclunk(50))
    assert info.value.errno == errno.EPERM


async def test_owner_and_times_of_a_link(client, root):
    await client.setattr("out", SetAttr(uid=os.getuid(), gid=os.getgid(), mtime_ns=10**18))
    assert (root / "out").lstat().st_mtime_ns == 10**18
    assert (root.parent / "secret").stat().st_mtime_ns != 10**18


async def test_a_cancelled_open_does_not_reach_another_file(root):
    """The thread's call comes late: by then the node's descriptor may be another file's."""
    late = []

    async def run(func, *args, undo=None):
        late.append((func, args))
        raise asyncio.CancelledError

    top = HostDirectory.root(str(root), run)
    node = top._lookup("f")
    number = node.fd
    with pytest.raises(asyncio.CancelledError):
        await node.open(OpenFlag.WRONLY | OpenFlag.TRUNC, Context())
    del node
    fd = os.open(root.parent / "secret", os.O_RDONLY)  # would take the number
    assert fd != number
    func, args = late.pop()
    os.close(func(*args))
    os.close(fd)
    assert (root.parent / "secret").read_bytes() == b"secret"
    assert (root / "f").read_bytes() == b""


async def test_a_lock_that_is_waited_for_passes_on(pair, root):
    server = await pair.server(host_directory(str(root)))
    one, two = await pair.client(server), await pair.client(server)
    for c in (one, two):
        await c.rpc(Twalk(c.root, 50, ("f",)))
    lock = Tlock(50, LockType.WRLCK, 0, 0, 0, 1, "c")
    assert (await one.rpc(lock)).status == LockStatus.SUCCESS
    assert (await two.rpc(lock)).status == LockStatus.BLOCKED
    waiting = asyncio.create_task(two.rpc(lock._replace(flags=LOCK_BLOCK)))
    await two.rpc(Twalk(two.root, 51, ()))  # the lock's request is under way when this is answered
    assert not waiting.done()
    await one.rpc(lock._replace(locktype=LockType.UNLCK))
    assert (await waiting).status == LockStatus.SUCCESS
    again = asyncio.create_task(one.rpc(lock._replace(flags=LOCK_BLOCK)))
    await one.rpc(Twalk(one.root, 51, ()))
    again.cancel()  # a Tflush ends the wait, and nothing is locked by it
    await one.rpc(Twalk(one.root, 52, ()))
    assert (await two.rpc(lock._replace(locktype=LockType.UNLCK))).status == LockStatus.SUCCESS
    assert (await two.rpc(lock)).status == LockStatus.SUCCESS


@pytest.fixture
async def unix(pair, root):
    server = await pair.server(host_directory(str(root)))
    return await pair.client(server, dialect=Dialect.UNIX, msize=4096)


async def test_hard_links_and_sticky_bits_of_9p2000u(unix, root):
    await unix.rpc(Twalk(unix.root, 50, ("f",)))
    await unix.rpc(Twalk(unix.root, 51, ()))
    await unix.rpc(Tcreate(51, "hard", Mode9.LINK | 0o644, 0, "50\n"))
    assert (root / "hard").samefile(root / "f")
    await unix.rpc(Twalk(unix.root, 52, ()))
    for extension in ("99", "x", ""):
        with pytest.raises(P9Error):
            await unix.rpc(Tcreate(52, "no", Mode9.LINK, 0, extension))
    (root / "sub").chmod(0o1777)
    await unix.rpc(Twalk(unix.root, 53, ("sub",)))
    assert (await unix.rpc(Tstat(53))).stat.mode & 0x7FFFFFFF == Mode9.SETVTX | 0o777


async def test_a_listing_read_into_one_buffer_in_two_reads(unix, root):
    """Linux asks for what is left of its buffer before it looks at what it got."""
    for i in range(100):
        (root / f"name{i:03}").touch()
    await unix.rpc(Twalk(unix.root, 50, ()))
    await unix.rpc(Topen(50, 0))
    size = 2000
    first = bytes((await unix.rpc(Tread(50, 0, size))).data)
    assert size - 100 < len(first) < size
    assert not (await unix.rpc(Tread(50, len(first), size - len(first)))).data
    assert (await unix.rpc(Tread(50, len(first), size))).data
