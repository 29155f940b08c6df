"""Leases: who owns a transaction, how long it lives, and what an owner may hold."""

import asyncio
import os
import pwd
import random
import socket
from contextlib import asynccontextmanager

import pytest
import virtual
from test_views import T, refused, serve

from dataflow import Repository
from dataflow.aio.client import connect
from dataflow.aio.server import Server
from dataflow.branch.budget import Budget
from dataflow.branch.kept import point
from dataflow.errors import AccessError, DataflowError, NotFoundError, QuotaError, UsageError
from dataflow.p9.const import OpenFlag
from dataflow.p9.tree import Context, Peer, SessionScope
from dataflow.store.memory import MemoryStore
from dataflow.store.objects import Objects
from dataflow.tree.overlay import NAME_COST, Overlay, _held
from dataflow.tree.paths import parse
from dataflow.views.identity import author_of, may_use, owner_of
from dataflow.views.lease import Leases, Limits
from dataflow.views.root import repository_root


def client(uid=None, uname="", address="unix:", n_uname=None) -> Context:
    return Context(uname, "", n_uname, Peer(address, 1, uid, uid), SessionScope())


class World:
    def __init__(self, **limits) -> None:
        self.repo = Repository.memory()
        self.leases = Leases(self.repo, Limits(**limits))

    def names(self) -> list[str]:
        return sorted(self.leases.of("main"))


def test_a_lease_begins_when_the_last_connection_ends() -> None:
    async def main() -> None:
        w = World(lease=300)
        one, two = client(5), client(5)
        lease = w.leases.open("main", "t", one)
        w.leases.check(lease, two)
        await asyncio.sleep(1000)
        one.session.close()
        await asyncio.sleep(1000)
        assert w.names() == ["t"]
        two.session.close()
        await asyncio.sleep(299)
        assert w.names() == ["t"]
        w.leases.check(lease, client(5))  # back in time: it runs no more
        await asyncio.sleep(1000)
        assert w.names() == ["t"]

    virtual.run(main())


def test_an_abandoned_one_ends() -> None:
    async def main() -> None:
        w = World(lease=300)
        c = client(5)
        lease = w.leases.open("main", "t", c)
        c.session.close()
        await asyncio.sleep(301)
        assert lease.transaction.closed
        assert w.names() == []
        with pytest.raises(NotFoundError):
            w.leases.find("main", "t")

    virtual.run(main())


def test_a_lease_that_was_set_runs_from_the_last_edit_and_renew() -> None:
    """For connections that outlive the work: a worker on a shared mount dies."""

    async def main() -> None:
        w = World()
        lease = w.leases.open("main", "t", client(5))
        await lease.control("lease=60")
        for _ in range(5):
            await asyncio.sleep(50)
            lease.used()
        await asyncio.sleep(50)
        await lease.control("renew")
        await asyncio.sleep(59)
        assert w.names() == ["t"]
        assert "left 1\n" in lease.text()
        await asyncio.sleep(2)
        assert w.names() == []

    virtual.run(main())


@pytest.mark.parametrize("seconds", ["0", "-1", "x", "nan", "1e9", ""])
def test_bad_leases(seconds) -> None:
    async def main() -> None:
        lease = World().leases.open("main", "t", client(5))
        with pytest.raises(UsageError, match="lease: expected"):
            await lease.control(f"lease={seconds}")

    virtual.run(main())


def test_it_tells_whose_it_is_and_how_old() -> None:
    async def main() -> None:
        w = World(lease=300)
        lease = w.leases.open("main", "t", client(5, address="unix:"))
        lease.transaction.write("f", b"12345")
        await asyncio.sleep(100)
        facts = dict(line.split(" ", 1) for line in lease.text().splitlines())
        assert (facts["owner"], facts["age"], facts["idle"]) == ("uid:5", "100", "100")
        assert (facts["connections"], facts["lease"], facts["left"]) == ("1", "300", "-")
        assert facts["octets"] == str(NAME_COST + 5)

    virtual.run(main())


