"""The `dataflow` command; its subcommands stand in `commands`.

Here alone, and there, are arguments and the environment read: the context carries the latter.
"""

from __future__ import annotations

import os

import click

from .commands import base, edit, look, mount, pack, serve


@click.group(context_settings=base.HELP)
@click.version_option(package_name="trikit")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Git as a live file tree.

    \b
    dataflow serve --git state.git --listen unix:/run/state.sock
    dataflow mount state.git /db                         the tree, as files
    echo 42 | dataflow write --git state.git results/answer -m "the answer"
    dataflow watch --server unix:/run/state.sock results/

    All but serve and mount work on a repository (--git DIR, or DATAFLOW_GIT) or on a server
    (--server ADDRESS, or DATAFLOW_SERVER), and print JSON with --json.

    Exit codes: 0 done, 1 an error, 2 a wrong command line, 3 a merge conflict.
    """
    ctx.obj = dict(os.environ)


for command in (
    *(serve.serve, mount.mount, look.ls, look.cat, look.stat, look.log, look.diff, look.watch),
    *(edit.write, edit.rm, edit.mkdir, edit.mv, edit.commit, edit.merge, edit.branch, look.tx),
    pack.pack,
):
    main.add_command(command)


if __name__ == "__main__":
    main()
