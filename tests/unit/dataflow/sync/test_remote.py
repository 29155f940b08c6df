"""Remotes: fetch, push and pull over each transport, and what they say when it fails."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from dataflow import MergeConflictError, NotFastForwardError, NotFoundError, Repository
from dataflow.errors import (
    CannotFetchError,
    CannotPushError,
    ExistsError,
    InvalidNameError,
    NoRemoteHeadError,
    RemoteUrlError,
    UsageError,
)
from dataflow.sync.transport import shown

from .conftest import commit

SCHEMES = ["path", "file", "git", "http"]


@pytest.fixture
async def repo(tmp_path):
    async with Repository.open(tmp_path / "ours.git", fsync=False) as opened:
        yield opened


async def put(repo: Repository, path: str, data: bytes, branch: str = "main") -> str:
    async with repo.branch(branch).transaction("put") as t:
        t.write(path, data)
    return t.result.head


def head(path: str, branch: str = "main") -> str | None:
    with Repository.open(path) as repo:
        return repo.branch(branch).head


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_fetch_brings_a_pack_and_a_reference(repo, served, other, scheme) -> None:
    up = await repo.remotes.add("up", served(scheme))
    assert await up.head() is None
    got = await up.fetch("main", timeout=20)
    assert got == head(other) == await up.head()
    assert repo.engine.store.refs("refs/remotes/") == {"refs/remotes/up/main": got}
    assert repo.engine.tree(got).read((b"f",)) == b"1"
    assert await repo.branches() == {}
    with Repository.open(other) as theirs:
        newer = commit(theirs, "f", b"2")
    assert await up.fetch("main", timeout=20) == newer
    assert await up.fetch("main", timeout=20) == newer  # nothing new
    assert repo.engine.tree(newer).read((b"f",)) == b"2"


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_push_moves_forward_only(repo, served, other, scheme) -> None:
    up = await repo.remotes.add("up", served(scheme))
    base = await up.pull("main", timeout=20)
    assert repo.branch("main").head == base
    ours = await put(repo, "g", b"ours")
    assert await up.push("main", timeout=20) == ours == head(other)
    assert await up.push("main", to="copy/of", timeout=20) == head(other, "copy/of")
    with Repository.open(other) as theirs:
        newer = commit(theirs, "h", b"theirs")
    ours = await put(repo, "g", b"ours again")
    with pytest.raises(NotFastForwardError):
        await up.push("main", timeout=20)
    assert head(other) == newer
    merged = await up.pull("main", timeout=20)
    assert await repo.branch("main").names() == ["f", "g", "h"]
    assert await up.push("main", timeout=20) == merged == head(other)
    await repo.branch("main").reset(base)
    assert await up.push("main", force=True, timeout=20) == base == head(other)


@pytest.mark.parametrize("scheme", ["path", "git"])
async def test_a_store_in_memory_fetches_and_pushes(served, other, scheme) -> None:
    async with Repository.memory() as repo:
        up = await repo.remotes.add("up", served(scheme))
        assert await up.pull("main", timeout=20) == head(other)
        assert await repo.branch("main").read("f") == b"1"
        ours = await put(repo, "d/g", b"2")
        assert await up.push("main", timeout=20) == ours == head(other)


async def test_pull_conflict_leaves_the_branch(repo, other) -> None:
    up = await repo.remotes.add("up", other)
    await up.pull("main")
    ours = await put(repo, "f", b"ours")
    with Repository.open(other) as theirs:
        commit(theirs, "f", b"theirs")
    with pytest.raises(MergeConflictError):
        await up.pull("main")
    assert repo.branch("main").head == ours


async def test_errors_are_datakits(repo, tmp_path, other) -> None:
    up = await repo.remotes.add("up")
    with pytest.raises(RemoteUrlError, match=r"^error: remote url is not defined"):
        await up.fetch("main")
    await up.set_url(other)
    with pytest.raises(NoRemoteHeadError, match=r"^error: no head to fetch"):
        await up.fetch("nothing")
    await up.set_url(str(tmp_path / "nowhere"))
    with pytest.raises(CannotFetchError, match=f"^error: cannot fetch {tmp_path}/nowhere: "):
        await up.fetch("main")
    await put(repo, "f", b"1")
    with pytest.raises(CannotPushError, match=f"^error: cannot push to {tmp_path}/nowhere: "):
        await up.push("main")
    with pytest.raises(NotFoundError):
        await up.push("nothing")
    with pytest.raises(NotFoundError):
        await repo.remote("other").fetch("main")
    assert await up.head() is None


@pytest.mark.parametrize("bad", ["", "-x", "a b", "a..b", "a.lock", "x\ny", "~"])
async def test_bad_names_are_refused(repo, bad) -> None:
    with pytest.raises(InvalidNameError):
        await repo.remotes.add(bad)


async def test_bad_urls_and_taken_names_are_refused(repo) -> None:
    for url in ("a\nb", "a\0b", "x" * 5000):
        with pytest.raises(UsageError):
            await repo.remotes.add("up", url)
    await repo.remotes.add("up", "a")
    await repo.remotes.add("b", "b")
    with pytest.raises(ExistsError):
        await repo.remotes.add("up")
    with pytest.raises(ExistsError):
        await repo.remotes.rename("up", "b")
    with pytest.raises(NotFoundError):
        await repo.remotes.remove("c")


async def test_rename_and_remove_take_the_references_along(repo, other) -> None:
    up = await repo.remotes.add("up", other)
    got = await up.fetch("main")
    await repo.remotes.rename("up", "down")
    assert await repo.remotes.names() == ["down"]
    assert await repo.remote("down").head() == got
    assert repo.engine.store.refs("refs/remotes/") == {"refs/remotes/down/main": got}
    await repo.remotes.remove("down")
    assert repo.engine.store.refs("refs/remotes/") == {}


class Silent:
    """Accepts one connection on loopback, tells it, and never answers."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.connected = threading.Event()
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"git://127.0.0.1:{self.socket.getsockname()[1]}/x"

    def _serve(self) -> None:
        peer, _ = self.socket.accept()
        with peer:
            self.connected.set()
            while peer.recv(4096):
                pass
            self.ended.set()

    def close(self) -> None:
        self._thread.join(10)
        self.socket.close()


