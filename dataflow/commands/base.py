"""What the subcommands share: how they find a repository, say results and fail."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import select
import stat
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import click
import uvloop

from ..aio.client import connect
from ..branch.engine import DEFAULT_AUTHOR
from ..branch.repository import Repository
from ..errors import ConflictsRemainError, DataflowError, MergeConflictError, UsageError
from ..p9.errors import NineError, P9Error
from ..tree.paths import parse, text
from .local import LocalTree
from .remote import RemoteTree
from .trees import Result, Tree

EXIT_ERROR, EXIT_CONFLICT = 1, 3
HELP = {"help_option_names": ["-h", "--help"]}

branch_option = click.option("-b", "--branch", default="main", show_default=True)
message_option = click.option("-m", "--message", default="", help="The commit's message.")
author_option = click.option(
    "--author", help="'Name <mail>'; with --server the server says who connects."
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON value a line.")


class Where:
    """What a command works on: a repository or a server, by its options."""

    def __init__(self, git: str | None, server: str | None) -> None:
        self.git = git
        self.server = server

    @contextlib.asynccontextmanager
    async def open(self, author: str | None = None, create: bool = False) -> AsyncIterator[Tree]:
        """Open the tree for the block; `create` makes a repository that is not there."""
        if self.server is None:
            git = self.git or ""
            async with Repository.open(git, author=author or DEFAULT_AUTHOR, create=create) as repo:
                yield LocalTree(repo)
            return
        if author is not None:
            raise UsageError("--author: a server names the author by who connects")
        try:
            async with connect(address(self.server)) as client:
                yield RemoteTree(client)
        except ConnectionError as err:
            raise UsageError(f"{self.server}: {err.strerror or err}; is it served?") from err


def address(where: str) -> str:
    """Return an address as the 9P library has it; takes DataKit's URLs, too."""
    if where.startswith("tcp://"):
        return "tcp:" + where.removeprefix("tcp://")
    if where.startswith("file://"):
        return "unix:" + where.removeprefix("file://")
    return where


def command(
    name: str,
) -> Callable[[Callable[..., Coroutine[Any, Any, None]]], click.Command]:
    """Make a subcommand out of a coroutine: --git or --server, --json, errors as exit codes."""

    def wrap(body: Callable[..., Coroutine[Any, Any, None]]) -> click.Command:
        @functools.wraps(body)
        def run(*args: Any, git: str | None, server: str | None, **kwargs: Any) -> None:
            with failures():
                uvloop.run(body(*args, where=_where(git, server), **kwargs))

        run = click.option(
            "--server", metavar="ADDRESS", help="A server: unix:PATH or tcp:HOST:PORT.  "
            "[DATAFLOW_SERVER]",
        )(run)  # fmt: skip
        run = click.option("--git", metavar="DIR", help="A repository.  [DATAFLOW_GIT]")(run)
        made: click.Command = click.command(name, context_settings=HELP)(json_option(run))
        return made

    return wrap


def _where(git: str | None, server: str | None) -> Where:
    if git is None and server is None:
        environment: dict[str, str] = click.get_current_context().find_object(dict) or {}
        git, server = environment.get("DATAFLOW_GIT"), environment.get("DATAFLOW_SERVER")
    if (git is None) == (server is None):
        found = "neither" if git is None else "both"
        raise UsageError(f"expected --git DIR or --server ADDRESS, found {found}")
    return Where(git, server)


@contextlib.contextmanager
def failures() -> Iterator[None]:
    """Turn errors into one line and an exit code."""
    try:
        yield
    except (MergeConflictError, ConflictsRemainError) as err:
        for conflict in getattr(err, "conflicts", ()):
            click.echo(f"dataflow: {conflict}", err=True)
        _fail(str(err), EXIT_CONFLICT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(EXIT_ERROR) from None
    except P9Error as err:
        _fail(err.text, EXIT_ERROR)
    except OSError as err:
        named = f"{err.filename}: {err.strerror}" if err.filename and err.strerror else str(err)
        _fail(named, EXIT_ERROR)
    except (DataflowError, NineError) as err:
        _fail(str(err), EXIT_ERROR)
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise SystemExit(130) from None


def _fail(message: str, code: int) -> None:
    click.echo("dataflow: " + " ".join(message.split("\n")), err=True)
    raise SystemExit(code)


def say(value: Any, line: str, as_json: bool) -> None:
    """Print a result, as JSON or for people, at once."""
    shown = json.dumps(value) if as_json else line
    write(shown.encode("utf-8", "surrogateescape") + b"\n")


def write(octets: bytes) -> None:
    """Print octets as they are."""
    sys.stdout.buffer.write(octets)
    sys.stdout.buffer.flush()


def end_with_reader() -> None:
    """Cancel this task when nobody reads our output any more, as `tail -f` ends.

    A stream that waits would else find out at its next line, which may never come.
    """
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    try:
        number = sys.stdout.fileno()
    except OSError:  # no descriptor behind it
        return
    if task is None or not stat.S_ISFIFO(os.fstat(number).st_mode):
        return
    poll = select.poll()
    poll.register(number, 0)  # errors and hang-ups alone are told

    def wait() -> None:
        poll.poll()
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(task.cancel)

    threading.Thread(target=wait, daemon=True).start()


def say_commit(result: Result, as_json: bool) -> None:
    """Print what a commit came to."""
    say({"commit": result.commit, "head": result.head}, result.head, as_json)


def clean(path: str) -> str:
    """Return a path without needless slashes; raises for one that Git cannot hold."""
    return text(parse(path))
