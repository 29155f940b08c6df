"""The `vpnstack` command."""

import click


@click.group()
@click.version_option(package_name="trikit")
def main() -> None:
    """A userspace TCP/IP network for containers, machines and programs."""
