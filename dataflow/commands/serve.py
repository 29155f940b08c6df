"""`dataflow serve`."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import re
import signal
import socket
from dataclasses import dataclass

import click
import uvloop

from ..aio.server import Server
from ..branch.repository import Repository
from ..errors import UsageError
from ..p9.errors import NineError
from ..views.root import repository_root
from .base import HELP, address, failures, json_option, say
from .logs import begin, log_options

DEFAULT = "tcp:127.0.0.1:5640"


@dataclass(frozen=True, slots=True)
class Options:
    """What `serve` was asked for."""

    git: str | None
    listen: tuple[str, ...]
    auto_push: str | None
    metrics: int | None
    ready_fd: int | None
    insecure: bool
    as_json: bool


@click.command(context_settings=HELP)
@click.option("--git", metavar="DIR", help="The repository, made if there is none.  [in memory]")
@click.option(
    "--listen", "--url", "--listen-9p", "listen", multiple=True, metavar="ADDRESS",
    help=f"unix:PATH (0600), tcp:HOST:PORT or fd:N, an inherited socket; DataKit's file://PATH, "
    f"tcp://HOST:PORT and fd://N, too; several with commas, or repeated.  [{DEFAULT}]",
)  # fmt: skip
@click.option("--auto-push", metavar="URL", help="Push every branch there, 2 s after it moved.")
@click.option(
    "--listen-prometheus", "metrics", type=click.IntRange(0, 65535), metavar="PORT",
    help="Serve metrics over HTTP on loopback (needs the extra `metrics`).",
)  # fmt: skip
@click.option("--ready-fd", type=int, help="Write the addresses to this descriptor when ready.")
@click.option("--insecure", is_flag=True, help="Allow TCP beyond loopback: 9P has no passwords.")
@log_options
@json_option
def serve(
    git: str | None, listen: tuple[str, ...], auto_push: str | None, metrics: int | None,
    ready_fd: int | None, insecure: bool, verbosity: int, log_destination: str, as_json: bool,
) -> None:  # fmt: skip
    """Serve a repository over 9P until SIGTERM or SIGINT.

    \b
    dataflow serve --git state.git --listen unix:/run/state.sock
    mount -t 9p -o trans=unix,version=9p2000.L,cache=none /run/state.sock /db
    mkdir -p /db/branch/main/transactions/t
    echo hi > /db/branch/main/transactions/t/rw/hello
    echo commit > /db/branch/main/transactions/t/ctl

    Without privilege, `dataflow mount unix:/run/state.sock DIR` does the same through FUSE.
    """
    addresses = tuple(a for item in listen or (DEFAULT,) for a in item.split(",") if a)
    options = Options(git, addresses, auto_push, metrics, ready_fd, insecure, as_json)
    with failures():
        begin(verbosity, log_destination)
        uvloop.run(_serve(options))


async def _serve(options: Options) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        repo = await stack.enter_async_context(_repository(options))
        server = await stack.enter_async_context(Server(repository_root(repo)))
        bound = [await _listen(server, item, options.insecure) for item in options.listen]
        told: dict[str, object] = {"listening": bound, "git": options.git}
        if options.metrics is not None:
            told["metrics"] = await _metrics(stack, server, repo, options.metrics)
        line = " ".join(bound)
        say(told, f"listening on {line}", options.as_json)
        if options.ready_fd is not None:
            with os.fdopen(options.ready_fd, "w") as ready:
                ready.write(line + "\n")
        await stop.wait()


def _repository(options: Options) -> Repository:
    if options.git is not None:
        return Repository.open(options.git, auto_push=options.auto_push)
    if options.auto_push:
        raise UsageError("--auto-push: expected --git DIR, for memory does not outlive a failure")
    return Repository.memory()


async def _metrics(
    stack: contextlib.AsyncExitStack, server: Server, repo: Repository, port: int
) -> str:
    try:
        module = importlib.import_module("dataflow.commands.metrics")
    except ModuleNotFoundError as err:
        bad = f"--listen-prometheus needs {err.name}: pip install 'trikit[metrics]'"
        raise UsageError(bad) from err
    page = module.Page(server, repo, port)
    stack.callback(page.close)
    return f"http://127.0.0.1:{page.port}/metrics"


async def _listen(server: Server, item: str, insecure: bool) -> str:
    where = address(item)
    if found := re.fullmatch(r"fd:(?://)?(\d+)", where):
        await server.listen_socket(_inherited(int(found[1])))
        return where
    kind, _, rest = where.partition(":")
    if kind == "unix" and rest:
        return await server.listen_unix(rest)
    host, _, port = rest.rpartition(":")
    if kind == "tcp" and host and port.isdecimal() and int(port) < 65536:
        try:
            return await server.listen_tcp(host.strip("[]"), int(port), insecure=insecure)
        except NineError as err:
            raise UsageError(f"{item}: {err}; 9P has no passwords: see --insecure") from err
    raise UsageError(f"--listen: expected unix:PATH, tcp:HOST:PORT or fd:N, found {item!r}")


def _inherited(number: int) -> socket.socket:
    """Take over a listening socket that whoever started us had made."""
    try:
        sock = socket.socket(fileno=number)
        listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as err:
        bad = f"fd:{number}: expected a listening socket, found: {err.strerror}"
        raise UsageError(bad) from err
    if not listening:
        sock.detach()
        raise UsageError(f"fd:{number}: expected a listening socket, found one that is not")
    return sock
