"""`hypervisor top`: what machines use, again and again."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import click
from rich.console import Console as Screen
from rich.live import Live
from rich.table import Table

from ..control import place
from . import base
from .base import json_option
from .steer import ask_all, duration, execute, size


@dataclass(frozen=True, slots=True)
class Row:
    """One machine's use of the host; rates are those since the row before, or since the start."""

    name: str
    state: str
    uptime: float
    cpu_percent: float  # of one processor
    vcpu_seconds: tuple[float, ...]
    exits: int  # -1: the engine does not tell
    exits_per_second: float
    memory: int
    resident: int
    rx_octets: int
    tx_octets: int
    rx_octets_per_second: float
    tx_octets_per_second: float


def row(found: Mapping[str, Any], before: Row | None) -> Row:
    """Return what a machine's statistics say, compared with its row before."""
    seconds = tuple(found["vcpus"])
    exits = sum(found["exits"].values()) if found["exits"] is not None else -1
    rx = sum(nic["rx_octets"] for nic in found["nics"])
    tx = sum(nic["tx_octets"] for nic in found["nics"])
    span = max(found["uptime"] - (before.uptime if before else 0.0), 1e-3)

    def rate(now: float, then: float) -> float:
        return float(round(max(now - then, 0.0) / span, 3))

    cpu = rate(sum(seconds), sum(before.vcpu_seconds) if before else 0.0)
    return Row(
        name=found["name"], state=found["state"], uptime=round(found["uptime"], 3),
        cpu_percent=round(100 * cpu, 1), vcpu_seconds=seconds,
        exits=exits, exits_per_second=rate(exits, before.exits if before else 0),
        memory=found["memory"], resident=found["resident"], rx_octets=rx, tx_octets=tx,
        rx_octets_per_second=rate(rx, before.rx_octets if before else 0),
        tx_octets_per_second=rate(tx, before.tx_octets if before else 0),
    )  # fmt: skip


def table(rows: Sequence[Row]) -> Table:
    """Return the rows for people."""
    made = Table(box=None)
    for name in ("name", "state", "up"):
        made.add_column(name)
    for name in ("cpu %", "cpu s", "exits/s", "in use", "memory", "rx/s", "tx/s"):
        made.add_column(name, justify="right")
    for each in rows:
        made.add_row(
            each.name, each.state, duration(each.uptime),
            f"{each.cpu_percent:.1f}", f"{sum(each.vcpu_seconds):.1f}",
            "-" if each.exits < 0 else f"{each.exits_per_second:.0f}",
            size(each.resident), size(each.memory),
            size(each.rx_octets_per_second), size(each.tx_octets_per_second),
        )  # fmt: skip
    return made


@click.command(context_settings=base.HELP)
@click.argument("names", nargs=-1, metavar="[NAME...]")
@click.option("--once", is_flag=True, help="Show one picture, rates being those since the start.")
@click.option("--interval", default=1.0, show_default=True, help="Seconds between pictures.")
@json_option
def top(names: tuple[str, ...], once: bool, interval: float, as_json: bool) -> None:
    """Watch what machines use: processor time, exits, memory in use, traffic.

    With --json, each picture is one line, a list of machines.

    \b
    hypervisor top
    hypervisor top --once --json | jq '.[] | {name, resident}'
    """
    execute(_watch(names, once, max(interval, 0.1), as_json))


async def _watch(names: Sequence[str], once: bool, interval: float, as_json: bool) -> None:
    screen = Screen(soft_wrap=once)
    before: dict[str, Row] = {}
    live = None if once or as_json else Live(console=screen, auto_refresh=False, screen=True)
    if live is not None:
        live.start()
    try:
        while True:
            begin = time.monotonic()
            rows = await _picture(names, before)
            before = {each.name: each for each in rows}
            if as_json:
                click.echo(json.dumps([asdict(each) for each in rows]))
            elif live is None:
                screen.print(table(rows))
            else:
                live.update(table(rows), refresh=True)
            if once:
                return
            await asyncio.sleep(max(0.0, begin + interval - time.monotonic()))
    finally:
        if live is not None:
            live.stop()


async def _picture(names: Sequence[str], before: Mapping[str, Row]) -> list[Row]:
    sockets = base.sockets()
    paths = (
        [place.socket_path(sockets, name) for name in names] if names else place.running(sockets)
    )
    found = await ask_all(paths, "statistics")
    return [row(each, before.get(each["name"])) for each in found]
