"""File trees for guests, `TAG=SOURCE`, opened by the kit that knows such sources.

It registers in the entry-point group `hypervisor.shares` a callable that takes the source (a
directory, a repository, a 9P server's socket; an absolute path) and returns an async context
manager over what `Machine` takes in `shares`.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AsyncExitStack
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from ..errors import UsageError

GROUP = "hypervisor.shares"


def parse(text: str, directory: Path) -> tuple[str, Path]:
    """Read `TAG=SOURCE`."""
    tag, equals, source = text.partition("=")
    if not equals or not tag or not source:
        raise UsageError(f"the share {text!r}, expected TAG=DIR, such as src=.")
    path = (directory / Path(source).expanduser()).absolute()
    if not path.exists():
        raise UsageError(f"the share {text}: there is no {path}")
    return tag, path


async def open_all(
    stack: AsyncExitStack, texts: Iterable[str], directory: Path
) -> dict[str, object]:
    """Open what the texts name, for as long as `stack` is."""
    made: dict[str, object] = {}
    for text in texts:
        tag, path = parse(text, directory)
        if tag in made:
            raise UsageError(f"two shares have the tag {tag}: choose another")
        made[tag] = await stack.enter_async_context(_opener()(str(path)))
    return made


def _opener() -> Any:
    for entry in entry_points(group=GROUP):
        return entry.load()
    raise UsageError(f"--share needs a kit that registers in {GROUP}: none is installed")