def test_a_connection_remembers_no_closed_transaction() -> None:
    async def main() -> None:
        w = World()
        c = client(5)
        for i in range(100):
            w.leases.open("main", str(i), c).transaction.close()
        assert not c.session._callbacks
        assert not w.leases._budgets

    virtual.run(main())


def test_number_for_an_owner_and_for_all() -> None:
    async def main() -> None:
        w = World(transactions=5, transactions_per_owner=3)
        first = [w.leases.open("main", f"a{i}", client(5)) for i in range(3)]
        with pytest.raises(QuotaError, match="of uid:5: 3 and 1 more, at most 3"):
            w.leases.open("main", "a3", client(5))
        for i in range(2):  # by TCP another name is no other owner
            w.leases.open("main", f"b{i}", client(None, f"n{i}", f"tcp:10.0.0.1:{i}"))
        with pytest.raises(QuotaError):
            w.leases.open("main", "c", client(6))
        first[0].transaction.close()
        w.leases.open("main", "c", client(6))

    virtual.run(main())


def test_octets_for_an_owner_and_for_all() -> None:
    async def main() -> None:
        w = World(octets=150_000, octets_per_owner=100_000)
        a, b = w.leases.open("main", "a", client(5)), w.leases.open("main", "b", client(5))
        a.transaction.write("f", bytes(60_000))
        with pytest.raises(QuotaError, match="at most 100000"):
            b.transaction.write("f", bytes(60_000))
        c = w.leases.open("main", "c", client(6))
        with pytest.raises(QuotaError, match="at most 150000"):
            c.transaction.write("f", bytes(95_000))
        a.transaction.truncate("f", 10)
        b.transaction.write("f", bytes(60_000))
        b.transaction.close()
        a.transaction.close()
        c.transaction.write("f", bytes(95_000))
        c.transaction.close()
        assert w.leases._all.used == 0

    virtual.run(main())


async def test_committing_gives_the_memory_back() -> None:
    async with Repository.memory() as repo:
        room = Budget(1 << 20)
        t = repo.branch("main").transaction("m", room=room)
        t.write("d/f", bytes(1000))
        assert room.used == t.held == 1000 + 2 * NAME_COST
        await t.commit()
        assert room.used == 0


def test_others_may_not_touch_it() -> None:
    async def main() -> None:
        w = World()
        lease = w.leases.open("main", "t", client(5))
        with pytest.raises(AccessError, match="belongs to uid:5"):
            w.leases.check(lease, client(6))
        with pytest.raises(AccessError):
            w.leases.check(lease, client(None, "root", "tcp:127.0.0.1:99"))
        w.leases.check(lease, client(0))
        w.leases.check(lease, client(os.getuid()))

    virtual.run(main())


def test_owners_and_authors() -> None:
    host = socket.gethostname()
    me = pwd.getpwuid(os.getuid()).pw_name
    unix = client(os.getuid(), uname="mallory")
    assert author_of(unix) == f"{me} <{me}@{host}>"
    assert author_of(client(123456)) == f"uid123456 <uid123456@{host}>"
    tcp = client(None, "al <x>\nice", "tcp:10.1.2.3:4")
    assert (owner_of(tcp), author_of(tcp)) == ("tcp:10.1.2.3", "al xice <al.xice@10.1.2.3>")
    six = client(None, "a", "tcp:::1:4")
    assert (owner_of(six), author_of(six)) == ("tcp:::1", "a <a@::1>")
    assert author_of(client(None, "", "tcp:10.1.2.3:4")) is None
    mount = client(0, "nobody", n_uname=123456)  # the kernel's client, for one of its users
    assert (owner_of(mount), author_of(mount)) == ("uid:123456", f"uid123456 <uid123456@{host}>")
    assert may_use(mount, "uid:123456")
    if os.getuid() != 123456:
        assert not may_use(mount, "uid:0")


