"""What every benchmark prints and writes: a table, and JSON with ratios of which more is better.

Where ours and a peer meet the same chances (a seed), the ratio is the median of the ratios chance
by chance; `ours` and `peers` are then medians of their own, and their quotient may differ.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure: ours, the peers' by name, and the ratio to the best of them that we aim at."""

    name: str
    ours: float
    peers: dict[str, float]
    goal: float = 1.0
    better: str = "higher"
    unit: str = ""
    pairs: tuple[float, ...] = ()  # ratios of measurements that belong together, by seed

    @property
    def ratio(self) -> float:
        """How much better than the best peer ours is: above 1 is better, whatever `better`."""
        if self.pairs:
            return median(self.pairs)
        if self.better == "higher":
            best = max(self.peers.values())
            return self.ours / best if best else float("inf")
        best = min(self.peers.values())
        return best / self.ours if self.ours else float("inf")

    @property
    def met(self) -> bool:
        """Tell whether the goal is reached."""
        return self.ratio >= self.goal


@dataclass(slots=True)
class Report:
    """Cells in the order in which they were measured."""

    title: str
    cells: list[Cell] = field(default_factory=list)

    def add(self, cell: Cell) -> None:
        """Add a figure."""
        self.cells.append(cell)

    def print(self) -> None:
        """Print the table."""
        table = Table(title=self.title)
        for column in ("cell", "ours", "peers", "unit", "ratio", "goal"):
            table.add_column(column, justify="right" if column in ("ours", "ratio") else "left")
        for c in self.cells:
            peers = ", ".join(f"{name} {value:,.4g}" for name, value in c.peers.items())
            sign = "" if c.met else "  missed"
            ratio, goal = f"{c.ratio:.2f}", f">= {c.goal:.2f}{sign}"
            table.add_row(c.name, f"{c.ours:,.4g}", peers, c.unit, ratio, goal)
        Console(width=120).print(table)

    def write(self, path: Path) -> None:
        """Write the JSON."""
        cells: dict[str, Any] = {
            c.name: {
                "ours": c.ours,
                "peers": c.peers,
                "ratio": c.ratio,
                "goal": c.goal,
                "better": c.better,
                **({"ratios": c.pairs} if c.pairs else {}),
            }
            for c in self.cells
        }
        path.write_text(json.dumps({"cells": cells}, indent=2) + "\n")
