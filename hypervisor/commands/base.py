"""What the commands share: the environment, options, and where sockets and images lie."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

import click

from ..control import place
from ..image.cache import Cache, default_directory

_SAY_MS = 1000

HELP = {"help_option_names": ["-h", "--help"]}

cache_option = click.option(
    "--cache", type=click.Path(path_type=Path), help="Directory [default: ~/.cache/trikit]."
)
json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")


def environment() -> Mapping[str, str]:
    """Return the environment that the running command was started with."""
    environ: Mapping[str, str] = click.get_current_context().find_root().obj
    return environ


def cache(directory: Path | None) -> Cache:
    """Return the cache of images."""
    return Cache(directory or default_directory(environment()))


def sockets() -> Path:
    """Return the directory of control sockets."""
    return place.directory(environment(), os.geteuid())


def say(line: str) -> None:
    """Print one line for people, on standard error; drop it where nobody takes it for a second."""
    if _takes(sys.stderr):
        click.echo(line, err=True)


def _takes(stream: TextIO) -> bool:
    try:
        fd = stream.fileno()
    except OSError:  # a stream in memory
        return True
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(_SAY_MS))
