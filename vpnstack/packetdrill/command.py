"""The command `vpnstack packetdrill FILE...`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from .errors import ScriptError
from .report import Failure, Outcome
from .runner import run

EPILOG = """\b
Examples:
  vpnstack packetdrill handshake.pkt
  vpnstack packetdrill -v --option tcp_sack=0 tests/packetdrill/
  vpnstack packetdrill --json *.pkt | jq '.[] | select(.passed | not)'
"""


@click.command(epilog=EPILOG)
@click.argument(
    "paths", nargs=-1, required=True, metavar="FILE|DIRECTORY...",
    type=click.Path(exists=True, path_type=Path),
)  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, help="Print every packet.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as a JSON list.")
@click.option(
    "--gso", is_flag=True, help="Show super-segments as they leave, not as wire segments."
)
@click.option("--tolerance-usecs", type=int, help="How far times may be off.  [default: 4000]")
@click.option(
    "-o", "--option", "pairs", multiple=True, metavar="NAME=VALUE",
    help="An option that wins over the scripts' own, such as ip_version=ipv6.",
)  # fmt: skip
def packetdrill(
    paths: tuple[Path, ...], verbose: bool, as_json: bool, gso: bool,
    tolerance_usecs: int | None, pairs: tuple[str, ...],
) -> None:  # fmt: skip
    """Run packetdrill scripts against this stack, in process and in virtual time.

    The exit code is 0 when all pass, 1 when one fails and 2 when one is not a script.
    """
    overrides = dict(_pair(text) for text in pairs)
    if gso:
        overrides["gso"] = "1"
    if tolerance_usecs is not None:
        overrides["tolerance_usecs"] = str(tolerance_usecs)
    outcomes = []
    for path in _files(paths):
        outcomes.append(_run(path, overrides))
        if not as_json:
            click.echo(outcomes[-1].render(verbose))
    if as_json:
        click.echo(json.dumps([outcome.as_dict() for outcome in outcomes], indent=2))
    sys.exit(2 if any(o.broken for o in outcomes) else int(not all(o.passed for o in outcomes)))


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.removeprefix("--").partition("=")
    if not equals:
        raise click.BadParameter(f"expected NAME=VALUE, found {text!r}", param_hint="--option")
    return name, value


def _files(paths: tuple[Path, ...]) -> list[Path]:
    """Return the files meant: those named, and every .pkt below a directory."""
    found: list[Path] = []
    for path in paths:
        found.extend(sorted(path.rglob("*.pkt")) if path.is_dir() else [path])
    return found


def _run(path: Path, overrides: dict[str, str]) -> Outcome:
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        wrong = ScriptError(f"expected a text file, found {e}")
        return Outcome(str(path), False, broken=True, failure=Failure(0, "", 0.0, str(wrong)))
    return run(source, str(path), overrides)
