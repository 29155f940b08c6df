"""Watches and authors with real peers: git pushes, diodcat, a shell that is killed, other users."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dataflow import Repository, Server, repository_root
from dataflow.aio.client import connect
from dataflow.branch import outside, watching

pytestmark = pytest.mark.compat

ENV = {
    **os.environ,
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_AUTHOR_NAME": "t",
    "GIT_AUTHOR_EMAIL": "t@t",
    "GIT_COMMITTER_NAME": "t",
    "GIT_COMMITTER_EMAIL": "t@t",
}

# As docs/watching.md has it; diodcat gives what is ready, or waits for it, and ends.
LOOP = """
while :; do
    diodcat -s "$SERVER" -a / "branch/main/log/$(cat "$DIR/done" 2>/dev/null || echo all)" |
    while read -r kind place commit; do
        echo "$kind $commit" >> "$DIR/seen" &&
        echo "$place" > "$DIR/done.new" && mv "$DIR/done.new" "$DIR/done"
    done
done
"""

CLIENT = """
import asyncio, sys
from dataflow.aio.client import connect
async def main():
    async with connect(sys.argv[1], uname="somebody-else") as c:
        await c.mkdir("branch/theirs")
        t = "branch/theirs/transactions/t"
        await c.mkdir(t)
        await c.write(t + "/rw/f", b"x")
        await c.command(t + "/ctl", "commit")
        try:
            await c.read("branch/main/transactions/ours/rw/f")
        except Exception:  # EACCES, for a client that walks name by name
            print("refused")
