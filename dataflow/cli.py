"""The `dataflow` command: a server for a repository, and the everyday verbs on one directly."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import click
import uvloop

from .aio.server import Server
from .branch.change import Change
from .branch.engine import DEFAULT_AUTHOR, Committed
from .branch.repository import Repository, merge_now
from .branch.transaction import Transaction
from .errors import ConflictsRemainError, DataflowError, MergeConflictError, UsageError
from .p9.errors import NineError
from .store.disk import DiskStore
from .store.objects import DIRECTORY, EXECUTABLE, SYMLINK
from .store.pack import GRACE
from .tree.diff import diff as differences
from .tree.patch import deltas, stat, unified
from .tree.paths import parse, text
from .views.root import repository_root

EXIT_ERROR, EXIT_CONFLICT = 1, 3
_TYPES = {DIRECTORY: "dir", EXECUTABLE: "executable", SYMLINK: "link"}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="trikit")
@click.option("-v", "--verbose", is_flag=True, help="Log what happens to standard error.")
def main(verbose: bool) -> None:
    """Git as a live file tree.

    \b
    dataflow serve --git state.git --listen unix:/run/state.sock
    echo 42 | dataflow write --git state.git results/answer -m "the answer"
    dataflow watch --git state.git results/

    Exit codes: 0 done, 1 an error, 2 a wrong command line, 3 a merge conflict.
    """
    logging.basicConfig(level=logging.DEBUG if verbose else logging.WARNING)


def command(name: str, **extra: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a subcommand that works on a repository: --git, --json, and errors as exit codes."""

    def wrap(body: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(body)
        def run(*args: Any, **kwargs: Any) -> None:
            with failures():
                body(*args, **kwargs)

        run = click.option("--json", "as_json", is_flag=True, help="One JSON value a line.")(run)
        run = click.option(
            "--git", "git", required=True, envvar="DATAFLOW_GIT", metavar="DIR",
            help="The repository; a bare one is made if there is none.  [DATAFLOW_GIT]",
        )(run)  # fmt: skip
        return main.command(name, **extra)(run)

    return wrap


branch_option = click.option("-b", "--branch", default="main", show_default=True)
message_option = click.option("-m", "--message", default="", help="The commit's message.")
author_option = click.option("--author", default=DEFAULT_AUTHOR, help="'Name <mail>'.")


@contextlib.contextmanager
def failures() -> Iterator[None]:
    """Turn errors into one line and an exit code."""
    try:
        yield
    except (MergeConflictError, ConflictsRemainError) as err:
        for conflict in getattr(err, "conflicts", ()):
            click.echo(f"dataflow: {conflict}", err=True)
        click.echo(f"dataflow: {err}", err=True)
        raise SystemExit(EXIT_CONFLICT) from err
    except BrokenPipeError as err:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(EXIT_ERROR) from err
    except (DataflowError, NineError, OSError) as err:
        click.echo(f"dataflow: {err}", err=True)
        raise SystemExit(EXIT_ERROR) from err


def say(value: Any, line: str, as_json: bool) -> None:
    """Print a result, as JSON or for people, at once."""
    shown = json.dumps(value) if as_json else line
    sys.stdout.buffer.write(shown.encode("utf-8", "surrogateescape") + b"\n")
    sys.stdout.buffer.flush()


def say_commit(result: Committed | None, as_json: bool) -> None:
    """Print what a commit came to."""
    if result is not None:
        say({"commit": result.commit, "head": result.head}, result.head, as_json)


@contextlib.contextmanager
def edit(git: str, branch: str, message: str, author: str, as_json: bool) -> Iterator[Transaction]:
    """Open a transaction, commit it at the end of the block and print the commit."""
    with Repository.open(git, author=author) as repo:
        with repo.branch(branch).transaction(message) as t:
            yield t
        say_commit(t.result, as_json)


@main.command()
@click.option("--git", "git", required=True, metavar="DIR", help="The repository.")
@click.option(
    "--listen", multiple=True, default=["tcp:127.0.0.1:5640"], metavar="ADDRESS", show_default=True,
    help="unix:PATH (0600) or tcp:HOST:PORT; may be repeated.",
)  # fmt: skip
@click.option("--ready-fd", type=int, help="Write the addresses to this descriptor when ready.")
@click.option("--insecure", is_flag=True, help="Allow TCP beyond loopback: 9P has no passwords.")
def serve(git: str, listen: tuple[str, ...], ready_fd: int | None, insecure: bool) -> None:
    """Serve a repository over 9P until SIGTERM or SIGINT.

    \b
    dataflow serve --git state.git --listen unix:/run/state.sock
    mount -t 9p -o trans=unix,version=9p2000.L,cache=none /run/state.sock /db
    mkdir /db/branch/main/transactions/t
    echo hi > /db/branch/main/transactions/t/rw/hello
    echo commit > /db/branch/main/transactions/t/ctl
    """
    with failures():
        uvloop.run(_serve(git, listen, ready_fd, insecure))


async def _serve(git: str, listen: tuple[str, ...], ready_fd: int | None, insecure: bool) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Repository.open(git) as repo, Server(repository_root(repo)) as server:
        bound = [await _listen(server, address, insecure) for address in listen]
        line = " ".join(bound) + "\n"
        click.echo(f"listening on {line}", nl=False)
        if ready_fd is not None:
            with os.fdopen(ready_fd, "w") as ready:
                ready.write(line)
        await stop.wait()


async def _listen(server: Server, address: str, insecure: bool) -> str:
    kind, _, rest = address.partition(":")
    if kind == "unix" and rest:
        return await server.listen_unix(rest)
    host, _, port = rest.rpartition(":")
    if kind == "tcp" and host and port.isdecimal() and int(port) < 65536:
        try:
            return await server.listen_tcp(host.strip("[]"), int(port), insecure=insecure)
        except NineError as err:
            raise UsageError(f"{address}: {err}; 9P has no passwords: see --insecure") from err
    raise UsageError(f"--listen: expected unix:PATH or tcp:HOST:PORT, found {address!r}")


@command("ls")
@branch_option
@click.argument("path", default="")
def ls(git: str, branch: str, path: str, as_json: bool) -> None:
    """List a directory at the branch's head."""
    with Repository.open(git, create=False) as repo:
        tree = repo.engine.tree(repo.engine.resolve(branch))
        for name, entry in sorted(tree.entries(parse(path)).items()):
            kind = _TYPES.get(entry.mode, "file")
            shown = text((name,))
            say({"name": shown, "type": kind, "id": entry.oid}, shown + "/" * entry.is_dir, as_json)


@command("cat")
@branch_option
@click.argument("path")
def cat(git: str, branch: str, path: str, as_json: bool) -> None:
    """Print a file at the branch's head."""
    with Repository.open(git, create=False) as repo:
        data = repo.engine.tree(repo.engine.resolve(branch)).read(parse(path))
    if as_json:
        say({"path": path, "content": data.decode("utf-8", "surrogateescape")}, "", True)
    else:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


@command("write")
@branch_option
@message_option
@author_option
@click.option("-x", "--executable", is_flag=True)
@click.argument("path")
@click.argument("source", type=click.File("rb"), default="-")
def write(
    git: str, branch: str, message: str, author: str, executable: bool, path: str, source: Any,
    as_json: bool,
) -> None:  # fmt: skip
    """Commit standard input, or the file SOURCE, as PATH.

    \b
    echo 42 | dataflow write --git state.git results/answer
    """
    with edit(git, branch, message or f"write {path}", author, as_json) as t:
        t.write(path, source.read(), executable=executable or None)


@command("rm")
@branch_option
@message_option
@author_option
@click.option("-r", "--recursive", is_flag=True)
@click.argument("paths", nargs=-1, required=True)
def rm(
    git: str, branch: str, message: str, author: str, recursive: bool, paths: tuple[str, ...],
    as_json: bool,
) -> None:  # fmt: skip
    """Remove files, or with -r directories, in one commit."""
    with edit(git, branch, message or f"rm {' '.join(paths)}", author, as_json) as t:
        for path in paths:
            t.remove(path, recursive=recursive)


@command("mkdir")
@branch_option
@message_option
@author_option
@click.argument("path")
def mkdir(git: str, branch: str, message: str, author: str, path: str, as_json: bool) -> None:
    """Make a directory; Git holds no empty ones, so it gets an empty file `.gitkeep`."""
    with edit(git, branch, message or f"mkdir {path}", author, as_json) as t:
        t.mkdir(path, parents=True)
        t.create(f"{path.rstrip('/')}/.gitkeep")


@command("commit")
@branch_option
@message_option
@author_option
@click.option("--remove", multiple=True, metavar="PATH", help="Remove PATH, recursively.")
@click.argument("files", nargs=-1, metavar="[PATH=FILE]...")
def commit(
    git: str, branch: str, message: str, author: str, remove: tuple[str, ...],
    files: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Change several files in one commit.

    \b
    dataflow commit --git state.git -m "new run" run/log=/tmp/log run/ok=/dev/null --remove old
    """
    with edit(git, branch, message, author, as_json) as t:
        for path in remove:
            t.remove(path, recursive=True)
        for item in files:
            path, separator, source = item.partition("=")
            if not separator:
                raise UsageError(f"expected PATH=FILE, found {item!r}")
            with open(source, "rb") as f:
                t.write(path, f.read(), executable=os.access(source, os.X_OK) or None)


@command("merge")
@branch_option
@message_option
@author_option
@click.argument("other")
def merge(git: str, branch: str, message: str, author: str, other: str, as_json: bool) -> None:
    """Merge OTHER, a branch or a commit id, into the branch; exit code 3 on conflicts.

    With --json every conflict is a line: path, kind, reason, the three stages.
    """
    with Repository.open(git, author=author) as repo:
        try:
            say_commit(merge_now(repo.engine, branch, other, message), as_json)
        except MergeConflictError as err:
            for conflict in err.conflicts if as_json else ():
                say(conflict.as_json(), "", True)
            raise


@command("branch")
@click.option("-d", "--delete", is_flag=True, help="Delete NAME.")
@click.option("--move", metavar="NEW", help="Rename NAME to NEW.")
@click.argument("name", required=False)
@click.argument("start", required=False)
def branch(
    git: str, delete: bool, move: str | None, name: str | None, start: str | None, as_json: bool
) -> None:
    """List branches; or make NAME at START (a branch or a commit), delete it, rename it."""
    with Repository.open(git) as repo:
        if name is None:
            for found, head in repo.engine.branches().items():
                say({"branch": found, "head": head}, f"{head} {found}", as_json)
        elif delete:
            repo.engine.delete(name)
        elif move:
            repo.engine.rename(name, move)
        else:
            target = repo.engine.resolve(start or "main")
            repo.engine.fast_forward(repo.branch(name).name, target)
            say({"branch": name, "head": target}, f"{target} {name}", as_json)


@command("log")
@branch_option
@click.option("-n", "limit", type=click.IntRange(1), help="At most so many.")
def log(git: str, branch: str, limit: int | None, as_json: bool) -> None:
    """List the branch's own commits, newest first."""
    with Repository.open(git, create=False) as repo:
        for c in repo.engine.log(repo.engine.resolve(branch), limit=limit):
            say(asdict(c), f"{c.oid} {c.message.splitlines()[0] if c.message else ''}", as_json)


@command("pack")
@click.option(
    "--grace", type=click.FloatRange(0), default=GRACE, show_default=True,
    help="Leave objects loose that others wrote in the last so many seconds.",
)  # fmt: skip
def pack(git: str, grace: float, as_json: bool) -> None:
    """Pack loose objects and merge small packs; a repository that is written to may stay in use."""
    with contextlib.closing(DiskStore(git, create=False)) as store:
        done = store.packer.pack(grace=grace)
        say(asdict(done), f"{done.packed} objects packed, {done.merged} packs merged", as_json)


@command("diff")
@click.option("-M", "--renames", is_flag=True, help="Show removed and added files as renamed.")
@click.option("--stat", "as_stat", is_flag=True, help="Count added and removed lines.")
@click.option("-p", "--patch", "as_patch", is_flag=True, help="The unified format of `git apply`.")
@click.argument("old")
@click.argument("new")
@click.argument("path", default="")
def diff(
    git: str, renames: bool, as_stat: bool, as_patch: bool, old: str, new: str, path: str,
    as_json: bool,
) -> None:  # fmt: skip
    """List the files that differ between two branches or commits.

    \b
    + added, - removed, * changed; with -M also > renamed, as OLD => NEW
    dataflow diff --git state.git -M --stat main topic
    dataflow diff --git state.git -p main topic results/ | git apply
    """
    with Repository.open(git, create=False) as repo:
        engine = repo.engine
        a, b = (engine.tree(engine.resolve(name)).oid for name in (old, new))
        found = tuple(differences(engine.objects, a, b, parse(path)))
        for delta in deltas(engine.objects, found, renames=renames):
            if as_patch and not as_json:
                sys.stdout.buffer.write(unified(engine.objects, delta))
                continue
            lines = stat(engine.objects, delta) if as_stat else None
            say(delta.as_json(lines), delta.line(lines), as_json)
        sys.stdout.buffer.flush()


@command("watch")
@branch_option
@click.option("--since", help="A cursor or commit id to go on from; '' is the beginning.")
@click.option("-n", "limit", type=click.IntRange(1), help="End after so many.")
@click.argument("path", default="")
def watch(
    git: str, branch: str, since: str | None, limit: int | None, path: str, as_json: bool
) -> None:
    """Print every commit that changes PATH as it comes; --json has the cursor to resume from.

    \b
    dataflow watch --git state.git --json results/
    """
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_watch(git, branch, path, since, limit, as_json))


async def _watch(
    git: str, branch: str, path: str, since: str | None, limit: int | None, as_json: bool
) -> None:
    async with Repository.open(git) as repo:
        seen = 0
        async for change in repo.branch(branch).watch(path, since=since):
            say(_change_json(change), f"{change.commit} {' '.join(change.paths)}", as_json)
            seen += 1
            if seen == limit:
                return


def _change_json(change: Change) -> dict[str, Any]:
    return {**asdict(change), "kind": change.kind.value}


if __name__ == "__main__":
    main()
