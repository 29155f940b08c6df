"""The subcommands that only look: ls, cat, stat, log, diff, watch, tx."""

from __future__ import annotations

from typing import Any

import click

from .base import Where, branch_option, command, end_with_reader, say, write
from .trees import Commit, Detail


@command("ls")
@branch_option
@click.argument("path", default="")
async def ls(where: Where, branch: str, path: str, as_json: bool) -> None:
    """List a directory at the branch's head (-b takes a commit id, too)."""
    async with where.open() as tree:
        for name, kind, oid in await tree.names(branch, path):
            told = {"name": name, "type": kind, **({"id": oid} if oid else {})}
            say(told, name + "/" * (kind == "dir"), as_json)


@command("cat")
@branch_option
@click.argument("path")
async def cat(where: Where, branch: str, path: str, as_json: bool) -> None:
    """Print a file at the branch's head (-b takes a commit id, too)."""
    async with where.open() as tree:
        data = await tree.read(branch, path)
    if as_json:
        say({"path": path, "content": data.decode("utf-8", "surrogateescape")}, "", True)
    else:
        write(data)


@command("stat")
@branch_option
@click.argument("path", default="")
async def stat(where: Where, branch: str, path: str, as_json: bool) -> None:
    """Tell what is at PATH: its type, its object's id and its size."""
    async with where.open() as tree:
        found = await tree.stat(branch, path)
        say(found, f"{found['type']} {found['id'] or '-'} {found['size']} {path}", as_json)


@command("log")
@branch_option
@click.option("-n", "limit", type=click.IntRange(1), help="At most so many.")
@click.argument("path", default="")
async def log(where: Where, branch: str, limit: int | None, path: str, as_json: bool) -> None:
    """List the branch's own commits, or those that changed PATH, newest first."""
    async with where.open() as tree:
        async for c in tree.log(branch, limit, path):
            say(_commit_json(c), f"{c.oid} {c.message.partition(chr(10))[0]}", as_json)


def _commit_json(c: Commit) -> dict[str, Any]:
    return {**c._asdict(), "parents": list(c.parents)}


@command("diff")
@click.option("-M", "--renames", is_flag=True, help="Show removed and added files as renamed.")
@click.option("--stat", "as_stat", is_flag=True, help="Count added and removed lines.")
@click.option("-p", "--patch", "as_patch", is_flag=True, help="The unified format of `git apply`.")
@click.argument("old")
@click.argument("new")
@click.argument("path", default="")
async def diff(
    where: Where, renames: bool, as_stat: bool, as_patch: bool, old: str, new: str, path: str,
    as_json: bool,
) -> None:  # fmt: skip
    """List the files that differ between two branches or commits.

    \b
    + added, - removed, * changed; with -M also > renamed, as OLD => NEW
    dataflow diff --git state.git -M --stat main topic
    dataflow diff --git state.git -p main topic results/ | git apply
    """
    signs = {"A": "+", "D": "-"}
    async with where.open() as tree:
        if renames or as_stat or as_patch:
            detail = Detail.COUNTS if as_stat else Detail.NONE
            if as_patch and not as_json:
                detail = Detail.PATCH
            for shown in await tree.deltas(old, new, path, renames, detail):
                if as_json:
                    say(shown.told, "", True)
                else:
                    write(shown.octets)
            return
        for status, name in await tree.diff(old, new, path):
            say({"path": name, "status": status}, f"{signs.get(status, '*')} {name}", as_json)


@command("watch")
@branch_option
@click.option("--since", help="A cursor or commit id to go on from; '' is the beginning.")
@click.option("-n", "limit", type=click.IntRange(1), help="End after so many.")
@click.argument("path", default="")
async def watch(
    where: Where, branch: str, since: str | None, limit: int | None, path: str, as_json: bool
) -> None:
    """Print every commit that changes PATH as it comes; --json has the cursor to resume from.

    \b
    dataflow watch --git state.git --json results/
    dataflow watch --server unix:/run/state.sock --since "$LAST" | while read commit paths; do ...
    """
    end_with_reader()
    async with where.open(create=True) as tree:
        seen = 0
        async for change in tree.watch(branch, path, since):
            say(change, f"{change['commit']} {' '.join(change['paths'])}", as_json)
            seen += 1
            if seen == limit:
                return


@command("tx")
async def tx(where: Where, as_json: bool) -> None:
    """List the transactions that are open in a server."""
    async with where.open() as tree:
        for found in await tree.transactions():
            first = found["message"].partition("\n")[0]
            say(found, f"{found['branch']} {found['name']} {first}".rstrip(), as_json)
