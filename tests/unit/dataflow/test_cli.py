"""The command line: verbs on a repository, exit codes, JSON, and the server's life."""

import asyncio
import functools
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from dataflow import Repository, Server, repository_root
from dataflow.aio.client import connect
from dataflow.cli import main


def serving(
    repo: Path, path: Path, ready: threading.Event, stop: list[Callable[[], object]]
) -> None:
    """Serve a repository on a unix socket, in a thread."""

    async def serve() -> None:
        ended = asyncio.Event()
        async with Repository.open(repo) as opened, Server(repository_root(opened)) as server:
            await server.listen_unix(str(path))
            stop.append(
                functools.partial(asyncio.get_running_loop().call_soon_threadsafe, ended.set)
            )
            ready.set()
            await ended.wait()

    asyncio.run(serve())


@pytest.fixture(params=["git", "server"])
def where(request, tmp_path) -> Iterator[list[str]]:
    """Give the option that says where: a repository, or a server in front of it."""
    if request.param == "git":
        yield ["--git", str(tmp_path / "r.git")]
        return
    ready, stop = threading.Event(), []
    arguments = (tmp_path / "r.git", tmp_path / "s", ready, stop)
    thread = threading.Thread(target=serving, args=arguments)
    thread.start()
    assert ready.wait(10)
    yield ["--server", f"unix:{tmp_path / 's'}"]
    stop[0]()
    thread.join()


@pytest.fixture
def run(where):
    runner = CliRunner()

    def call(*args: str, code: int = 0, stdin: bytes = b"") -> str:
        done = runner.invoke(main, [args[0], *where, *args[1:]], input=stdin)
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
        (["stat", "nope"], 1, "No such file or directory: nope"),
        (["mv", "nope", "x"], 1, "No such file or directory: nope"),
        (["rm", "nope"], 1, "No such file or directory: nope"),
        (["ls", "f"], 1, "Is not a directory: f"),
        (["write", "f/g"], 1, "Is not a directory: f"),
        (["branch", "-d", "nope"], 1, "No such file or directory: branch nope"),
        (["merge", "nope"], 1, "No such file or directory: branch nope"),
        (["cat", "-b", "0" * 40, "f"], 1, "0000"),
    ],
)
def test_errors(run, args, code, says) -> None:
    run("write", "f", stdin=b"1")
    assert says in run(*args, code=code)


def test_stat_mv_and_what_is_executable(run, tmp_path) -> None:
    run("write", "-x", "dir/f", stdin=b"12345")
    assert run("stat", "dir/f").split()[0::2] == ["executable", "5"]
    assert json.loads(run("stat", "--json", "dir"))["type"] == "dir"
    oid = json.loads(run("stat", "--json", "dir/f"))["id"]
    head = run("mv", "dir", "new/place").strip()
    assert json.loads(run("stat", "--json", "new/place/f"))["id"] == oid
    assert json.loads(run("log", "--json", "-n", "1"))["message"] == "mv dir new/place\n"
    (tmp_path / "x").write_bytes(b"\0\xff")
    run("write", "new/bin", str(tmp_path / "x"))
    assert run("diff", head, "main") == "+ new/bin\n"
    assert json.loads(run("cat", "--json", "new/bin"))["content"] == "\0\udcff"
    assert run("ls", "-b", head, "new") == "place/\n"


def test_a_merge_commit_and_a_conflict_leave_no_transaction(run, where) -> None:
    run("write", "f", stdin=b"1")
    run("branch", "b", "main")
    run("write", "-b", "b", "g", stdin=b"2")
    run("write", "h", stdin=b"3")
    assert json.loads(run("merge", "b", "--json", "-m", "why"))["head"]
    assert json.loads(run("log", "--json", "-n", "1"))["message"] == "why\n"
    run("write", "-b", "b", "f", stdin=b"4")
    run("write", "f", stdin=b"5")
    assert "(f)" in run("merge", "b", "-m", "no", code=3)
    if where[0] == "--server":
        assert run("tx") == ""
    else:
        assert "--server" in run("tx", code=1)


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["ls"], 1, "expected --git DIR or --server ADDRESS, found neither"),
        (["ls", "--git", "x", "--server", "y"], 1, "found both"),
        (["ls", "--server", "nonsense"], 1, "expected unix:PATH or tcp:HOST:PORT"),
        (["ls", "--server", "unix:/nonexistent/s"], 1, "No such file"),
        (["ls", "--git", "/nonexistent/r"], 1, "/nonexistent/r"),
        (["write", "--server", "unix:/x", "--author", "a <b>", "f"], 1, "who connects"),
        (["serve", "--listen", "tcp:0.0.0.0:0"], 1, "--insecure"),
        (["serve", "--listen", "nonsense"], 1, "expected unix:PATH"),
        (["serve", "--listen", "fd://999"], 1, "expected a listening socket"),
        (["serve", "--auto-push", "x"], 1, "--git"),
        (["serve", "--listen-prometheus", "x"], 2, "prometheus"),
        (["mount", "x.git", "/nonexistent/d"], 1, "expected a directory"),
    ],
)
def test_wrong_places(args, code, says) -> None:
    done = CliRunner().invoke(main, args, env={"DATAFLOW_GIT": None, "DATAFLOW_SERVER": None})
    assert (done.exit_code, says in done.output) == (code, True), done.output
    assert code == 2 or len(done.output.splitlines()) == 1


def test_places_from_the_environment(tmp_path) -> None:
    environment = {"DATAFLOW_GIT": str(tmp_path / "r.git")}
    runner = CliRunner(env=environment)
    assert runner.invoke(main, ["write", "f"], input=b"x").exit_code == 0
    assert runner.invoke(main, ["cat", "f"]).output == "x"


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


def test_pack(run, where) -> None:
    run("write", "a", stdin=b"1")
    run("write", "a", stdin=b"2")
    if where[0] == "--server":
        assert "a server packs by itself" in run("pack", code=1)
        return
    assert run("pack") == "0 objects packed, 0 packs merged\n"
    assert json.loads(run("pack", "--grace", "0", "--json"))["packed"] == 6
    assert run("cat", "a") == "2"


@pytest.mark.parametrize("where", ["git"], indirect=True)
def test_log_of_a_path(run) -> None:
    heads = [run("write", path, stdin=text).strip() for path, text in (("a", b"1"), ("d/b", b"2"))]
    heads += [run("write", path, stdin=text).strip() for path, text in (("a", b"3"), ("c", b"4"))]

    def ids(*args: str) -> list[str]:
        return [json.loads(line)["oid"] for line in run("log", "--json", *args).splitlines()]

    assert ids() == heads[::-1]
    assert ids("a") == [heads[2], heads[0]]
    assert ids("-n", "1", "a") == [heads[2]]
    assert ids("d") == ids("d/b") == [heads[1]]
    assert ids("none") == []


@pytest.mark.parametrize("where", ["git"], indirect=True)
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