def test_octets_are_counted_exactly() -> None:
    """Any order of edits: what was taken is what a count of the tree finds."""
    rng = random.Random(4)
    room = Budget(1 << 40)
    objects = Objects(MemoryStore())
    base = Overlay(objects)
    names = ["a", "b", "d/a", "d/b", "d/e/f", "g"]
    for name in names:
        base.write(parse(name), b"x" * rng.randrange(99))
    tree = Overlay(objects, base.store(), room)
    for _ in range(3000):
        path, other = parse(rng.choice(names)), parse(rng.choice([*names, "d", "n/m"]))
        try:
            match rng.randrange(9):
                case 0:
                    tree.write(path, bytes(rng.randrange(2000)))
                case 1:
                    tree.write_at(path, rng.randrange(50), bytes(rng.randrange(2000)))
                case 2:
                    tree.truncate(path, rng.randrange(2000))
                case 3:
                    tree.create(path)
                case 4:
                    tree.mkdir(other, parents=True)
                case 5:
                    tree.symlink(path, b"target")
                case 6:
                    tree.remove(other, recursive=True)
                case 7:
                    tree.rename(path, other)
                case 8 if rng.random() < 0.02:
                    tree.reset(base.store())
        except DataflowError:
            pass
        assert tree.held == room.used == _held(tree._root)


async def test_control_and_author_files(tmp_path) -> None:
    me = pwd.getpwuid(os.getuid()).pw_name
    mine = f"{me} <{me}@{socket.gethostname()}>"
    async with serve(tmp_path) as tree, tree.connect(uname="mallory") as c:
        await c.mkdir("branch/main")
        await c.mkdir(T)
        await c.command(f"{T}/ctl", "lease=3600")
        await c.command(f"{T}/ctl", "renew")
        facts = (await c.read(f"{T}/lease")).decode()
        assert f"owner uid:{os.getuid()}\nauthor {mine}\n" in facts
        assert "lease 3600\n" in facts
        assert await c.read(f"{T}/author") == mine.encode() + b"\n"
        await c.write(f"{T}/author", b"A Build <build@ci>\n")
        async with await c.open(f"{T}/author", 1) as f:
            assert await refused(f.write(0, b"nonsense" * 9)) == 22
        await c.write(f"{T}/rw/f", b"x")
        head = (await c.command(f"{T}/ctl", "commit")).decode().strip()
        commit = tree.repo.engine.objects.commit(head)
        assert (commit.author, commit.committer) == ("A Build <build@ci>", mine)


async def test_author_may_be_fixed() -> None:
    async with (
        Repository.memory() as repo,
        Server(repository_root(repo, limits=Limits(set_author=False))) as server,
    ):
        address = await server.listen_tcp("127.0.0.1", 0)
        async with connect(address, uname="alice") as c:
            await c.mkdir("branch/main")
            await c.mkdir(T)
            assert await refused(c.write(f"{T}/author", b"Bob <b@b>")) == 1
            await c.write(f"{T}/rw/f", b"x")
            await c.command(f"{T}/ctl", "commit")
        (commit,) = await repo.branch("main").log()
        assert commit.author == commit.committer == "alice <alice@127.0.0.1>"


async def test_looking_keeps_nothing_alive(tmp_path) -> None:
    async with serve(tmp_path, lease=0.0) as tree, tree.connect() as looker:
        async with tree.connect() as c:
            await c.mkdir("branch/main")
            await c.mkdir(T)
            assert b"connections 1\n" in await looker.read(f"{T}/lease")
            await looker.stat(T)
        async with asyncio.timeout(5):
            while await looker.listdir("branch/main/transactions"):
                pass


# What survives the server.


@asynccontextmanager
async def on_disk(path):
    async with (
        Repository.open(path, fsync=False) as repo,
        Server(repository_root(repo)) as server,
        connect(await server.listen_tcp("127.0.0.1", 0), uname="alice") as c,
    ):
        yield repo, c


def kept_refs(repo) -> dict[str, str]:
    return repo.engine.store.refs("refs/dataflow/")


