"""`hypervisor doctor`: what this host can do for machines."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import click
from rich.console import Console as Screen
from rich.table import Table

from ..engine.choice import explain
from ..engine.host import survey
from .base import json_option


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Say what this host can do for machines, and why not.

    Exit code 0 when machines can run, by KVM or by emulation.

    \b
    hypervisor doctor
    hypervisor doctor --json
    """
    facts = [explain(), *survey()]
    by_name = {fact.name: fact for fact in facts}
    if as_json:
        click.echo(json.dumps([asdict(fact) for fact in facts], indent=1))
    else:
        table = Table("", "what", "found", "what to do", box=None)
        for fact in facts:
            mark = "[green]yes[/]" if fact.good else "[red]no[/]"
            table.add_row(mark, fact.name, fact.found, fact.advice)
        Screen().print(table)
    emulation = by_name["qemu-system-x86_64"].good and by_name["setpriv"].good
    sys.exit(0 if by_name["kvm"].good or emulation else 1)
