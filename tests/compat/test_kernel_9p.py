"""The Linux kernel's 9P client on what we serve, over TCP through the gateway: one guest for all.

Mounts, as WHERE: `none`, `loose` and `mmap` by their cache mode in 9P2000.L, `two` as `none` but a
connection of its own with access=user, `u` in 9P2000.u.  All show one directory of the host.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tarfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import p9_guest
import pytest
import pytest_asyncio

from dataflow import Repository
from dataflow.aio.hostdir import host_directory
from dataflow.aio.server import Server
from dataflow.views.root import repository_root
from hypervisor.engine.host import QEMU
from hypervisor.errors import UsageError

pytestmark = [
    pytest.mark.compat,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="module"),
]

MOUNTS: dict[str, dict[str, str]] = {
    "none": {},
    "loose": {"cache": "loose"},
    "mmap": {"cache": "mmap", "access": "user"},
    "two": {"access": "user"},
    "u": {"version": "9p2000.u", "access": "user"},
}
ALL = pytest.mark.parametrize("where", ["none", "loose", "mmap", "u"])
MANY = 10_000
NAMES = (b"\xff\xfe not UTF-8", b"new\nline", b"-", b"\\", "ü".encode(), b"x" * 255)
SOURCES = 4


@dataclass
class World:
    """A guest with its mounts, and the host's side of them."""

    guest: p9_guest.Guest
    top: Path
    server: Server
    repo: Repository

    async def run(self, script: str) -> str:
        """Run a script in the guest, where /m/WHERE are the mounts and /tmp/probe is the probe.

        What it wrote is on the host then: `loose` and `mmap` write back when they are asked to.
        """
        return await self.guest.sh(f"{script}\nsync")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(
    tmp_path_factory: pytest.TempPathFactory, require: Callable[..., None]
) -> AsyncIterator[World]:
    require("root", QEMU, "cc", "git")
    try:
        image = await asyncio.to_thread(p9_guest.image)
    except UsageError as error:
        pytest.skip(f"no image: {error}")
    base = tmp_path_factory.mktemp("kernel9p")
    top = base / "top"
    top.mkdir()
    p9_guest.probe(top)
    async with (
        p9_guest.boot(image, base / "console") as guest,
        Repository.open(base / "state.git") as repo,
        Server(host_directory(str(top))) as server,
        Server(repository_root(repo)) as tree,
    ):
        await guest.net.start_server(server.handle, 564)
        await guest.net.start_server(tree.handle, 565)
        for where, options in MOUNTS.items():
            await guest.mount(f"/m/{where}", 564, **options)
        await guest.mount("/m/db", 565)
        await guest.sh("cp /m/none/probe /tmp/probe")
        yield World(guest, top, server, repo)


async def test_mounts_have_what_was_asked_for(world: World) -> None:
    said = await world.run("grep ' 9p ' /proc/mounts")
    lines = {line.split()[1]: line.split()[3] for line in said.splitlines()}
    assert set(lines) == {"/m/db", *(f"/m/{where}" for where in MOUNTS)}
    assert all("msize=524288" in options for options in lines.values())
    assert "access=client" in lines["/m/none"]
    assert "version=9p2000.u" in lines["/m/u"]


