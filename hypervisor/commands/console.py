"""`hypervisor console`: this terminal on the console of a machine that runs elsewhere."""

from __future__ import annotations

import asyncio
import sys

import click

from .. import control
from ..aio.terminal import Output, RawInput
from . import base
from .base import say
from .steer import execute, path_of

_CHUNK = 65536


@click.command(context_settings=base.HELP)
@click.argument("name")
@click.option("--read-only", is_flag=True, help="Only look.")
def console(name: str, read_only: bool) -> None:
    """Attach to a machine's console: what it printed last, then what it prints.

    Ctrl-] detaches; the machine runs on.  Several may look at once, one of them types: the first,
    and when it has gone the next.

    \b
    hypervisor console web
    echo poweroff | hypervisor console web
    """
    execute(_attach(name, write=not read_only))


async def _attach(name: str, *, write: bool) -> None:
    async with control.connect(path_of(name)) as client:
        writes = await client.console(write=write)
        hint = "Ctrl-] detaches" if sys.stdin.isatty() else "the machine's end ends this"
        other = "" if writes or not write else "; another terminal types, this one once it has gone"
        say(f"{name}: attached, {hint}{other}")
        detached = asyncio.Event()

        def typed(data: bytes) -> None:
            if write:
                client.writer.write(data)

        with RawInput(sys.stdin, typed, detached.set):
            output = asyncio.create_task(_copy_out(client.reader))
            escape = asyncio.create_task(detached.wait())
            await asyncio.wait({output, escape}, return_when=asyncio.FIRST_COMPLETED)
            ended = output.done()
            output.cancel()
            escape.cancel()
            await asyncio.gather(output, escape, return_exceptions=True)
    say(f"\n{name}: {'the machine has ended' if ended else 'detached'}")


async def _copy_out(reader: asyncio.StreamReader) -> None:
    stdout = Output(sys.stdout)
    while data := await reader.read(_CHUNK):
        await stdout.write(data)
