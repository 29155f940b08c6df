"""The settings of a machine as they are written: on the command line, and in machine files.

Both give the same names and the same texts, so both are read by the same functions; a file's paths
are relative to it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .devices import DEVICE_OPTIONS

STOP_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Settings:
    """One machine as it was asked for; `devices` maps options of `DEVICE_OPTIONS` to their texts.

    `name` empty: the first free one.  `net` None: no network; "": one with the default addresses.
    """

    name: str = ""
    kernel: Path | None = None
    initrd: Path | None = None
    cmdline: str = ""
    memory: str | int = "256M"
    cpus: int = 1
    uuid: str = ""
    acpi: bool = True
    engine: str = "auto"
    engine_arg: tuple[str, ...] = ()
    console: bool = True
    hvc: bool = False
    console_log: Path | None = None
    serial: tuple[str, ...] = ()
    net: str | None = None
    publish: tuple[str, ...] = ()
    stop_timeout: float = STOP_TIMEOUT
    devices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    directories: Mapping[str, Path] = field(default_factory=dict)  # by setting, for `directory`

    @property
    def networked(self) -> bool:
        """Whether the machine is on the network."""
        return self.net is not None or bool(self.publish)

    def directory(self, name: str) -> Path:
        """Return what paths in the texts of setting `name` are relative to."""
        return self.directories.get(name, Path())


DEVICES = tuple(option.name for option in DEVICE_OPTIONS)
NAMES = tuple(each.name for each in fields(Settings) if each.name not in {"devices", "directories"})
_TEXT, _PATH, _NUMBER, _WHOLE, _FLAG, _LIST = (
    "a string",
    "a path",
    "a number",
    "a whole number",
    "true or false",
    "a list of strings",
)
_KINDS = {
    **dict.fromkeys(("name", "cmdline", "uuid", "engine"), _TEXT),
    **dict.fromkeys(("kernel", "initrd", "console_log"), _PATH),
    **dict.fromkeys(("engine_arg", "serial", "publish", *DEVICES), _LIST),
    **dict.fromkeys(("acpi", "console", "hvc"), _FLAG),
    "cpus": _WHOLE,
    "stop_timeout": _NUMBER,
}


def known(names: Iterable[str], key: str) -> str:
    """Return what to say about an unknown `key`: the nearest of `names`, or all."""
    names = sorted(names)
    near = difflib.get_close_matches(key, names, 1)
    return f"did you mean {near[0]}?" if near else f"expected one of {', '.join(names)}"


def apply(settings: Settings, values: Mapping[str, Any], directory: Path) -> Settings:
    """Return `settings` with `values` instead of theirs; UsageError names the key that is wrong.

    The error's `key` attribute is that key, so that a file's reader can say where it stands.
    """
    changes: dict[str, Any] = {}
    devices = dict(settings.devices)
    directories = dict(settings.directories)
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in NAMES and name not in DEVICES:
            raise SettingError(key, f"unknown key {key!r}: {known((*NAMES, *DEVICES), name)}")
        read = _read(name, key, value, directory)
        if name in DEVICES:
            devices[name] = read
        else:
            changes[name] = read
        directories[name] = directory
    return replace(settings, **changes, devices=devices, directories=directories)


class SettingError(UsageError):
    """A setting is wrong; `key` is its name as it was written."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def _read(name: str, key: str, value: object, directory: Path) -> Any:
    if name == "net":
        return _net(key, value)
    if name == "memory":
        kind, good = 'a size such as "512M"', isinstance(value, str | int)
    else:
        kind = _KINDS[name]
        if kind == _LIST and isinstance(value, Mapping):  # share = {src = "."}
            value = [f"{tag}={source}" for tag, source in value.items()]
        good = _is(kind, value)
    if not good or (isinstance(value, bool) and kind != _FLAG):
        raise SettingError(key, f"{key} is {value!r}, expected {kind}")
    if kind == _PATH:
        return directory / Path(str(value)).expanduser()
    if kind == _LIST:
        assert isinstance(value, Sequence)
        return (value,) if isinstance(value, str) else tuple(value)
    return value


def _is(kind: str, value: object) -> bool:
    if kind == _TEXT:
        return isinstance(value, str)
    if kind == _PATH:
        return isinstance(value, str | Path)
    if kind == _FLAG:
        return isinstance(value, bool)
    if kind == _WHOLE:
        return isinstance(value, int)
    if kind == _NUMBER:
        return isinstance(value, int | float)
    return isinstance(value, str) or (
        isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)
    )


def _net(key: str, value: object) -> str | None:
    if isinstance(value, bool):
        return "" if value else None
    if isinstance(value, str):
        return value
    raise SettingError(key, f'{key} is {value!r}, expected true, false or "ADDRESS/PREFIX"')
