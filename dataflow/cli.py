"""The `dataflow` command."""

import click


@click.group()
@click.version_option(package_name="trikit")
def main() -> None:
    """Git as a live file tree."""
