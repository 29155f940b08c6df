"""The command line: verbs on a repository, exit codes, JSON, and the server's life."""

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys

import pytest
from click.testing import CliRunner

from dataflow.aio.client import connect
from dataflow.cli import main


@pytest.fixture
def run(tmp_path):
    runner = CliRunner()

    def call(*args: str, code: int = 0, stdin: bytes = b"") -> str:
        words = [args[0], "--git", str(tmp_path / "r.git"), *args[1:]]
        done = runner.invoke(main, words, input=stdin)
        assert done.exit_code == code, (done.output, done.exception)
        return done.output

    return call


def test_write_ls_cat_log_rm(run, tmp_path) -> None:
    head = run("write", "results/a", "-m", "one", stdin=b"42\n").strip()
    assert run("ls") == "results/\n"
    assert run("cat", "results/a") == "42\n"
    (line,) = run("log", "--json").splitlines()
    assert json.loads(line)["oid"] == head
    (tmp_path / "file").write_text("content")
    run("commit", "-m", "two", f"x={tmp_path / 'file'}", "--remove", "results")
    assert run("ls") == "x\n"
    run("mkdir", "dir/sub")
    assert json.loads(run("ls", "--json", "dir"))["type"] == "dir"
    run("rm", "-r", "dir", "x")
    assert run("ls") == ""
    assert [line.split(" ", 1)[1] for line in run("log", "-n", "2").splitlines()] == [
        "rm dir x",
        "mkdir dir/sub",
    ]


def test_branch_merge_diff_and_conflict(run) -> None:
    base = run("write", "f", stdin=b"1").strip()
    run("branch", "topic/x", "main")
    run("write", "-b", "topic/x", "g", stdin=b"2")
    assert run("diff", "main", "topic/x") == "+ g\n"
    run("merge", "topic/x")
    assert run("ls") == "f\ng\n"
    run("write", "f", stdin=b"ours")
    run("write", "-b", "topic/x", "f", stdin=b"theirs")
    assert "Merge conflict: Changed on both branches (f)" in run("merge", "topic/x", code=3)
    run("branch", "topic/x", "--move", "y")
    assert [line.split()[1] for line in run("branch").splitlines()] == ["main", "y"]
    run("branch", "-d", "y")
    assert "not-fast-forward" in run("branch", "main", base, code=1)


def test_watch_since_the_beginning(run) -> None:
    made = [run("write", f"d/{i}", stdin=b"x").strip() for i in range(3)]
    lines = [
        json.loads(line)
        for line in run("watch", "--since", "", "-n", "3", "--json", "d").splitlines()
    ]
    assert [line["commit"] for line in lines] == made
    rest = run("watch", "--since", lines[1]["cursor"], "-n", "1")
    assert rest == f"{made[2]} d/2\n"


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["cat", "nope"], 1, "No such file"),
        (["ls", "-b", "none"], 1, "No such file or directory: branch none"),
        (["write", "a/../b"], 1, "cannot be a name"),
        (["commit", "nonsense"], 1, "PATH=FILE"),
        (["log", "-n", "0"], 2, "0"),
        (["serve", "--listen", "tcp:0.0.0.0:0"], 1, "--insecure"),
        (["serve", "--listen", "nonsense"], 1, "expected unix:PATH"),
    ],
)
def test_errors(run, args, code, says) -> None:
    run("write", "f", stdin=b"1")
    assert says in run(*args, code=code)


def start_server(where, ready_fd: int) -> subprocess.Popen:
    command = [
        *(sys.executable, "-m", "dataflow.cli", "serve", "--git", str(where / "r.git")),
        *("--listen", f"unix:{where / 's'}", "--listen", "tcp:127.0.0.1:0"),
        *("--ready-fd", str(ready_fd)),
    ]
    return subprocess.Popen(command, pass_fds=[ready_fd], stdout=subprocess.PIPE)


async def test_serve_until_sigterm(tmp_path) -> None:
    ready, child_end = os.pipe()
    process = start_server(tmp_path, child_end)
    os.close(child_end)
    with os.fdopen(ready) as pipe:
        addresses = (await asyncio.to_thread(pipe.readline)).split()
    assert stat.S_IMODE(os.stat(tmp_path / "s").st_mode) == 0o600
    for address in addresses:
        async with connect(address) as client:
            assert "branch" in await client.listdir()
    process.send_signal(signal.SIGTERM)
    out, _ = await asyncio.to_thread(process.communicate)
    assert process.returncode == 0
    assert out.decode().split() == ["listening", "on", *addresses]
    assert not (tmp_path / "s").exists()


def test_pack(run) -> None:
    run("write", "a", stdin=b"1")
    run("write", "a", stdin=b"2")
    assert run("pack") == "0 objects packed, 0 packs merged\n"
    assert json.loads(run("pack", "--grace", "0", "--json"))["packed"] == 6
    assert run("cat", "a") == "2"


def test_diff_renames_stat_patch_and_conflicts_as_json(run) -> None:
    body = b"".join(b"line %d\n" % n for n in range(9))
    run("write", "old", stdin=body)
    run("branch", "topic", "main")
    run("write", "-b", "topic", "new", stdin=body + b"more\n")
    run("rm", "-b", "topic", "old")
    assert run("diff", "main", "topic") == "+ new\n- old\n"
    assert run("diff", "-M", "--stat", "main", "topic") == "> old => new (92%) +1 -0\n"
    (line,) = run("diff", "-M", "--json", "main", "topic").splitlines()
    assert json.loads(line) == {"path": "new", "status": "R", "from": "old", "percent": 92}
    assert run("diff", "-M", "-p", "main", "topic").endswith(" line 7\n line 8\n+more\n")
    run("write", "old", stdin=body.replace(b"line 8\n", b"line eight\n"))
    (line, *_) = run("merge", "topic", "--json", code=3).splitlines()
    found = json.loads(line)
    assert (found["path"], found["kind"], found["paths"]) == ("new", "content", ["old", "new"])
    assert found["base"] != found["ours"] != found["theirs"]