@pytest.fixture
def silent():
    server = Silent()
    yield server
    server.close()


async def test_cancel_shuts_the_connection_down(repo, silent) -> None:
    up = await repo.remotes.add("up", silent.url)
    task = asyncio.ensure_future(up.fetch("main"))
    assert await asyncio.to_thread(silent.connected.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(silent.ended.wait, 10)


async def test_silence_is_an_error(repo, silent) -> None:
    up = await repo.remotes.add("up", silent.url)
    with pytest.raises(CannotFetchError, match=r"silent for 0\.05 s"):
        await up.fetch("main", timeout=0.05)
    assert await asyncio.to_thread(silent.ended.wait, 10)


async def test_closing_the_repository_ends_transfers(tmp_path, silent) -> None:
    async with Repository.open(tmp_path / "r.git") as repo:
        up = await repo.remotes.add("up", silent.url)
        task = asyncio.ensure_future(up.fetch("main"))
        assert await asyncio.to_thread(silent.connected.wait, 10)
    with pytest.raises(CannotFetchError):
        await task


async def test_progress_is_told(repo, other) -> None:
    up = await repo.remotes.add("up", other)
    said: list[str] = []
    await up.fetch("main", progress=said.append)
    assert any(said)


async def test_heads_stream(repo, other) -> None:
    up = await repo.remotes.add("up", other)
    heads = up.heads()
    assert await anext(heads) is None
    waiting = asyncio.ensure_future(anext(heads))
    got = await up.fetch("main")
    assert await waiting == got
    await heads.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(heads)
    assert repo.remotes.followers == {}


def test_passwords_are_not_shown() -> None:
    assert shown("https://u:secret@h:1/p") == "https://u:***@h:1/p"
    assert shown("git://h/p") == "git://h/p"
    assert shown("host:path") == "host:path"


async def test_ssh_runs_the_command_of_the_config(repo, other, tmp_path) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\necho "$@" > "$0.args"\nfor last; do :; done\nexec sh -c "$last"\n')
    ssh.chmod(0o755)
    config = tmp_path / "ours.git" / "config"
    config.write_text(f"{config.read_text()}[core]\n\tsshCommand = {ssh}\n")
    up = await repo.remotes.add("up", f"ssh://host{other}")
    assert await up.pull("main", timeout=20) == head(other)
    assert "BatchMode=yes" in (tmp_path / "ssh.args").read_text()
    ours = await put(repo, "g", b"1")
    assert await up.push("main", timeout=20) == ours == head(other)
