"""The bridge to NATS JetStream against Debian's nats-server on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator

import pytest

from dataflow import Repository

nats = pytest.importorskip("nats")
from dataflow.aio.jetstream import JetStreamBridge, subject_of  # noqa: E402

pytestmark = pytest.mark.compat


class Server:
    """One nats-server with a store of its own, which can be stopped and started again."""

    def __init__(self, directory) -> None:
        self._directory = directory
        self._ports = directory / "ports"
        self._port = -1
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        """Start it and return its URL."""
        self._ports.mkdir(parents=True)
        self._process = subprocess.Popen(
            ["nats-server", "-a", "127.0.0.1", "-p", str(self._port), "-js",
             "-sd", str(self._directory / "store"), "--ports_file_dir", str(self._ports)],
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        until = time.monotonic() + 20
        while not (found := list(self._ports.iterdir())):
            assert time.monotonic() < until
            time.sleep(0.02)
        (url,) = json.loads(found[0].read_text())["nats"]
        self._port = int(url.rsplit(":", 1)[1])
        return str(url)

    def stop(self) -> None:
        """Stop it; what it stored stays."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None
        shutil.rmtree(self._ports, ignore_errors=True)


@pytest.fixture
async def server(tmp_path, require) -> AsyncIterator[Server]:
    require("nats-server")
    made = Server(tmp_path / "nats")
    yield made
    made.stop()


@contextlib.asynccontextmanager
async def bridged(repo: Repository, url: str, *branches: str):
    """Run a bridge; what ends it is seen at the end."""
    client = await nats.connect(url, max_reconnect_attempts=-1, reconnect_time_wait=0.05)
    bridge = JetStreamBridge(repo, client, branches, timeout=0.5, tries=50)
    task = asyncio.ensure_future(bridge.run())
    try:
        yield bridge
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await client.close()


async def put(repo: Repository, branch: str, data: bytes) -> str:
    async with repo.branch(branch).transaction("put") as t:
        t.write("f", data)
    return t.result.head


async def published(bridge: JetStreamBridge, count: int) -> None:
    async with asyncio.timeout(30):
        while bridge.statistics().published < count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def stored(url: str, subject: str) -> list[dict]:
    """Return all documents of a subject, in the stream's order."""
    async with await nats.connect(url) as client:
        subscription = await client.jetstream().subscribe(subject, ordered_consumer=True)
        found = []
        with contextlib.suppress(nats.errors.TimeoutError):
            while True:
                found.append(json.loads((await subscription.next_msg(timeout=0.5)).data))
        return found


async def test_every_commit_once_and_in_order_over_restarts(tmp_path, server) -> None:
    url = await asyncio.to_thread(server.start)
    async with Repository.open(tmp_path / "r.git", fsync=False) as repo:
        made = [await put(repo, "a/b.c", b"%d" % i) for i in range(3)]
        side = [await put(repo, "side", b"1")]
        async with bridged(repo, url, "a/b.c", "side") as bridge:
            made += [await put(repo, "a/b.c", b"%d" % i) for i in range(3, 6)]
            await published(bridge, 7)
        made += [await put(repo, "a/b.c", b"%d" % i) for i in range(6, 9)]  # nobody bridges
        async with bridged(repo, url, "a/b.c", "side") as bridge:
            await published(bridge, 3)
            server.stop()
            made.append(await put(repo, "a/b.c", b"while it is down"))
            assert await asyncio.to_thread(server.start) == url
            await published(bridge, 4)
        found = await stored(url, subject_of("dataflow", "a/b.c"))
        assert [d["commit"] for d in found] == made
        assert found[0]["changes"][0]["status"] == "A"
        assert {d["kind"] for d in found} == {"commit"}
        assert [d["commit"] for d in await stored(url, subject_of("dataflow", "side"))] == side


async def test_the_server_drops_what_comes_twice(tmp_path, server) -> None:
    url = await asyncio.to_thread(server.start)
    async with Repository.open(tmp_path / "r.git", fsync=False) as repo:
        await put(repo, "main", b"1")
        async with bridged(repo, url, "main") as bridge:
            await published(bridge, 1)
            (change,) = [await anext(repo.branch("main").watch(since=""))]
            await bridge._publish(subject_of("dataflow", "main"), change)
        assert len(await stored(url, "dataflow.main")) == 1


def test_subjects_tell_branches_apart() -> None:
    names = ["a/b", "a.b", "a%2Eb", "a*", "a>"]
    assert len({subject_of("p", n) for n in names}) == len(names)
    assert subject_of("p", "a/b") == "p.a.b"
    assert subject_of("p", "a.b") == "p.a%2Eb"
