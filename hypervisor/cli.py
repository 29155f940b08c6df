"""The `hypervisor` command; its subcommands stand in `commands`.

Here alone, and there, are arguments and the environment read: the context carries the latter.
"""

from __future__ import annotations

import os
from typing import Any

import click

from vpnstack.errors import VpnstackError

from .commands import base, config, console, doctor, image, run, steer, top
from .errors import HypervisorError


class Cli(click.Group):
    """Turns the kits' errors into one line on stderr and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (HypervisorError, VpnstackError) as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=Cli, context_settings=base.HELP)
@click.version_option(package_name="trikit")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Lightweight machines from the command line.

    \b
    hypervisor doctor                       what this host can do
    hypervisor image build --package iperf3
    hypervisor run                          the default image, console on the terminal
    hypervisor run --net --publish 8080:80 --share src=. --name web
    hypervisor run machines.toml            machines described in a file, all in one process
    hypervisor ps                           and: console, stop, pause, resume, top, events, stats
    """
    ctx.obj = os.environ


for command in (
    *(run.run, config.config, steer.ps, console.console, steer.stop, steer.pause, steer.resume),
    *(top.top, steer.events, steer.stats, image.image, doctor.doctor),
):
    main.add_command(command)


if __name__ == "__main__":
    main()
