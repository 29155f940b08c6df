"""`dataflow mount` under the real kernel: files, streams, signals, locks, all ways to end."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import mmap
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fuse_mount import NOBODY, git, mounting

from dataflow.errors import UsageError
from dataflow.mount.device import check_directory

KIT = Path(__file__).parents[2] / "dataflow"


@pytest.fixture(autouse=True)
def _needs(require: Callable[..., None]) -> None:
    require("/dev/fuse", "fusermount3")


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Path]:
    with mounting(tmp_path / "r.git", tmp_path / "db"):
        yield tmp_path / "db"


def opened(db: Path, branch: str = "main", name: str = "t") -> Path:
    """Open a transaction."""
    t = db / "branch" / branch / "transactions" / name
    t.mkdir(parents=True)
    return t


def commit(t: Path) -> str:
    branch = t.parents[1]
    (t / "ctl").write_text("commit")
    return (branch / "head").read_text().strip()


def test_a_commit_is_plain_gits(db: Path, tmp_path: Path) -> None:
    t = opened(db)
    (t / "msg").write_text("why\n")
    (t / "rw" / "dir").mkdir()
    (t / "rw" / "dir" / "file").write_text("hello\n")
    (t / "rw" / "run").write_text("#!/bin/sh\n")
    (t / "rw" / "run").chmod(0o755)
    (t / "rw" / "link").symlink_to("dir/file")
    head = commit(t)
    assert not t.exists()
    repo = tmp_path / "r.git"
    assert git(repo, "log", "--format=%H %s", "main") == f"{head} why"
    assert git(repo, "show", "main:dir/file") == "hello"
    modes = [line.split()[0] for line in git(repo, "ls-tree", "main").splitlines()]
    assert modes == ["040000", "120000", "100755"]
    ro = db / "branch" / "main" / "ro"
    assert (ro / "link").read_text() == "hello\n"
    assert sorted(os.listdir(ro)) == ["dir", "link", "run"]
    with pytest.raises(OSError, match="Read-only"):
        (db / "snapshots" / head / "ro" / "dir" / "file").open("a")


def test_a_tree_goes_in_and_comes_out(db: Path, tmp_path: Path) -> None:
    t = opened(db)
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(KIT, t / "rw" / "kit", ignore=skip)
    os.rename(t / "rw" / "kit", t / "rw" / "moved")
    head = commit(t)
    shutil.copytree(KIT, tmp_path / "kit", ignore=skip)
    for top in (db / "branch" / "main" / "ro", db / "snapshots" / head / "ro"):
        found = subprocess.run(["diff", "-r", tmp_path / "kit", top / "moved"], check=False)
        assert found.returncode == 0


def test_programs_build_and_run_in_a_transaction(db: Path, require: Callable[..., None]) -> None:
    require("gcc")
    rw = opened(db) / "rw"
    (rw / "a.c").write_text("int main(void) { return 42; }\n")
    subprocess.run(["gcc", "a.c", "-o", "a"], cwd=rw, check=True)
    assert subprocess.run([rw / "a"], check=False).returncode == 42
    with (rw / "m").open("w+b") as file:
        file.write(bytes(8192))
        file.flush()
        with mmap.mmap(file.fileno(), 0) as memory:
            memory[4095:4099] = b"over"
    assert (rw / "m").read_bytes()[4090:4100] == b"\0\0\0\0\0over\0"
    with (rw / "log").open("a") as one, (rw / "log").open("a") as two:
        for file in (one, two, one):
            file.write("line\n")
            file.flush()
    assert (rw / "log").read_text() == "line\n" * 3


def test_a_name_that_was_renamed_away_is_a_new_file(db: Path) -> None:
    rw = opened(db) / "rw"
    for i in range(3):
        (rw / "new").write_text(f"{i}\n")
        assert not (rw / "f").exists() or (rw / "f").stat().st_ino != (rw / "new").stat().st_ino
        os.replace(rw / "new", rw / "f")
        assert (rw / "f").read_text() == f"{i}\n"
        assert os.listdir(rw) == ["f"]


def test_the_error_of_a_command_reaches_the_writer(db: Path) -> None:
    t = opened(db)
    for text, number in (("bogus", errno.EINVAL), ("commit", 0)):
        got = 0
        try:
            (t / "ctl").write_text(text)
        except OSError as err:
            got = err.errno or -1
        assert got == number
    with pytest.raises(FileNotFoundError):
        (t / "ctl").read_text()


def test_streams_wait_and_are_interrupted(db: Path) -> None:
    """Readers see each change; a signal ends the wait, and whoever stays loses nothing."""
    t = opened(db)
    live = db / "branch" / "main" / "head.live"
    with subprocess.Popen(["cat", live], stdout=subprocess.PIPE) as cat, live.open("rb", 0) as here:
        assert cat.stdout is not None
        assert cat.stdout.readline() == b"\n"
        assert here.readline() == b"\n"

        def ring(number: int, frame: object) -> None:
            raise InterruptedError

        old = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(InterruptedError):
            here.read(100)
        signal.signal(signal.SIGALRM, old)
        head = commit(t).encode() + b"\n"
        assert cat.stdout.readline() == head
        assert here.read(100) == head
        cat.kill()
        assert cat.wait(10) == -signal.SIGKILL


def test_many_waiting_readers_leave_room(db: Path) -> None:
    """More than pyfuse3's 99 workers; the mount goes on answering."""
    t = opened(db)
    live = db / "branch" / "main" / "head.live"
    with contextlib.ExitStack() as stack:
        cats = [
            stack.enter_context(subprocess.Popen(["cat", live], stdout=subprocess.PIPE))
            for _ in range(120)
        ]
        for cat in cats:
            assert cat.stdout is not None
            assert cat.stdout.readline() == b"\n"
        head = commit(t).encode() + b"\n"
        for cat in cats:
            assert cat.stdout is not None
            assert cat.stdout.readline() == head
            cat.kill()