@ALL
async def test_system_calls(world: World, where: str) -> None:
    d = f"/m/{where}/calls-{where}"
    probes = [f"excl {d}/e", f"append {d}/a", f"unlinked {d}/u", f"over {d}/o {d}/p"]
    probes += [f"sparse {d}/s", f"race {d}/r 2"]
    if where in ("loose", "mmap"):  # without a cache there is no shared writable mapping
        probes.append(f"map {d}/m 65536")
    await world.run(f"mkdir {d}\n" + "\n".join(f"/tmp/probe {p}" for p in probes))
    if where in ("loose", "mmap"):
        data = (world.top / f"calls-{where}/m").read_bytes()
        assert data == bytes((i // 4096 + i % 4096) * 31 & 255 for i in range(65536))


@pytest.mark.parametrize("probe", ["flocks", "locks"])
@pytest.mark.parametrize("where", ["none", "loose", "mmap"])
async def test_locks_pass_between_processes_and_mounts(
    world: World, where: str, probe: str
) -> None:
    name = f"{probe}-{where}"
    await world.run(f"/tmp/probe {probe} /m/{where}/{name} /m/{where}/{name}")
    # Linux asks again after 30 s; the probe says that it took less than 20.
    await world.run(f"/tmp/probe {probe} /m/{where}/{name} /m/two/{name}")


def git(*words: str) -> bytes:
    """Run git on the host; return what it printed."""
    return subprocess.run(["git", *words], check=True, capture_output=True).stdout


def same(found: bytes, expected: bytes) -> bool:
    """Compare, so that a difference is told in no more than a word."""
    return found == expected


def _sources(into: Path) -> None:
    """Make a bare repository with a small C program in it, and its Makefile."""
    made = into.with_suffix(".work")
    git("init", "-q", "-b", "main", str(made))
    for i in range(SOURCES):
        (made / f"f{i}.c").write_text(f"int f{i}(int x) {{ return 10 * x + {i}; }}\n")
    calls = "".join(f"x = f{i}(x); " for i in range(SOURCES))
    protos = "".join(f"int f{i}(int); " for i in range(SOURCES))
    body = f'int main(void) {{ int x = 0; {calls}printf("sum %d\\n", x); return 0; }}\n'
    (made / "main.c").write_text(f"int printf(const char *, ...); {protos}\n{body}")
    (made / "Makefile").write_text(
        "prog: $(patsubst %.c,%.o,$(wildcard *.c))\n\ttcc -o $@ $^\n%.o: %.c\n\ttcc -c -o $@ $<\n"
    )
    (made / ".gitignore").write_text("*.o\n")
    git("-C", str(made), "add", "-A")
    git("-C", str(made), "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "one")
    git("clone", "-q", "--bare", str(made), str(into))


@ALL
async def test_git_clone_build_and_push(world: World, where: str) -> None:
    bare = world.top / f"{where}.git"
    _sources(bare)
    said = await world.run(
        f"export HOME=/tmp/{where}; mkdir -p $HOME; git config --global safe.directory '*'\n"
        f"cd /m/{where}; git clone -q {where}.git {where}-clone 2>&1; cd {where}-clone\n"
        "make -s -j2; ./prog; git add -A\n"
        "git -c user.name=g -c user.email=g@g commit -qm built; git push -q origin HEAD:built\n"
        "git status --short"
    )
    assert said.endswith("sum 123\n")  # make may warn that the host's clock is ahead
    git("-C", str(bare), "fsck", "--strict")
    kept = git("-C", str(bare), "show", "built:prog")
    assert same(kept, (world.top / f"{where}-clone/prog").read_bytes())


def _tree(at: Path) -> dict[str, bytes]:
    """Make a small tree with links and odd modes; return its files."""
    files = {f"d{i % 3}/f{i}": os.urandom(i * 977) for i in range(12)}
    for name, data in files.items():
        (at / name).parent.mkdir(parents=True, exist_ok=True)
        (at / name).write_bytes(data)
        (at / name).chmod(0o640)
    (at / "link").symlink_to("d0/f0")
    os.link(at / "d0/f3", at / "hard")
    os.utime(at / "d0/f0", ns=(10**18, 10**18))
    return files


@pytest.mark.parametrize("where", ["none", "loose"])
async def test_tar_out_and_in(world: World, where: str) -> None:
    tree = world.top / f"tar-{where}"
    files = _tree(tree)
    await world.run(
        f"cd /m/{where}; tar cf /tmp/{where}.tar tar-{where}; mkdir in-{where}; cd in-{where}\n"
        f"tar xpf /tmp/{where}.tar; tar cf ../{where}.tar .; rm /tmp/{where}.tar"
    )
    back = world.top / f"in-{where}/tar-{where}"
    for name, data in files.items():
        assert same((back / name).read_bytes(), data)
        assert (back / name).stat().st_mode & 0o7777 == 0o640
    assert os.readlink(back / "link") == "d0/f0"
    assert (back / "hard").stat().st_nlink == 2
    assert (back / "d0/f0").stat().st_mtime == 10**9
    with tarfile.open(world.top / f"{where}.tar") as tar:
        found = tar.extractfile(f"./tar-{where}/d1/f10")
        assert found is not None
        assert same(found.read(), files["d1/f10"])


@pytest.mark.parametrize("where", ["none", "loose"])
async def test_rsync_twice_sends_once(world: World, where: str) -> None:
    files = _tree(world.top / f"rs-{where}")
    args = f"rsync -aHi rs-{where}/ rsync-{where}/"
    first = await world.run(f"cd /m/{where}; {args}")
    assert first.count(">f") + first.count("hf") == 13
    assert await world.run(f"cd /m/{where}; {args}") == ""
    assert await world.run(f"cd /m/{where}; rsync -aHic rsync-{where}/ rs-{where}/") == ""
    for name, data in files.items():
        assert same((world.top / f"rsync-{where}" / name).read_bytes(), data)


async def test_dbench(world: World) -> None:
    load = "head -n 2000 /usr/share/dbench/client.txt >/tmp/load"
    said = await world.run(f"{load}; mkdir /m/loose/db; dbench -t 4 -c /tmp/load -D /m/loose/db 2")
    assert "Throughput" in said, said  # it ends with status 1 when a call fails
    # Its processes meet at a semaphore, which the guest has not; calls of the file system count.
    assert "failed" not in said.replace("failed to create barrier semaphore", ""), said
    shutil.rmtree(world.top / "db")


@ALL
async def test_ten_thousand_names(world: World, where: str) -> None:
    many = world.top / "many"
    if not many.exists():
        many.mkdir()
        for i in range(MANY):
            (many / f"f{i}").touch()
    few = world.top / f"few-{where}"
    few.mkdir()
    for i in range(30):
        (few / f"f{i}").touch()
    places = "list" if where == "u" else "seek"  # 9P2000 lets nobody seek in a directory
    await world.run(f"/tmp/probe dir /m/{where}/many {MANY} {places}")
    await world.run(f"/tmp/probe empty /m/{where}/few-{where} 30")
    assert not few.exists()


def _write_names(here: Path) -> None:
    here.mkdir()
    for name in NAMES:
        (here / os.fsdecode(name)).write_bytes(b"host")


@ALL
async def test_names_of_any_bytes(world: World, where: str) -> None:
    here = world.top / f"names-{where}"
    _write_names(here)
    said = await world.run(
        f'cd /m/{where}/names-{where}; mkdir back; for n in *; do [ "$n" = back ] && continue\n'
        'cat "./$n"; mv -- "$n" back; echo guest >"back/$n"; cp -- "back/$n" .; done\n'
        "if echo x >$(printf '%0256d' 0); then exit 1; fi"
    )
    assert said.count("host") == len(NAMES)
    assert "File name too long" in said
    for place in (here, here / "back"):
        names = {os.fsencode(path.name): path for path in place.iterdir() if path.name != "back"}
        assert set(names) == set(NAMES)
        assert {path.read_bytes() for path in names.values()} == {b"guest\n"}


async def test_owners_modes_and_times(world: World) -> None:
    d = world.top / "own"
    await world.run(
        "cd /m/none; mkdir own; chmod 777 own; cd own; umask 0; echo 1 >all; mkdir dir\n"
        "umask 027; echo 2 >some; umask 022; chown 5:6 all; ln -s nowhere link; chown -h 7:8 link\n"
        "touch -h -d '2001-02-03 04:05:06' link; touch -d '2002-03-04 05:06:07' all\n"
        "chgrp 50 dir; chmod 2775 dir; echo 3 >dir/in\n"
        "su user -c 'echo 4 >mine; mkdir below; ln -s x sym; ! echo 5 >../no'"
    )
    seen = {p.name: p.lstat() for p in (*d.iterdir(), d / "dir/in")}
    assert {n: f"{s.st_mode & 0o7777:o} {s.st_uid} {s.st_gid}" for n, s in seen.items()} == {
        "all": "666 5 6",
        "dir": "2775 0 50",
        "in": "644 0 50",
        "some": "640 0 0",
        "link": "777 7 8",
        "mine": "644 1000 1000",
        "below": "755 1000 1000",
        "sym": "777 1000 1000",
    }
    assert seen["link"].st_mtime == 981173106
    assert seen["all"].st_mtime == 1015218367
    assert not (world.top / "no").exists()


async def test_extended_attributes(world: World) -> None:
    said = await world.run(
        "cd /m/none; echo x >xattr; setfattr -n user.a -v hello xattr\n"
        "setfattr -n user.none xattr; setfattr -n user.gone -v x xattr\n"
        "setfattr -x user.gone xattr; getfattr -d xattr"
    )
    assert said.split() == ["#", "file:", "xattr", 'user.a="hello"', 'user.none=""']
    assert os.getxattr(world.top / "xattr", "user.a") == b"hello"


async def test_df_and_sparse_files(world: World) -> None:
    fields = (await world.run("df -k /m/none | tail -n 1")).split()
    total = os.statvfs(world.top).f_blocks * os.statvfs(world.top).f_frsize // 1024
    assert int(fields[1]) == total
    (world.top / "holes").touch()
    os.truncate(world.top / "holes", 100 << 20)
    assert int((await world.run("du -k /m/none/holes")).split()[0]) < 1024


@pytest.mark.parametrize("where", ["none", "u"])
async def test_a_guests_root_gets_no_rights_on_the_host(world: World, where: str) -> None:
    d = world.top / f"rights-{where}"
    d.mkdir()
    armed = d / "armed"
    armed.write_bytes(b"#!/bin/sh\n")
    armed.chmod(0o6755)
    capability = "0x0100000200ffffff00000000ffffffff00000000"
    await world.run(
        f"cd /m/{where}/rights-{where}; cp /bin/busybox sh; chmod 6755 sh; echo evil >>armed\n"
        "touch later; chmod 4755 later; echo evil >>later; mkdir dir; chmod 7777 dir\n"
        "! mknod null c 1 3; ! mkfifo fifo\n"
        f"! setfattr -n security.capability -v {capability} sh; ! setfattr -n trusted.x -v 1 sh"
    )
    modes = {p.name: f"{p.lstat().st_mode:o}" for p in d.iterdir()}
    assert modes == {
        "armed": "100755", "sh": "100755", "later": "100755", "dir": "43777",
    }  # fmt: skip
    assert os.listxattr(d / "sh") == []


async def test_nothing_leads_out(world: World) -> None:
    outside = world.top.parent / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (world.top / "away").symlink_to(outside)
    (world.top / "up").symlink_to("..")
    (world.top / "swing").mkdir()
    (world.top / "swing/secret").write_text("fine")

    def swap() -> None:
        """Put a directory and a link out of the tree in one place, in turns."""
        os.rename(world.top / "swing", world.top / "aside")
        (world.top / "swing").symlink_to(outside)
        os.unlink(world.top / "swing")
        os.rename(world.top / "aside", world.top / "swing")

    script = (
        "cd /m/none; for i in $(seq 6); do for n in away up/outside swing ../outside; do\n"
        "cat $n/secret 2>/dev/null || true; echo x >$n/new || true; done; done 2>/dev/null"
    )
    task = asyncio.create_task(world.run(script))
    while not task.done():
        await asyncio.to_thread(swap)
    said = await task
    assert "fine" in said
    assert "secret" not in said
    assert [p.name for p in outside.iterdir()] == ["secret"]


async def test_transaction_and_live_head(world: World) -> None:
    said = await world.run(
        "cd /m/db; t=branch/main/transactions/t; mkdir -p $t; mkdir $t/rw/d\n"
        "echo hello >$t/rw/d/f; chmod +x $t/rw/d/f; ln -s d/f $t/rw/link\n"
        "echo from the guest >$t/msg; echo commit >$t/ctl\n"
        "cat branch/main/head branch/main/ro/link; ! ls $t 2>/dev/null"
    )
    head = world.repo.branch("main").head
    assert said.split() == [head, "hello"]
    assert await world.repo.branch("main").read("d/f") == b"hello\n"
    script = (
        "{ read -r a; echo $a; echo >/tmp/first; read -r b; echo $b; } </m/db/branch/main/head.live"
    )
    reader = asyncio.create_task(world.run(f"rm -f /tmp/first\n{script}"))
    await world.run("until [ -e /tmp/first ]; do usleep 20000; done")
    async with world.repo.branch("main").transaction(message="two", author="a <a@b>") as t:
        t.write("two", b"2")
    assert (await reader).split() == [head, world.repo.branch("main").head]


async def test_a_read_that_waits_is_flushed(world: World) -> None:
    await world.run("mkdir -p /m/db/branch/quiet")
    for _ in range(3):
        await world.run("/tmp/probe killed /m/db/branch/quiet/head.live")
    assert await world.run("cat /m/db/branch/quiet/head") == "\n"