async def test_a_restart_keeps_open_transactions(tmp_path) -> None:
    async with on_disk(tmp_path / "r") as (repo, c):
        async with repo.branch("main").transaction("0") as t:
            t.write("f", b"base")
            t.write("d/x", b"1")
        async with repo.branch("other").transaction("1") as t:
            t.write("f", b"theirs")
        other = repo.branch("other").head
        await c.mkdir(T)
        await c.write(f"{T}/msg", b"half way")
        await c.write(f"{T}/author", b"B <b@b>")
        await c.write(f"{T}/rw/new", b"kept", mode=0o755)
        await c.remove(f"{T}/rw/d/x")
        assert await c.command(f"{T}/merge", other) == b"f\n"
        await c.command(f"{T}/ctl", "lease=1000")
    async with on_disk(tmp_path / "r") as (repo, c):
        assert await c.listdir("branch/main/transactions") == ["t"]
        assert await c.read(f"{T}/msg") == b"half way"
        assert await c.read(f"{T}/author") == b"B <b@b>\n"
        assert await c.read(f"{T}/conflicts") == b"f\n"
        assert await c.read(f"{T}/theirs/f") == b"theirs"
        facts = (await c.read(f"{T}/lease")).decode()
        assert "owner tcp:127.0.0.1\n" in facts
        assert "lease 1000\n" in facts
        await c.write(f"{T}/rw/f", b"both")
        head = (await c.command(f"{T}/ctl", "commit")).decode().strip()
        tree = repo.engine.tree(head)
        assert tree.read(parse("new")) == b"kept"
        assert set(tree.entries(())) == {b"f", b"new"}
        commit = repo.engine.objects.commit(head)
        assert (commit.author, commit.committer) == ("B <b@b>", "alice <alice@127.0.0.1>")
        assert other in commit.parents
    async with on_disk(tmp_path / "r") as (repo, c):
        assert await c.listdir("branch/main/transactions") == []
        assert kept_refs(repo) == {}


async def test_fsync_keeps_it_and_close_takes_it_away(tmp_path) -> None:
    async with on_disk(tmp_path / "r") as (repo, c):
        await c.mkdir("branch/main")
        await c.mkdir(T)
        async with await c.open(f"{T}/rw/f", OpenFlag.RDWR | OpenFlag.CREAT) as f:
            await f.write(0, b"1")
            assert kept_refs(repo) == {}
            await f.fsync()
            (kept,) = kept_refs(repo).values()
            await f.fsync()  # nothing new
            assert list(kept_refs(repo).values()) == [kept]
            # A server that dies now leaves this; the next one has it.
            async with Repository.open(tmp_path / "r", fsync=False) as other:
                second = Leases(other, Limits())
                assert second.of("main") == {}  # we hold the lock
        tree = repo.engine.objects.tree(repo.engine.objects.commit(kept).tree)
        assert sorted(tree) == [b"meta.json", b"rw"]
        await c.command(f"{T}/ctl", "close")
    with Repository.open(tmp_path / "r") as repo:
        assert kept_refs(repo) == {}


async def test_a_commit_whose_server_died_at_once_is_not_offered_again(tmp_path) -> None:
    async with on_disk(tmp_path / "r") as (repo, c):
        await c.mkdir("branch/main")
        await c.mkdir(T)
        async with await c.open(f"{T}/rw/f", OpenFlag.RDWR | OpenFlag.CREAT) as f:
            await f.write(0, b"1")
            await f.fsync()
        ((ref, kept),) = kept_refs(repo).items()
        await c.command(f"{T}/ctl", "commit")
    with Repository.open(tmp_path / "r") as repo:
        point(repo.engine, ref, kept)  # as if it had not been taken away
    async with on_disk(tmp_path / "r") as (repo, c):
        assert await c.listdir("branch/main/transactions") == []


async def test_damaged_ones_are_left_alone(tmp_path) -> None:
    async with on_disk(tmp_path / "r") as (repo, c):
        async with repo.branch("main").transaction("0") as t:
            t.write("meta.json", b'{"branch": "x"}')
        head = repo.branch("main").head
    with Repository.open(tmp_path / "r") as repo:
        point(repo.engine, "refs/dataflow/tx/" + "1" * 40, head)
    async with on_disk(tmp_path / "r") as (repo, c):
        assert await c.listdir("branch/main/transactions") == []
        assert len(kept_refs(repo)) == 1
