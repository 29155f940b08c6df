"""Commands for machines that run: ps, stop, pause, resume, events, stats."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import click
from rich.console import Console as Screen
from rich.table import Table

from .. import control
from ..control import place
from ..errors import HypervisorError
from . import base
from .base import json_option

_ANSWER_TIMEOUT = 5.0  # seconds for what a machine answers at once


def execute(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a client's work on a loop of its own; Ctrl-C ends it quietly."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `| head` has seen enough
        sys.stderr.close()
        sys.exit(1)


async def ask(path: Path, op: str, **parameters: object) -> Any:
    """Return one machine's answer; ControlError where it does not answer."""
    async with control.connect(path) as client:
        return await client.request(op, **parameters)


async def ask_all(paths: list[Path], op: str) -> list[dict[str, Any]]:
    """Return the answers of those that give one."""

    async def one(path: Path) -> Any:
        async with asyncio.timeout(_ANSWER_TIMEOUT):
            return await ask(path, op)

    answers = await asyncio.gather(*map(one, paths), return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(
            answer, HypervisorError | TimeoutError | OSError
        ):
            raise answer
    return [answer for answer in answers if isinstance(answer, dict)]


def path_of(name: str) -> Path:
    """Return the socket of machine `name`."""
    return place.socket_path(base.sockets(), name)


def size(count: float) -> str:
    """Return bytes as people read them."""
    for unit in ("B", "K", "M"):
        if count < 1024:
            return f"{count:.0f}{unit}"
        count /= 1024
    return f"{count:.1f}G"


def duration(seconds: float) -> str:
    """Return a time as people read it."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@click.command(context_settings=base.HELP)
@json_option
def ps(as_json: bool) -> None:
    """List the machines that run.

    \b
    hypervisor ps
    hypervisor ps --json | jq -r '.[].name'
    """
    found = execute(ask_all(place.running(base.sockets()), "status"))
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    table = Table("name", "state", "pid", "engine", "cpus", "memory", "up", "published", box=None)
    for each in found:
        ports = " ".join(
            f"{p['host']}->{p['port']}/{p['proto']}" for p in each.get("published", ())
        )
        table.add_row(
            each["name"], each["state"], str(each["pid"]), each["engine"], str(each["cpus"]),
            size(each["memory"]), duration(each["uptime"]), ports,
        )  # fmt: skip
    Screen(soft_wrap=True).print(table)


@click.command(context_settings=base.HELP)
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--timeout", default=10.0, show_default=True, help="Seconds for the guest.")
@click.option("--kill", is_flag=True, help="At once, without asking the guest.")
@json_option
def stop(names: tuple[str, ...], timeout: float, kill: bool, as_json: bool) -> None:
    """Press machines' power buttons, wait for them, and kill those that do not end in time.

    \b
    hypervisor stop web
    hypervisor stop --timeout 60 web db
    hypervisor stop --kill web
    """
    paths = [path_of(name) for name in names]

    async def work() -> list[Any]:
        if kill:
            return await asyncio.gather(*(ask(path, "kill") for path in paths))
        return await asyncio.gather(*(ask(path, "stop", timeout=timeout) for path in paths))

    for name, end in zip(names, execute(work()), strict=True):
        click.echo(json.dumps({"name": name, **end}) if as_json else f"{name}: {end['reason']}")


def _verb(op: str, doc: str) -> click.Command:
    def body(names: tuple[str, ...], as_json: bool) -> None:
        paths = [path_of(name) for name in names]

        async def work() -> list[Any]:
            return await asyncio.gather(*(ask(path, op) for path in paths))

        for name, answer in zip(names, execute(work()), strict=True):
            line = json.dumps({"name": name, **answer})
            click.echo(line if as_json else f"{name}: {answer['state']}")

    body.__doc__ = doc
    argument = click.argument("names", nargs=-1, required=True, metavar="NAME...")
    return click.command(op, context_settings=base.HELP)(argument(json_option(body)))


pause = _verb(
    "pause",
    """Stop machines' processors; their memory and connections stay.

    \b
    hypervisor pause web
    """,
)
resume = _verb(
    "resume",
    """Let paused machines go on, with the time of now.

    \b
    hypervisor resume web
    """,
)


@click.command(context_settings=base.HELP)
@click.argument("name")
def events(name: str) -> None:
    """Follow what happens to a machine, one JSON object a line, to its end.

    \b
    hypervisor events web | jq -r .kind
    """

    async def work() -> None:
        async with control.connect(path_of(name)) as client:
            async for event in client.events():
                click.echo(json.dumps(event))
                sys.stdout.flush()

    execute(work())


@click.command(context_settings=base.HELP)
@click.argument("name")
@json_option
def stats(name: str, as_json: bool) -> None:
    """Show a machine's counters: processor time, exits by reason, memory, traffic.

    \b
    hypervisor stats web
    hypervisor stats --json web | jq .resident
    """
    found = execute(ask(path_of(name), "statistics"))
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    for key, value in _flat("", found):
        click.echo(f"{key:24} {value}")


def _flat(prefix: str, value: object) -> list[tuple[str, object]]:
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = list(enumerate(value))
    else:
        return [] if value is None else [(prefix, value)]
    return [row for key, each in pairs for row in _flat(f"{prefix}.{key}".lstrip("."), each)]
