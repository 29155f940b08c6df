"""C git on a repository that our writers use at the same time, and repositories of every shape."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import CGIHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dataflow import ChangeKind, Repository
from dataflow.errors import (
    DataflowError,
    InvalidNameError,
    NotFastForwardError,
    PeerError,
    RefLockedError,
)

from .test_dataflow_git import ENV, fsck, git

pytestmark = pytest.mark.compat

WRITERS = 4
ROUNDS = 4


def tries(where: Path | str, *args: str) -> bool:
    """Run git and say whether it succeeded."""
    done = subprocess.run(["git", "-C", where, *args], env=ENV, capture_output=True, check=False)
    return done.returncode == 0


def eventually(where: Path | str, *args: str) -> None:
    """Run git until it finds no lock of ours in its way; it waits for 0.1 s only."""
    assert any(tries(where, *args) for _ in range(20)), args


def made(path: Path, **files: str) -> str:
    """Commit files to main with no loop."""
    with Repository.open(path) as repo, repo.branch("main").transaction("made") as t:
        for name, data in files.items():
            t.write(name, data.encode())
    assert t.result is not None
    return t.result.head


def fsck_in_use(path: Path) -> None:
    """Check a repository that others write to.

    git of this age lists objects first and references later, so it may miss what came between.
    """
    command = ["git", "-C", path, "fsck", "--strict", "--no-dangling"]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, check=False)
    for line in (done.stdout + done.stderr).splitlines():
        words = line.split()
        if "invalid reflog entry" in line:  # of a commit made since, too
            continue
        assert words[0] == "missing", line
        assert tries(path, "cat-file", "-e", words[2]), line


def upkeep(path: Path, work: Path, copy: Path, hold: Callable[[bool], object]) -> dict[str, int]:
    """Do to a repository in use what people do to one, over and over.

    A push that was refused three times lets the writers pause (`hold`): git is slow, they are not.
    """
    counts = {"pushed": 0, "refused": 0, "worktree": 0}
    for i in range(ROUNDS):
        eventually(path, "pack-refs", "--all")
        (copy / f"git{i}").write_text("x")
        git(copy, "add", ".")
        git(copy, "commit", "-qm", f"git {i}")
        for attempt in range(20):
            if attempt == 3:
                hold(True)
            if tries(copy, "push", "-q", "origin", "HEAD:main"):
                counts["pushed"] += 1
                break
            counts["refused"] += 1  # not a fast-forward: we were faster
            git(copy, "pull", "-q", "--no-rebase", "--no-edit", "origin", "main")
        hold(False)
        eventually(path, "repack", "-adq")
        (work / f"w{i}").write_text("x")
        git(work, "add", ".")
        git(work, "commit", "-qm", f"worktree {i}")
        counts["worktree"] += 1
        eventually(path, "gc", "-q")
        git(copy, "fetch", "-q", "--all")
        fsck_in_use(path)
        git(path.parent, "clone", "-q", str(path), f"clone{i}")
        fsck(path.parent / f"clone{i}")
    return counts


async def test_git_at_work_beside_four_writers(tmp_path) -> None:
    path, copy, work = tmp_path / "r.git", tmp_path / "copy", tmp_path / "work"
    base = made(path, base="1")
    git(path, "config", "gc.auto", "0")  # else pushes collect in the background
    git(tmp_path, "clone", "-q", str(path), str(copy))
    git(path, "worktree", "add", "-q", "-b", "side", str(work), "main")
    async with Repository.open(path, lock_timeout=20) as repo, asyncio.timeout(110):
        main, side = repo.branch("main"), repo.branch("side")
        watch, side_watch = main.watch(), side.watch()
        free = asyncio.Event()
        free.set()
        loop = asyncio.get_running_loop()

        def hold(on: bool) -> None:
            loop.call_soon_threadsafe(free.clear if on else free.set)

        busy = asyncio.ensure_future(asyncio.to_thread(upkeep, path, work, copy, hold))
        written: dict[str, int] = {}

        async def writer(name: str) -> None:
            while not busy.done():
                n = written.get(name, 0)
                async with main.transaction(f"{name} {n}") as t:
                    t.write(f"{name}/{n}", b"x")
                written[name] = n + 1
                await free.wait()

        await asyncio.gather(busy, *(writer(f"w{i}") for i in range(WRITERS)))
        counts = busy.result()
        everything = git(path, "rev-list", f"{base}..main").split()
        seen = [await anext(watch) for _ in everything]
        assert {c.kind for c in seen} == {ChangeKind.COMMIT}
        assert sorted(c.commit for c in seen) == sorted(everything)
        sides = git(path, "rev-list", "--reverse", f"{base}..side").split()
        assert [(await anext(side_watch)).commit for _ in sides] == sides
    names = set(git(path, "ls-tree", "-r", "--name-only", "main").split())
    assert {f"{w}/{k}" for w, n in written.items() for k in range(n)} <= names
    assert {f"git{i}" for i in range(ROUNDS)} <= names
    assert counts["pushed"] == counts["worktree"] == len(sides) == ROUNDS
    assert counts["refused"]
    assert len(written) == WRITERS
    fsck(path)


def test_objects_may_lie_elsewhere(tmp_path) -> None:
    """Alternates, by hand and as `clone --reference` writes them."""
    path = tmp_path / "r.git"
    made(path, f="1")
    git(path, "repack", "-adq")
    made(path, g="2")
    for name, options in (("shared", ("--shared",)), ("reference", ("--reference", str(path)))):
        git(tmp_path, "clone", "-q", "--bare", *options, f"file://{path}"[7:], f"{name}.git")
        clone = tmp_path / f"{name}.git"
        assert (clone / "objects" / "info" / "alternates").exists()
        with Repository.open(clone) as repo:
            main = repo.branch("main")
            tree = repo.engine.tree(main.head)
            assert (tree.read((b"f",)), tree.read((b"g",))) == (b"1", b"2")
            with main.transaction("on top") as t:
                t.write("h", b"3")
        fsck(clone)
        assert git(clone, "show", "main:h") == "3"
        assert git(clone, "rev-list", "--count", "main").strip() == "3"


def test_packed_refs_and_heads_of_every_kind(tmp_path) -> None:
    path = tmp_path / "r.git"
    one = made(path, f="1")
    git(path, "branch", "a/b")
    git(path, "pack-refs", "--all")
    assert not (path / "refs" / "heads" / "main").exists()
    with Repository.open(path) as repo:
        assert repo.engine.branches() == {"a/b": one, "main": one}
        with repo.branch("a/b").transaction("two") as t:
            t.write("f", b"2")
        repo.engine.delete("main")
        assert repo.engine.branches() == {"a/b": t.result.head}
        assert git(path, "for-each-ref", "--format=%(refname)") == "refs/heads/a/b\n"
        repo.engine.rename("a/b", "main")
    git(path, "symbolic-ref", "HEAD", "refs/heads/elsewhere")  # unborn
    assert made(path, g="1") == git(path, "rev-parse", "main").strip()
    (path / "HEAD").write_text(one + "\n")  # detached
    assert made(path, g="2") == git(path, "rev-parse", "main").strip()
    assert git(path, "rev-parse", "HEAD").strip() == one
    fsck(path)


def test_a_work_tree_and_one_linked_to_it(tmp_path) -> None:
    git(tmp_path, "init", "-q", "-b", "main", "work")
    work = tmp_path / "work"
    one = made(work, f="1")
    git(work, "worktree", "add", "-q", str(tmp_path / "linked"), "-b", "side", "main")
    two = made(tmp_path / "linked", f="2")
    assert git(work, "rev-parse", "main").strip() == two != one
    fsck(work)


def test_sha256_is_refused_in_one_line(tmp_path) -> None:
    git(tmp_path, "init", "-q", "--bare", "--object-format=sha256", "r.git")
    with pytest.raises(PeerError, match="sha256") as err:
        Repository.open(tmp_path / "r.git")
    assert "\n" not in str(err.value)


async def test_fetching_from_sha256_is_refused_in_one_line(tmp_path) -> None:
    git(tmp_path, "init", "-q", "-b", "main", "--object-format=sha256", "other")
    git(tmp_path / "other", "commit", "-q", "--allow-empty", "-m", "x")
    async with Repository.open(tmp_path / "r.git") as repo:
        up = await repo.remotes.add("up", str(tmp_path / "other"))
        with pytest.raises(PeerError, match=r"^error: cannot fetch .*SHA-256"):
            await up.fetch("main")
        assert git(tmp_path / "r.git", "rev-parse", "--show-object-format") == "sha1\n"


def test_a_shallow_clone_ends_where_it_was_cut(tmp_path) -> None:
    path = tmp_path / "r.git"
    for i in range(5):
        made(path, f=str(i))
    git(tmp_path, "clone", "-q", "--bare", "--depth", "2", f"file://{path}", "s.git")
    shallow = tmp_path / "s.git"
    with Repository.open(shallow) as repo:
        main = repo.branch("main")
        assert len(list(repo.engine.log(main.head))) == 2
        cut = list(repo.engine.log(main.head))[-1]
        assert cut.parents == ()
        with main.transaction("on top") as t:
            t.write("g", b"1")
    fsck(shallow)
    assert git(shallow, "rev-list", "--count", "main").strip() == "3"
    git(shallow, "push", "-q", "origin", "main")
    assert git(path, "rev-list", "--count", "main").strip() == "6"


def test_replacements_and_grafts_are_ignored(tmp_path) -> None:
    """We show what is stored, as `git --no-replace-objects` does."""
    path = tmp_path / "r.git"
    one, two = made(path, f="1"), made(path, f="2")
    git(path, "replace", one, git(path, "commit-tree", "-m", "x", f"{two}^{{tree}}").strip())
    (path / "info").mkdir(exist_ok=True)
    (path / "info" / "grafts").write_text(f"{two}\n")
    with Repository.open(path) as repo:
        assert repo.engine.objects.commit(two).parents == (one,)
        assert repo.engine.tree(one).read((b"f",)) == b"1"
        assert repo.engine.branches() == {"main": two}


@pytest.mark.parametrize("name", ["refs/heads/main", "packed-refs"])
def test_locks_of_a_dead_git_are_told(tmp_path, name) -> None:
    path = tmp_path / "r.git"
    made(path, f="1")
    git(path, "pack-refs", "--all")
    lock = path / f"{name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text("")
    hour_ago = time.time() - 3600
    os.utime(lock, (hour_ago, hour_ago))
    with Repository.open(path, lock_timeout=0.05) as repo:
        with pytest.raises(RefLockedError, match=rf"{lock} exists since 36\d\d\.\d s") as err:
            repo.engine.delete("main")
        assert err.value.path == str(lock)
        assert 3599 < err.value.age < 3700
        lock.unlink()
        repo.engine.delete("main")


NAMES = [
    *(b"\xff\xfe", "ünï".encode(), b"n" * 255, b"new\nline", b"tab\t", b"-dash", b"sp ace", b"CON"),
    *(b"...", b"a\\b", b"git~2", b".gita", b"a:b", b"*", b".gitmodule", b"\x01", b"HEAD", b"a."),
    *(b".", b"..", b".git", b".GIT", b".Git", b"git~1", b"GIT~1", b".git.", b".git "),
    *(".g\u200cit".encode(), b".git:x", b"n" * 256, b"a\\.git", "\u202e.git".encode()),
]


def store_tree_raw(path: Path, raw: bytes) -> str:
    """Let git store a tree as it is, whatever fsck thinks of it."""
    command = ["git", "-C", path, "hash-object", "-t", "tree", "-w", "--literally", "--stdin"]
    done = subprocess.run(command, input=raw, env=ENV, capture_output=True, check=True)
    return done.stdout.decode().strip()


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_odd_names_are_judged_as_git_judges(tmp_path, name) -> None:
    """What we take, `fsck --strict` finds clean; what we refuse, it does not."""
    path = tmp_path / "r.git"
    made(path, f="1")
    blob = git(path, "rev-parse", "main:f").strip()
    by_git = store_tree_raw(path, b"100644 " + name + b"\0" + bytes.fromhex(blob))
    clean = tries(path, "fsck", "--strict", "--no-dangling")
    if len(name) > 255:
        clean = False  # git would take it; no file system would
    (path / "objects" / by_git[:2] / by_git[2:]).unlink()
    with Repository.open(path) as repo:
        t = repo.branch("main").transaction("odd")
        try:
            with t:
                t.write(b"d/" + name, b"x")
        except InvalidNameError:
            assert not clean
            return
        assert clean, "git would not have it"
        assert repo.engine.tree(t.result.head).read((b"d", name)) == b"x"
    fsck(path)
    listed = git(path, "ls-tree", "-z", "--name-only", "main:d")
    assert listed.encode("utf-8", "surrogateescape") == name + b"\0"


LINKS = [b".gitmodules", b".GitModules", b"GITMOD~1", b"gi7eba~1", ".git\u200cmodules".encode()]


@pytest.mark.parametrize("name", [*LINKS, b".gitmodules2", b"gitmod~5", b"gitmodules"], ids=repr)
def test_links_called_gitmodules_are_judged_as_git_judges(tmp_path, name) -> None:
    path = tmp_path / "r.git"
    made(path, f="1")
    with Repository.open(path) as repo:
        t = repo.branch("main").transaction("link")
        if name in LINKS:
            with pytest.raises(DataflowError, match="gitmodulesSymlink"):
                t.symlink(name, b"f")
            t.symlink("fine", b"f")
            with pytest.raises(DataflowError, match="gitmodulesSymlink"):
                t.rename("fine", name)
            t.close()
            raw = b"120000 " + name + b"\0" + bytes.fromhex(git(path, "rev-parse", "main:f"))
            store_tree_raw(path, raw)
            assert not tries(path, "fsck", "--strict")
            return
        with t:
            t.symlink(name, b"f")
    fsck(path)


# Remotes against git's own servers.


@pytest.fixture
def daemon(tmp_path) -> Iterator[str]:
    """`git daemon` on loopback, serving what lies in tmp_path, pushes too."""
    probe = ThreadingHTTPServer(("127.0.0.1", 0), CGIHTTPRequestHandler)
    port = probe.server_port
    probe.server_close()
    process = subprocess.Popen(
        ["git", "daemon", "--reuseaddr", "--listen=127.0.0.1", f"--port={port}", "--export-all",
         "--enable=receive-pack", "--verbose", f"--base-path={tmp_path}", str(tmp_path)],
        env=ENV, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    assert "Ready" in process.stderr.readline()
    drain = threading.Thread(target=process.stderr.read)
    drain.start()
    yield f"git://127.0.0.1:{port}"
    os.killpg(process.pid, signal.SIGTERM)
    process.wait()
    drain.join()
    process.stderr.close()


class _Backend(CGIHTTPRequestHandler):
    """git http-backend below /git; http.server's CGI runs it."""

    root = ""

    def is_cgi(self) -> bool:
        self.cgi_info = "", self.path.removeprefix("/")
        return True

    def translate_path(self, path: str) -> str:
        return str(self.root)

    def run_cgi(self) -> None:
        path, _, query = self.path.partition("?")
        env = {
            **ENV, "GIT_PROJECT_ROOT": self.root, "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path, "QUERY_STRING": query, "REQUEST_METHOD": self.command,
            "REMOTE_USER": "t", "REMOTE_ADDR": "127.0.0.1",
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
        }  # fmt: skip
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        said = subprocess.run(
            ["git", "http-backend"], input=body, env=env, capture_output=True, check=False
        ).stdout
        head, _, rest = said.partition(b"\r\n\r\n")
        lines = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.send_response(int(lines.pop("Status", "200").split()[0]))
        for key, value in lines.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(rest)

    def log_message(self, *args: object) -> None:
        """Log nothing."""


