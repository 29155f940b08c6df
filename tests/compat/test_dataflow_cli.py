"""`dataflow serve` and its clients over real sockets, as another user too, ended by signals."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fuse_mount import NOBODY, git

CLI = (sys.executable, "-m", "dataflow.cli")


@contextlib.contextmanager
def serving(
    *options: str, user: int | None = None, pass_fds: tuple[int, ...] = ()
) -> Iterator[tuple[subprocess.Popen[str], dict[str, object]]]:
    """Serve for the block; yields the process and what it said in JSON."""
    child = subprocess.Popen(
        [*CLI, "serve", "--json", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        user=user,
        group=user,
        extra_groups=[] if user is not None else None,
        pass_fds=pass_fds,
    )
    assert child.stdout is not None
    assert child.stderr is not None
    try:
        line = child.stdout.readline()
        assert line, child.stderr.read()
        yield child, json.loads(line)
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 0
        assert child.stdout.read() == ""
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
        child.stderr.close()


def dataflow(*words: str, user: int | None = None, stdin: str = "") -> str:
    done = subprocess.run(
        [*CLI, *words],
        input=stdin,
        capture_output=True,
        text=True,
        user=user,
        group=user,
        extra_groups=[] if user is not None else None,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_datakits_urls_and_an_inherited_socket(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as inherited:
        fd = inherited.fileno()
        port = inherited.getsockname()[1]
        urls = f"tcp://127.0.0.1:0,file://{tmp_path}/s,fd://{fd}"
        options = ("--git", str(tmp_path / "r.git"), "--url", urls)
        with serving(*options, pass_fds=(fd,)) as (_, told):
            listening = told["listening"]
            assert isinstance(listening, list)
            assert listening[1:] == [f"unix:{tmp_path}/s", f"fd://{fd}"]
            for i, where in enumerate((*listening[:2], f"tcp://127.0.0.1:{port}")):
                dataflow("write", "--server", where, f"f{i}", stdin=where)
                assert dataflow("cat", "--server", where, f"f{i}") == where
    assert git(tmp_path / "r.git", "ls-tree", "--name-only", "main") == "f0\nf1\nf2"
    assert not (tmp_path / "s").exists()


def test_another_user_is_the_author(tmp_path: Path, require: Callable[..., None]) -> None:
    require("root")
    for parent in (tmp_path, *tmp_path.parents[:3]):
        parent.chmod(parent.stat().st_mode | 0o055)
    work = tmp_path / "w"
    work.mkdir()
    os.chown(work, NOBODY, NOBODY)
    where = f"unix:{work}/s"
    options = ("--git", str(work / "r.git"), "--listen", where, "-vv", "--log-destination", "quiet")
    with serving(*options, user=NOBODY):
        dataflow("write", "--server", where, "f", stdin="x", user=NOBODY)
        commit = json.loads(dataflow("log", "--server", where, "--json", user=NOBODY))
        assert commit["author"].startswith("nobody ")
    assert dataflow("cat", "--git", str(work / "r.git"), "f", user=NOBODY) == "x"


def test_watch_over_a_server_sees_an_outside_push(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", "--bare", tmp_path / "r.git"], check=True)
    where = f"unix:{tmp_path}/s"
    with serving("--git", str(tmp_path / "r.git"), "--listen", where):
        first = dataflow("write", "--server", where, "d/a", stdin="1").strip()
        words = [*CLI, "watch", "--server", where, "--since", "", "-n", "3", "--json", "d"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as watch:
            assert watch.stdout is not None
            assert json.loads(watch.stdout.readline())["commit"] == first
            clone = tmp_path / "clone"
            git(tmp_path, "clone", "-q", "-b", "main", str(tmp_path / "r.git"), str(clone))
            made = []
            for name in ("d/b", "other", "d/c"):
                (clone / name).write_text(name)
                git(clone, "add", "-A")
                git(clone, "commit", "-q", "-m", name)
                made.append(git(clone, "rev-parse", "HEAD"))
            git(clone, "push", "-q", "origin", "main")
            told = [json.loads(watch.stdout.readline()) for _ in range(2)]
            assert [t["commit"] for t in told] == [made[0], made[2]]
            assert [t["paths"] for t in told] == [["d/b"], ["d/c"]]


def test_metrics_and_auto_push(tmp_path: Path) -> None:
    mirror = tmp_path / "mirror.git"
    subprocess.run(["git", "init", "-q", "--bare", mirror], check=True)
    where = f"unix:{tmp_path}/s"
    options = ("--git", str(tmp_path / "r.git"), "--listen", where, "--auto-push", str(mirror))
    with serving(*options, "--listen-prometheus", "0") as (_, told):
        dataflow("write", "--server", where, "f", stdin="x")
        with urllib.request.urlopen(str(told["metrics"])) as page:
            text = page.read().decode()
    assert "dataflow_connections_accepted_total 1.0" in text
    assert "dataflow_auto_push_waiting " in text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_watch_is_ended_by_signals_without_a_word(tmp_path: Path, number: signal.Signals) -> None:
    git_dir = str(tmp_path / "r.git")
    dataflow("write", "--git", git_dir, "f", stdin="x")
    words = [*CLI, "watch", "--git", git_dir, "--since", ""]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as watch:
        assert watch.stdout is not None
        assert watch.stderr is not None
        assert watch.stdout.readline()
        watch.send_signal(number)
        assert watch.stderr.read() == b""
        assert watch.wait(10) in {130, -number}


def test_watch_ends_with_its_reader(tmp_path: Path) -> None:
    git_dir = str(tmp_path / "r.git")
    dataflow("write", "--git", git_dir, "f", stdin="x")
    words = [*CLI, "watch", "--git", git_dir, "--since", ""]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as watch:
        assert watch.stdout is not None
        assert watch.stderr is not None
        assert watch.stdout.readline()
        watch.stdout.close()
        assert watch.stderr.read() == b""
        assert watch.wait(10) == 130