def test_locks(db: Path) -> None:
    path = opened(db) / "rw" / "f"
    path.write_text("content")
    with path.open("r+") as one, path.open("r+") as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
        one.close()
        fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
    program = (
        "import fcntl, sys\n"
        "f = open(sys.argv[1], 'r+'); fcntl.lockf(f, fcntl.LOCK_EX)\n"
        "print('locked', flush=True); sys.stdin.read()\n"
    )
    words = [sys.executable, "-c", program, str(path)]
    with (
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder,
        path.open("r+") as file,
    ):
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(BlockingIOError):
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        holder.stdin.close()
        fcntl.lockf(file, fcntl.LOCK_EX)  # waits until the other process is gone


def test_an_ordinary_user_mounts_a_server(tmp_path: Path, require: Callable[..., None]) -> None:
    require("root")
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o055)
    work = tmp_path / "w"
    work.mkdir()
    os.chown(work, NOBODY, NOBODY)
    with mounting(work / "r.git", work / "db", "--json", user=NOBODY):
        words = f"mkdir -p {work}/db/branch/main/transactions/t && cd {work}/db/branch/main && "
        words += "echo hi > transactions/t/rw/f && echo commit > transactions/t/ctl && cat ro/f"
        done = subprocess.run(
            ["sh", "-c", words], capture_output=True, user=NOBODY, group=NOBODY, check=True
        )
        assert done.stdout == b"hi\n"
    assert os.listdir(work / "db") == []
    assert "nobody" in git(work / "r.git", "-c", "safe.directory=*", "log", "--format=%an")


def test_read_only(tmp_path: Path) -> None:
    with (
        mounting(tmp_path / "r.git", tmp_path / "db", "--read-only"),
        pytest.raises(OSError, match="Read-only"),
    ):
        opened(tmp_path / "db")


def test_fusermount_ends_it_and_says_so(tmp_path: Path) -> None:
    with mounting(tmp_path / "r.git", tmp_path / "db", "--json") as child:
        subprocess.run(["fusermount3", "-u", tmp_path / "db"], check=True)
        assert child.stdout is not None
        told = json.loads(child.stdout.readline())
        assert told["why"] == "unmounted"
        assert not told["was_busy"]
        assert (told["nodes"], told["files"]) == (1, 0)  # all that the kernel knew is forgotten
        assert child.wait(10) == 0