asyncio.run(main())
"""


def git(where: Path | str, *args: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(where), *args], env=ENV, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (args, done.stdout, done.stderr)
    return done.stdout


class Pusher:
    """A clone that commits and pushes."""

    def __init__(self, repo: Path, clone: Path) -> None:
        self.clone = clone
        git(clone.parent, "clone", "-q", str(repo), str(clone))
        git(clone, "checkout", "-qB", "main")

    def push(self, n: int, branch: str = "main") -> list[str]:
        for i in range(n):
            git(self.clone, "commit", "-q", "--allow-empty", "-m", f"git {i}")
        git(self.clone, "push", "-q", "origin", f"HEAD:{branch}")
        return git(self.clone, "rev-list", "--reverse", "-n", str(n), "HEAD").split()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def has(path: Path, text: str) -> bool:
    return path.exists() and text in path.read_text()


async def first_line(server: str, path: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "diodcat", "-s", server, "-a", "/", path, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    return out.decode()


async def test_pushes_come_by_inotify(tmp_path, monkeypatch, require) -> None:
    require("git")
    monkeypatch.setattr(watching, "SAFETY_INTERVAL", 1e6)  # nothing else would tell
    path = tmp_path / "r.git"
    async with Repository.open(path) as repo:
        pusher = await asyncio.to_thread(Pusher, path, tmp_path / "clone")
        watch = repo.branch("main").watch()
        deep = repo.branch("x/y").watch()
        if not outside.is_local(str(path)):
            pytest.skip("inotify is blind here")
        async with asyncio.timeout(60):
            for n in (1, 3):
                pushed = await asyncio.to_thread(pusher.push, n)
                assert [(await anext(watch)).commit for _ in range(n)] == pushed
            await asyncio.to_thread(git, path, "gc", "-q")  # packs the references
            pushed += await asyncio.to_thread(pusher.push, 1, "x/y")
            found = [(await anext(deep)).commit for _ in range(5)]
            assert found[-4:] == pushed
            await asyncio.to_thread(git, path, "pack-refs", "--all", "--prune")
            await asyncio.to_thread(git, path, "update-ref", "-d", "refs/heads/x/y")
            assert (await anext(deep)).kind.value == "deleted"


async def test_diodcat_reads_the_streams(tmp_path, require) -> None:
    require("diodcat")
    async with Repository.memory() as repo, Server(repository_root(repo)) as server:
        address = (await server.listen_tcp("127.0.0.1", 0)).removeprefix("tcp:")
        async with repo.branch("main").transaction("one") as t:
            t.write("f", b"1")
        head = repo.branch("main").head
        assert await first_line(address, "branch/main/head.live") == f"{head}\n"
        assert await first_line(address, "branch/main/log/all") == f"commit {head} {head}\n"
        assert (await first_line(address, "branch/main/watch/f.node/tree.live"))[:2] == "F-"
        waiting = asyncio.ensure_future(first_line(address, f"branch/main/log/{head}"))
        async with repo.branch("main").transaction("two") as t:
            t.write("f", b"2")
        head = repo.branch("main").head
        assert await waiting == f"commit {head} {head}\n"
        await asyncio.to_thread(wait_for, lambda: not repo.statistics().watches)


async def test_a_shell_loop_is_killed_and_goes_on(tmp_path, require) -> None:
    """Commits of git and ours, a loop that dies at any moment: every commit once, in order.

    (Killed between its two writes it would see one again: at least once, as any such loop.)
    """
    require("git", "diodcat")
    path, seen = tmp_path / "r.git", tmp_path / "seen"
    async with Repository.open(path) as repo, Server(repository_root(repo)) as server:
        address = (await server.listen_tcp("127.0.0.1", 0)).removeprefix("tcp:")
        pusher = await asyncio.to_thread(Pusher, path, tmp_path / "clone")
        made = await asyncio.to_thread(pusher.push, 2)
        env = {**ENV, "SERVER": address, "DIR": str(tmp_path)}
        for last in (False, False, False, True):
            shell = await asyncio.create_subprocess_exec(
                "sh", "-c", LOOP, env=env, start_new_session=True, stderr=subprocess.DEVNULL
            )
            made += await asyncio.to_thread(pusher.push, 3)
            if last:
                await asyncio.to_thread(wait_for, functools.partial(has, seen, made[-1]))
            os.killpg(shell.pid, signal.SIGKILL)
            await shell.wait()
            made += [] if last else await asyncio.to_thread(pusher.push, 1)
    lines = seen.read_text().splitlines()
    assert list(dict.fromkeys(lines)) == [f"commit {oid}" for oid in made]
    assert len(lines) <= len(made) + 3


async def test_the_kernel_says_who_commits(require) -> None:
    require("root")
    with tempfile.TemporaryDirectory() as where:
        await commit_as_nobody(where)


async def commit_as_nobody(where: str) -> None:
    os.chmod(where, 0o755)
    async with Repository.memory() as repo, Server(repository_root(repo)) as server:
        address = await server.listen_unix(f"{where}/s", mode=0o666)
        async with asyncio.timeout(60):
            async with connect(address) as c:
                await c.mkdir("branch/main")
                await c.mkdir("branch/main/transactions/ours")
                child = await asyncio.create_subprocess_exec(
                    sys.executable, "-c", CLIENT, address, user=65534,
                    cwd=Path(__file__).parents[2], stdout=subprocess.PIPE,
                )  # fmt: skip
                out, _ = await child.communicate()
        assert out == b"refused\n"
        (commit,) = await repo.branch("theirs").log()
        assert commit.author == f"nobody <nobody@{socket.gethostname()}>"


def test_git_reflog_shows_our_moves(tmp_path, require) -> None:
    require("git")
    path = tmp_path / "r.git"

    def commit(branch: str, n: int) -> None:
        with (
            Repository.open(path, author="A B <a@b>") as repo,
            repo.branch(branch).transaction(f"number {n}\n\nmore") as t,
        ):
            t.write("f", str(n).encode())

    git(tmp_path, "init", "-q", "--bare", "-b", "main", str(path))  # where git logs nothing
    commit("main", 0)
    assert not (path / "logs/refs/heads/main").exists()
    git(path, "config", "core.logAllRefUpdates", "true")
    commit("x/y", 1)
    commit("main", 2)
    commit("main", 3)
    found = git(path, "reflog", "main", "--format=%gd %gn <%ge> %gs").splitlines()
    assert found == [f"main@{{{1 - i}}} A B <a@b> commit: number {i + 2}" for i in (1, 0)]
    assert git(path, "reflog", "x/y", "--format=%gs") == "commit (initial): number 1\n"
    assert git(path, "rev-parse", "main@{1}") == git(path, "rev-parse", "main^")
    with Repository.open(path) as repo:
        repo.engine.delete("x/y")
    assert not (path / "logs/refs/heads/x/y").exists()
    assert git(path, "fsck", "--no-dangling") == ""
