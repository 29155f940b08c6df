"""A served host directory: what works in it, and that nothing leads out."""

import contextlib
import errno
import os
import socket
import stat
import threading

import pytest

from dataflow.aio import hosttree
from dataflow.aio.hostdir import host_directory
from dataflow.p9.const import OpenFlag
from dataflow.p9.errors import P9Error
from dataflow.p9.messages import (
    Tclunk,
    Tlink,
    Tlock,
    Tmknod,
    Tread,
    Trenameat,
    Twalk,
    Twrite,
    Txattrcreate,
    Txattrwalk,
)
from dataflow.p9.tree import SetAttr


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
