"""The options of devices: one row each, for the command line and machine files alike.

A row's `parse` turns one text (`root.img,ro`) into what `Machine` takes under `keyword`; paths in
the text are relative to the directory that it gets.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ..aio.vsock import Vsock
from ..devices.disk import Disk
from ..engine.nic import parse_nic
from ..errors import UsageError


class Shape(enum.Enum):
    """How `Machine` takes what the texts of an option stand for."""

    LIST = "list"
    MAPPING = "mapping"  # `parse` returns pairs
    ONE = "one"


@dataclass(frozen=True, slots=True)
class DeviceOption:
    """`--NAME`, which may be given several times unless `shape` is ONE, and the files' key NAME."""

    name: str
    keyword: str  # of Machine
    metavar: str
    help: str
    parse: Callable[[str, Path], object]
    shape: Shape = Shape.LIST

    def option(self) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Return the decorator that gives a command this option."""
        return click.option(
            f"--{self.name}", self.name, multiple=True, metavar=self.metavar, help=self.help
        )


def parse_vsock(text: str, directory: Path) -> Vsock:
    """Read `[cid=N][,path=DIR][,firecracker=SOCKET][,forwards=PORT;PORT]`, in any order."""
    words = dict(word.partition("=")[::2] for word in text.split(","))
    if unknown := words.keys() - {"cid", "path", "firecracker", "forwards"}:
        expected = "cid=, path=, firecracker= or forwards="
        raise UsageError(f"{unknown.pop()!r} of the vsock {text!r}, expected {expected}")
    try:
        cid = int(words.get("cid", "3"))
        forwards = [int(port) for port in words.get("forwards", "").split(";") if port]
    except ValueError:
        raise UsageError(f"the vsock {text!r}, expected numbers in cid= and forwards=") from None
    places: dict[str, Any] = {
        name: directory / Path(words[word]).expanduser()
        for name, word in (("directory", "path"), ("firecracker", "firecracker"))
        if words.get(word)
    }
    return Vsock(cid, forwards=forwards, **places)


def parse_disk(text: str, directory: Path) -> Disk:
    """Read `PATH[,ro][,direct][,size=10G][,format=qcow2][,serial=ID][,sector_size=4096]`."""
    path, *words = text.split(",")
    options: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if word in {"ro", "direct"}:
            options["read_only" if word == "ro" else word] = True
        elif key in {"size", "format", "serial"} and equals:
            options[key] = value
        elif key == "sector_size" and value.isdecimal():
            options[key] = int(value)
        else:
            expected = "ro, direct, size=, format=, serial= or sector_size="
            raise UsageError(f"{word!r} of the disk {path}, expected {expected}")
    if not path:
        raise UsageError(f"the disk {text!r}, expected PATH[,ro][,size=10G]")
    return Disk(directory / Path(path).expanduser(), **options)


_SHARE_KINDS = {"dir", "ro", "setuid", "git", "unix"}  # before a path


def parse_share(text: str, directory: Path) -> tuple[str, str]:
    """Read `TAG=WHAT` with WHAT as a kit's entry point takes it; its path becomes absolute."""
    tag, equals, what = text.partition("=")
    if not (tag and equals and what):
        raise UsageError(f"share {text!r}: expected TAG=DIR|REPOSITORY|ADDRESS, such as src=.")
    kind, colon, path = what.partition(":")
    if kind == "tcp" and colon:
        return tag, what
    prefix = f"{kind}:" if colon and kind in _SHARE_KINDS else ""
    return tag, f"{prefix}{(directory / Path(path if prefix else what).expanduser()).absolute()}"


# One row a device, alphabetically.
DEVICE_OPTIONS: tuple[DeviceOption, ...] = (
    DeviceOption(
        "disk", "disks", "PATH[,ro][,size=10G]", "An image as a disk; made where it is not.",
        parse_disk,
    ),
    DeviceOption(
        "share", "shares", "TAG=DIR|REPOSITORY|ADDRESS",
        "Guests mount TAG over 9P: DIR or dir:DIR, read-only ro:DIR, git:PATH, unix:PATH,"
        " tcp:HOST:PORT; setuid:DIR lets them make set-ID files, whose rights are the host's.",
        parse_share, Shape.MAPPING,
    ),
    DeviceOption(
        "nic", "nics", "tap:NAME|vhost-user:PATH",
        "A TAP device of the host's, or a switch's socket; also ,mac= ,mtu= ,queues= ,listen.",
        lambda text, directory: parse_nic(text),
    ),
    DeviceOption(
        "vsock", "vsock", "cid=3,path=DIR", "Sockets in DIR to and from the guest, as HyperKit's;"
        " firecracker=SOCKET for one as Firecracker's; forwards=PORT;PORT.",
        parse_vsock, Shape.ONE,
    ),
)  # fmt: skip


def machine_arguments(
    texts: Mapping[str, Sequence[str]], directory: Callable[[str], Path]
) -> dict[str, Any]:
    """Return the keyword arguments of `Machine` for the texts of each option.

    `directory` tells what the paths of an option are relative to.
    """
    made: dict[str, Any] = {}
    for option in DEVICE_OPTIONS:
        values = [option.parse(text, directory(option.name)) for text in texts.get(option.name, ())]
        if values:
            value = _shaped(option, values)
            both = isinstance(value, list) and option.keyword in made
            made[option.keyword] = [*made[option.keyword], *value] if both else value
    return made


def _shaped(option: DeviceOption, values: list[Any]) -> Any:
    if option.shape is Shape.LIST:
        return values
    if option.shape is Shape.MAPPING:
        made = dict(values)
        if len(made) < len(values):
            names = [name for name, _ in values]
            twice = next(name for name in names if names.count(name) > 1)
            raise UsageError(f"two --{option.name} are called {twice}: choose another name")
        return made
    if len(values) > 1:
        raise UsageError(f"--{option.name} was given {len(values)} times, expected one")
    return values[0]
