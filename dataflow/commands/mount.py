"""`dataflow mount`."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import asdict, dataclass

import click
import uvloop

from ..errors import UsageError
from ..mount.device import HELPER, check_directory
from ..mount.mount import UNMOUNTED, Mount
from ..mount.open import is_address, mounted
from .base import HELP, address, failures, json_option, say
from .logs import begin, log_options


@dataclass(frozen=True, slots=True)
class Options:
    """What `mount` was asked for."""

    what: str
    directory: str
    read_only: bool
    allow_other: bool
    as_json: bool


@click.command(context_settings=HELP)
@click.argument("what", metavar="SERVER_OR_REPOSITORY")
@click.argument("directory")
@click.option("--read-only", is_flag=True, help="Refuse every change.")
@click.option("--allow-other", is_flag=True, help="Let other users in (see user_allow_other).")
@click.option("--foreground/--daemon", default=True, help="Stay, or go to the background.")
@log_options
@json_option
def mount(
    what: str, directory: str, read_only: bool, allow_other: bool, foreground: bool,
    verbosity: int, log_destination: str, as_json: bool,
) -> None:  # fmt: skip
    """Mount a server, or a repository directly, until SIGTERM, SIGINT or `fusermount3 -u`.

    It needs no privilege, only the package fuse3.  Streams such as head.live block their readers
    until something comes; ^C ends the wait.

    \b
    dataflow mount state.git /db
    dataflow mount --daemon unix:/run/state.sock /db    # a 9P2000.L server
    mkdir -p /db/branch/main/transactions/t
    echo hi > /db/branch/main/transactions/t/rw/hello
    echo commit > /db/branch/main/transactions/t/ctl
    while read head; do make test; done < /db/branch/main/head.live
    """
    with failures():
        begin(verbosity, log_destination)
        where = address(what) if "://" in what else what
        if not is_address(where):
            where = os.path.abspath(where)
        options = Options(where, check_directory(directory), read_only, allow_other, as_json)
        if not foreground:
            _daemonize(options)
            return
        uvloop.run(_mount(options, None))


async def _mount(options: Options, ready: int | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with mounted(
        options.what,
        options.directory,
        read_only=options.read_only,
        allow_other=options.allow_other,
    ) as found:
        _tell_ready(options, ready)
        waits = [loop.create_task(event.wait()) for event in (stop, found.ended)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        why = found.why or "asked to end"
        clean = await found.close()
    if ready is None:
        _tell_end(options, found, why, clean)
    if found.why and found.why != UNMOUNTED:
        raise UsageError(f"{options.directory}: unmounted, because {found.why}: {options.what}")


def _tell_ready(options: Options, ready: int | None) -> None:
    told = {"mounted": options.directory, "from": options.what, "pid": os.getpid()}
    if ready is None:
        say(told, f"mounted {options.what} on {options.directory}", options.as_json)
        return
    os.write(ready, str(os.getpid()).encode())
    os.close(ready)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    os.close(null)


def _tell_end(options: Options, found: Mount, why: str, clean: bool) -> None:
    told = {"unmounted": options.directory, "why": why, "was_busy": not clean}
    line = f"unmounted {options.directory}: {why}" + ("" if clean else "; it was in use")
    say({**told, **asdict(found.statistics())}, line, options.as_json)


def _daemonize(options: Options) -> None:
    """Mount in a child that leaves the terminal; return when it has mounted."""
    ours, theirs = os.pipe()
    if os.fork() == 0:
        os.close(ours)
        os.setsid()
        try:
            with failures():
                uvloop.run(_mount(options, theirs))
        finally:
            os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as pipe:
        pid = pipe.read()
    if not pid:
        raise UsageError(f"{options.directory}: not mounted")
    told = {"mounted": options.directory, "from": options.what, "pid": int(pid)}
    line = f"mounted {options.what} on {options.directory} (unmount: {HELPER} -u it)"
    say(told, line, options.as_json)
