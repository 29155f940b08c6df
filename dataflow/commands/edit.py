"""The subcommands that make commits: write, rm, mkdir, mv, commit, merge, branch."""

from __future__ import annotations

import os
from typing import BinaryIO

import click

from ..errors import MergeConflictError, UsageError
from .base import (
    Where,
    author_option,
    branch_option,
    clean,
    command,
    message_option,
    say,
    say_commit,
)
from .trees import Edit, MakeDir, Move, Put, Remove


async def _edit(
    where: Where, branch: str, message: str, author: str | None, edits: list[Edit], as_json: bool
) -> None:
    async with where.open(author, create=True) as tree:
        say_commit(await tree.edit(branch, message, edits), as_json)


@command("write")
@branch_option
@message_option
@author_option
@click.option("-x", "--executable", is_flag=True, help="Set the executable bit.")
@click.argument("path")
@click.argument("source", type=click.File("rb"), default="-")
async def write(
    where: Where, branch: str, message: str, author: str | None, executable: bool, path: str,
    source: BinaryIO, as_json: bool,
) -> None:  # fmt: skip
    """Commit standard input, or the file SOURCE, as PATH.

    \b
    echo 42 | dataflow write --git state.git results/answer
    dataflow write --server unix:/run/state.sock -x tools/run ./run.sh
    """
    put = Put(clean(path), source.read(), executable or None)
    await _edit(where, branch, message or f"write {path}", author, [put], as_json)


@command("rm")
@branch_option
@message_option
@author_option
@click.option("-r", "--recursive", is_flag=True, help="Directories with what is in them.")
@click.argument("paths", nargs=-1, required=True)
async def rm(
    where: Where, branch: str, message: str, author: str | None, recursive: bool,
    paths: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Remove files, or with -r directories, in one commit."""
    edits: list[Edit] = [Remove(path, recursive) for path in paths]
    await _edit(where, branch, message or f"rm {' '.join(paths)}", author, edits, as_json)


@command("mkdir")
@branch_option
@message_option
@author_option
@click.argument("path")
async def mkdir(
    where: Where, branch: str, message: str, author: str | None, path: str, as_json: bool
) -> None:
    """Make a directory; Git holds no empty ones, so it gets an empty file `.gitkeep`."""
    made = MakeDir(clean(path))
    await _edit(where, branch, message or f"mkdir {path}", author, [made], as_json)


@command("mv")
@branch_option
@message_option
@author_option
@click.argument("old")
@click.argument("new")
async def mv(
    where: Where, branch: str, message: str, author: str | None, old: str, new: str, as_json: bool
) -> None:
    """Rename a file or a directory to NEW, in one commit."""
    edits: list[Edit] = [Move(clean(old), clean(new))]
    await _edit(where, branch, message or f"mv {old} {new}", author, edits, as_json)


@command("commit")
@branch_option
@message_option
@author_option
@click.option("--remove", multiple=True, metavar="PATH", help="Remove PATH, recursively.")
@click.argument("files", nargs=-1, metavar="[PATH=FILE]...")
async def commit(
    where: Where, branch: str, message: str, author: str | None, remove: tuple[str, ...],
    files: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Change several files in one commit.

    \b
    dataflow commit --git state.git -m "new run" run/log=/tmp/log run/ok=/dev/null --remove old
    """
    edits: list[Edit] = [Remove(path, recursive=True) for path in remove]
    edits += [_put(item) for item in files]
    await _edit(where, branch, message, author, edits, as_json)


def _put(item: str) -> Put:
    path, separator, source = item.partition("=")
    if not separator:
        raise UsageError(f"expected PATH=FILE, found {item!r}")
    with open(source, "rb") as f:
        return Put(clean(path), f.read(), os.access(source, os.X_OK) or None)


@command("merge")
@branch_option
@message_option
@author_option
@click.argument("other")
async def merge(
    where: Where, branch: str, message: str, author: str | None, other: str, as_json: bool
) -> None:
    """Merge OTHER, a branch or a commit id, into the branch; exit code 3 on conflicts.

    With --git and --json every conflict is a line: path, kind, reason, the three stages.
    """
    async with where.open(author, create=True) as tree:
        try:
            say_commit(await tree.merge(branch, other, message), as_json)
        except MergeConflictError as err:
            for conflict in err.conflicts if as_json else ():
                say(conflict.as_json(), "", True)
            raise


@command("branch")
@click.option("-d", "--delete", is_flag=True, help="Delete NAME.")
@click.option("--move", metavar="NEW", help="Rename NAME to NEW.")
@click.argument("name", required=False)
@click.argument("start", required=False)
async def branch(
    where: Where, delete: bool, move: str | None, name: str | None, start: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """List branches; or make NAME at START (a branch or a commit), delete it, rename it.

    \b
    dataflow branch --git state.git topic main
    dataflow branch --git state.git topic --move done
    """
    async with where.open(create=name is not None) as tree:
        if name is None:
            for found, head in (await tree.branches()).items():
                say({"branch": found, "head": head or None}, f"{head or '-'} {found}", as_json)
        elif delete:
            await tree.delete_branch(name)
        elif move:
            await tree.rename_branch(name, move)
        else:
            target = await tree.make_branch(name, start or "main")
            say({"branch": name, "head": target}, f"{target} {name}", as_json)
