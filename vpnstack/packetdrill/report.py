"""What came of a script, for people and for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Failure:
    """Where and how a script failed; `recent` are the last packets, oldest first."""

    line: int
    event: str
    at: float
    message: str
    expected: str = ""
    found: str = ""
    reasons: tuple[str, ...] = ()
    recent: tuple[str, ...] = ()

    def render(self, name: str) -> str:
        """Write it for people: the script's line, expected and found, then the last packets."""
        lines = [f"{name}:{self.line}: {self.message} (at {self.at:.6f} s)"]
        if self.event:
            lines.append(f"  script    {self.event}")
        if self.expected:
            lines.append(f"  expected  {self.expected}")
        if self.found:
            lines.append(f"  found     {self.found}")
        lines.extend(f"  differs   {reason}" for reason in self.reasons)
        if self.recent:
            lines.append("  the last packets (< from the peer, > from the stack):")
            lines.extend(f"    {entry}" for entry in self.recent)
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one script; `seconds` is virtual time, `broken` a script that is wrong."""

    name: str
    passed: bool
    events: int = 0
    seconds: float = 0.0
    broken: bool = False
    failure: Failure | None = None
    notes: tuple[str, ...] = ()
    trace: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""
        return asdict(self)

    def render(self, verbose: bool = False) -> str:
        """Write it for people; with `verbose` every packet."""
        lines: list[str] = []
        if verbose:
            lines.extend(f"  {entry}" for entry in self.trace)
        lines.extend(f"  note: {note}" for note in self.notes)
        if self.failure is None:
            lines.append(f"ok    {self.name} ({self.events} events, {self.seconds:.3f} s)")
        else:
            lines.append(f"{'ERROR' if self.broken else 'FAIL '} {self.name}")
            lines.append(self.failure.render(self.name))
        return "\n".join(lines)