def test_sigterm_with_open_files_and_readers(tmp_path: Path) -> None:
    """What waits is ended, the directory is empty at once, and nothing says ENOTCONN."""
    with mounting(tmp_path / "r.git", tmp_path / "db") as child:
        (tmp_path / "db" / "branch" / "main").mkdir()
        live = tmp_path / "db" / "branch" / "main" / "head.live"
        with subprocess.Popen(["cat", live], stdout=subprocess.PIPE, stderr=-3) as cat:
            assert cat.stdout is not None
            assert cat.stdout.readline() == b"\n"
            child.terminate()
            assert child.stdout is not None
            assert "it was in use" in child.stdout.read()
            assert child.wait(10) == 0
            assert os.listdir(tmp_path / "db") == []
            assert cat.wait(10) != 0


def test_sigkill_leaves_no_dead_directory(tmp_path: Path) -> None:
    """fusermount3, which stayed for that, notices and unmounts."""
    with mounting(tmp_path / "r.git", tmp_path / "db") as child:
        child.kill()
        child.wait()
    with open("/proc/self/mounts") as mounts:
        changed = select.poll()
        changed.register(mounts, select.POLLPRI)
        while str(tmp_path / "db") in mounts.read():
            assert changed.poll(10_000)
            mounts.seek(0)
    with mounting(tmp_path / "r.git", tmp_path / "db"):
        assert "branch" in os.listdir(tmp_path / "db")


def test_a_server_that_goes_takes_the_mount_along(tmp_path: Path) -> None:
    ready, theirs = os.pipe()
    words = [sys.executable, "-m", "dataflow.cli", "serve", "--git", str(tmp_path / "r.git")]
    words += ["--listen", f"unix:{tmp_path / 's'}", "--ready-fd", str(theirs)]
    with subprocess.Popen(words, pass_fds=[theirs], stdout=subprocess.DEVNULL) as server:
        os.close(theirs)
        with os.fdopen(ready) as pipe:
            address = pipe.readline().strip()
        with mounting(address, tmp_path / "db") as child:
            commit(opened(tmp_path / "db"))
            server.terminate()
            assert child.stdout is not None
            assert "the server is gone" in child.stdout.read()
            assert child.wait(10) == 1
    assert os.listdir(tmp_path / "db") == []


def test_a_dead_directory_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def dead(path: str) -> list[str]:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    monkeypatch.setattr(os, "listdir", dead)
    with pytest.raises(UsageError, match=f"fusermount3 -u {tmp_path}"):
        check_directory(str(tmp_path))


@pytest.mark.parametrize("what", ["busy", "file", "nothing", "server"])
def test_what_cannot_be_mounted_says_why(tmp_path: Path, what: str) -> None:
    (tmp_path / "busy").mkdir()
    (tmp_path / "busy" / "x").touch()
    (tmp_path / "file").touch()
    (tmp_path / "server").mkdir()
    source = f"unix:{tmp_path}/none" if what == "server" else str(tmp_path / "r.git")
    words = [sys.executable, "-m", "dataflow.cli", "mount", source, str(tmp_path / what)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    says = {
        "busy": "expected an empty directory",
        "file": "expected a directory",
        "nothing": "expected a directory",
        "server": "No such file",
    }
    assert says[what] in done.stderr


def test_in_the_background(tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    words = [sys.executable, "-m", "dataflow.cli", "mount", "--daemon", "--json"]
    words += [str(tmp_path / "r.git"), str(tmp_path / "db")]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    told = json.loads(done.stdout)
    daemon = os.pidfd_open(told["pid"])
    try:
        commit(opened(tmp_path / "db"))
    finally:
        os.kill(told["pid"], signal.SIGTERM)
        ended, _, _ = select.select([daemon], [], [], 20)
        os.close(daemon)
    assert ended
    assert os.listdir(tmp_path / "db") == []
