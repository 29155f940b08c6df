"""Cells, the table that people read and the JSON that programs read.

The JSON is `{"cells": {cell: {"ours": x, "peers": {name: x}, "ratio": r, "goal": g, "better":
"higher" | "lower"}}, "notes": [...]}`; a ratio above 1 always means that ours is better than the
best peer.  Cells that compare with nothing have neither ratio nor goal.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from .harness import BenchmarkError


@dataclass(slots=True)
class Cell:
    """One figure, measured several times for ours, for peers, and for what is only a limit."""

    name: str
    unit: str
    better: str = "higher"
    goal: float | None = None
    samples: dict[str, list[float]] = field(default_factory=dict)
    limits: tuple[str, ...] = ()  # columns that are shown but not competed with

    def add(self, column: str, value: float) -> None:
        """Note one measurement."""
        self.samples.setdefault(column, []).append(value)

    def value(self, column: str) -> float | None:
        """Return the median of a column's measurements."""
        found = self.samples.get(column)
        return statistics.median(found) if found else None

    def peers(self) -> dict[str, float]:
        """Return the medians of those that ours is compared with."""
        return {
            name: statistics.median(values)
            for name, values in self.samples.items()
            if name != "ours" and name not in self.limits
        }

    @property
    def ratio(self) -> float | None:
        """Ours against the best peer, above 1 where ours is better; None where one is missing."""
        ours, peers = self.value("ours"), self.peers().values()
        if ours is None or not peers:
            return None
        if self.better == "higher":
            best = max(peers)
            return ours / best if best else None
        return min(peers) / ours if ours else None

    def json(self) -> dict[str, Any]:
        """Return the cell of the JSON contract."""
        out: dict[str, Any] = {
            "ours": self.value("ours"), "peers": self.peers(), "ratio": self.ratio,
            "goal": self.goal, "better": self.better, "unit": self.unit,
        }  # fmt: skip
        limits = {name: self.value(name) for name in self.limits if name in self.samples}
        if limits:
            out["limits"] = limits
        spread = {name: [min(v), max(v)] for name, v in self.samples.items() if len(v) > 1}
        if spread:
            out["range"] = spread
        return out


class Report:
    """All cells of a run, by name, in the order in which they were made."""

    def __init__(self, title: str, columns: Sequence[str]) -> None:
        self.title = title
        self.columns = list(columns)
        self.cells: dict[str, Cell] = {}
        self.notes: list[str] = []

    def cell(self, name: str, unit: str, **options: Any) -> Cell:
        """Return the cell called `name`, made at the first call."""
        if name not in self.cells:
            self.cells[name] = Cell(name, unit, **options)
        return self.cells[name]

    def note(self, text: str) -> None:
        """Say something once, under the table and in the JSON."""
        if text not in self.notes:
            self.notes.append(text)
            click.echo(f"note: {text}", err=True)

    def show(self) -> None:
        """Print the table."""
        table = Table(title=self.title, title_justify="left")
        table.add_column("cell", no_wrap=True)
        table.add_column("unit", no_wrap=True)
        for name in self.columns:
            table.add_column(name, justify="right", no_wrap=True)
        for name in ("ratio", "goal"):
            table.add_column(name, justify="right", no_wrap=True)
        for cell in self.cells.values():
            table.add_row(*self._row(cell))
        Console(width=None if sys.stdout.isatty() else 160).print(table)
        for text in self.notes:
            click.echo(f"- {text}")

    def _row(self, cell: Cell) -> list[str]:
        ratio, goal = cell.ratio, cell.goal
        shown = "" if ratio is None else f"{ratio:.2f}"
        if ratio is not None and goal is not None:
            shown = f"[{'green' if ratio >= goal else 'red'}]{shown}[/]"
        values = [figure(cell.value(name)) for name in self.columns]
        return [cell.name, cell.unit, *values, shown, "" if goal is None else f"{goal:g}"]

    def write(self, path: Path | None) -> None:
        """Write the JSON of the contract."""
        if path is not None:
            cells = {name: cell.json() for name, cell in self.cells.items()}
            path.write_text(json.dumps({"cells": cells, "notes": self.notes}, indent=1) + "\n")


def figure(value: float | None) -> str:
    """Format with three digits that matter."""
    if value is None:
        return "-"
    if value >= 10000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if value >= 1000 else f"{value:.3g}"


def selected(name: str, patterns: Sequence[str]) -> bool:
    """Tell whether `--cells` wants this one: shell patterns or starts of names; none is all."""
    return not patterns or any(fnmatch(name, p) or name.startswith(p) for p in patterns)


def options(command: Callable[..., None]) -> Callable[..., None]:
    """Add what every benchmark takes."""
    for option in (
        click.option("--cells", multiple=True, metavar="PATTERN", help="Measure these only."),
        click.option(
            "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path),
            help="Write the cells to this file.",
        ),
        click.option("--quick", is_flag=True, help="In less than a minute."),
    ):  # fmt: skip
        command = option(command)
    return command


def finish(command: Callable[[], Any]) -> None:
    """Run a click command; a benchmark that cannot be made ends with one line."""
    try:
        command()
    except BenchmarkError as e:
        click.echo(f"benchmark: {e}", err=True)
        sys.exit(1)
