"""Where the long-running subcommands log to, and how much."""

from __future__ import annotations

import logging
import logging.handlers
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def log_options(body: F) -> F:
    """Add -v/--verbosity and --log-destination."""
    body = click.option(
        "--log-destination", default="stderr", show_default=True, metavar="WHERE",
        help="stderr, quiet, syslog, or the path of a file.",
    )(body)  # fmt: skip
    return click.option(
        "-v", "--verbosity", count=True, help="Log more: once what happens, twice everything."
    )(body)


def begin(verbosity: int, destination: str) -> None:
    """Log from now on."""
    root = logging.getLogger()
    root.setLevel([logging.WARNING, logging.INFO, logging.DEBUG][min(verbosity, 2)])
    handler = _handler(destination)
    if not isinstance(handler, logging.NullHandler):
        handler.setFormatter(logging.Formatter(_FORMATS.get(destination, _STAMPED)))
    root.handlers[:] = [handler]


_STAMPED = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_FORMATS = {"syslog": "dataflow: %(levelname)s %(name)s: %(message)s"}


def _handler(destination: str) -> logging.Handler:
    if destination == "quiet":
        return logging.NullHandler()
    if destination == "stderr":
        return logging.StreamHandler()
    if destination == "syslog":
        return logging.handlers.SysLogHandler("/dev/log")
    return logging.FileHandler(destination)