@pytest.fixture
def http(tmp_path) -> Iterator[str]:
    """`git http-backend` on loopback."""
    handler = type("Backend", (_Backend,), {"root": str(tmp_path)})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("scheme", ["daemon", "http", "file", "path"])
async def test_remotes_speak_with_gits_servers(tmp_path, scheme, request) -> None:
    base = f"file://{tmp_path}" if scheme == "file" else str(tmp_path)
    if scheme in {"daemon", "http"}:
        base = request.getfixturevalue(scheme)
    other = tmp_path / "other.git"
    one = made(other, f="1")
    git(other, "config", "http.receivepack", "true")
    async with Repository.open(tmp_path / "ours.git") as repo, asyncio.timeout(60):
        ours = tmp_path / "ours.git"
        up = await repo.remotes.add("up", f"{base}/other.git")
        assert git(ours, "remote", "-v").startswith(f"up\t{base}/other.git (fetch)")
        assert await up.pull("main") == one
        assert git(ours, "rev-parse", "refs/remotes/up/main").strip() == one
        assert list((ours / "objects" / "pack").glob("*.pack"))
        fsck(ours)
        async with repo.branch("main").transaction("ours") as t:
            t.write("g", b"2")
        assert await up.push("main") == t.result.head
        assert git(other, "rev-parse", "main").strip() == t.result.head
        fsck(other)
        three = made(other, f="3")
        async with repo.branch("main").transaction("apart") as t:
            t.write("g", b"4")
        with pytest.raises(NotFastForwardError):
            await up.push("main")
        git(other, "config", "receive.denyNonFastForwards", "true")
        if scheme in {"daemon", "http"}:  # a directory is written without asking its git
            with pytest.raises(PeerError, match=r"main: non-fast-forward"):
                await up.push("main", force=True)
            assert git(other, "rev-parse", "main").strip() == three
        merged = await up.pull("main")
        assert await up.push("main") == merged == git(other, "rev-parse", "main").strip()
        git(ours, "fetch", "-q", "up")  # plain git goes on with what we wrote
        assert git(ours, "rev-parse", "refs/remotes/up/main").strip() == merged
        git(ours, "remote", "rename", "up", "down")
        assert await repo.remotes.names() == ["down"]
        await repo.remotes.rename("down", "again")
        assert git(ours, "for-each-ref", "--format=%(refname)", "refs/remotes") == (
            "refs/remotes/again/main\n"
        )
        assert git(ours, "remote").strip() == "again"
        await repo.remotes.remove("again")
        assert git(ours, "remote") == git(ours, "for-each-ref", "refs/remotes") == ""
    fsck(ours)
