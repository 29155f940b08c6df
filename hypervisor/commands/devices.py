"""The options of devices: one row each, for the command line and machine files alike.

A row's `parse` turns one text (`root.img,ro`) into what `Machine` takes under `keyword`; paths in
the text are relative to the directory that it gets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ..errors import UsageError


@dataclass(frozen=True, slots=True)
class DeviceOption:
    """`--NAME`, which may be given several times if `many`, and the key NAME of machine files."""

    name: str
    keyword: str  # of Machine
    metavar: str
    help: str
    parse: Callable[[str, Path], object]
    many: bool = True

    def option(self) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Return the decorator that gives a command this option."""
        return click.option(
            f"--{self.name}", self.name, multiple=True, metavar=self.metavar, help=self.help
        )


# One row a device, alphabetically.
DEVICE_OPTIONS: tuple[DeviceOption, ...] = ()


def machine_arguments(
    texts: Mapping[str, Sequence[str]], directory: Callable[[str], Path]
) -> dict[str, Any]:
    """Return the keyword arguments of `Machine` for the texts of each option.

    `directory` tells what the paths of an option are relative to.
    """
    made: dict[str, Any] = {}
    for option in DEVICE_OPTIONS:
        values = [option.parse(text, directory(option.name)) for text in texts.get(option.name, ())]
        if len(values) > 1 and not option.many:
            raise UsageError(f"--{option.name} was given {len(values)} times, expected one")
        if values:
            made[option.keyword] = values if option.many else values[0]
    return made
