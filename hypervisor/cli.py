"""The `hypervisor` command."""

import click


@click.group()
@click.version_option(package_name="trikit")
def main() -> None:
    """Lightweight machines from the command line."""
