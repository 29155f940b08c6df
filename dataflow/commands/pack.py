"""The subcommand that looks after a repository's files: pack."""

from __future__ import annotations

import contextlib
from dataclasses import asdict

import click

from ..errors import UsageError
from ..store.disk import DiskStore
from ..store.pack import GRACE
from .base import Where, command, say


@command("pack")
@click.option(
    "--grace", type=click.FloatRange(0), default=GRACE, show_default=True,
    help="Leave objects loose that others wrote in the last so many seconds.",
)  # fmt: skip
async def pack(where: Where, grace: float, as_json: bool) -> None:
    """Pack loose objects and merge small packs; a repository that is written to may stay in use."""
    if where.git is None:
        raise UsageError("pack: expected --git DIR; a server packs by itself")
    with contextlib.closing(DiskStore(where.git, create=False)) as store:
        done = store.packer.pack(grace=grace)
        say(asdict(done), f"{done.packed} objects packed, {done.merged} packs merged", as_json)
