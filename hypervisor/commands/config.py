"""Machine files: TOML with the settings of one machine, or of several in tables.

    memory = "512M"               # for every machine of the file

    [machine.web]
    cpus = 2
    publish = ["8080:80"]

    [machine.db]
    disk = "db.img"

Keys are the long options without their dashes.  Without a table, the file is one machine.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click

from ..errors import UsageError
from ..machine import CPUS_MAX, ENGINES, parse_memory, parse_uuid
from . import devices, hyperkit, network
from .settings import NAMES, SettingError, Settings, apply

_TABLE = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(#.*)?$")


class FileError(UsageError):
    """A machine file is wrong; the message begins with its name and the line."""

    def __init__(self, path: Path, line: int, message: str) -> None:
        where = f"{path}:{line}" if line else str(path)
        super().__init__(f"{where}: {message}")
        self.line = line


def read(path: Path) -> list[Settings]:
    """Return the machines of a file; FileError names what is wrong, and its line."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"cannot read {path}: {reason}") from None
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        match = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        message = str(error).partition(" (at ")[0]
        raise FileError(path, int(match[1]) if match else 0, message) from None
    return _machines(values, path, text)


def _machines(values: Mapping[str, Any], path: Path, text: str) -> list[Settings]:
    tables = values.get("machine")
    shared = {key: value for key, value in values.items() if key != "machine"}
    if tables is None:
        return [_settings(Settings(), shared, path, text, "")]
    if not isinstance(tables, Mapping) or not tables:
        raise FileError(path, find(text, "", "machine"), "expected tables such as [machine.web]")
    if "name" in shared:
        raise FileError(path, find(text, "", "name"), "the machines' names are their tables'")
    base = _settings(Settings(), shared, path, text, "")
    made = []
    for name, table in tables.items():
        place = f"machine.{name}"
        if not isinstance(table, Mapping):
            message = f"machine.{name} is {table!r}, expected a table [machine.{name}]"
            raise FileError(path, find(text, "machine", name), message)
        made.append(_settings(base, {"name": name, **table}, path, text, place))
    return made


def _settings(
    base: Settings, values: Mapping[str, Any], path: Path, text: str, table: str
) -> Settings:
    try:
        settings = apply(base, values, path.parent)
    except SettingError as error:
        raise FileError(path, find(text, table, error.key), str(error)) from None
    try:
        check(settings)
    except SettingError as error:
        line = find(text, table, error.key) if error.key in values else find(text, "", error.key)
        raise FileError(path, line, str(error)) from None
    return settings


def check(settings: Settings) -> None:
    """Raise SettingError for values that can never be, without looking at files."""
    checks: list[tuple[str, Callable[[], object]]] = [
        (name, partial(devices.machine_arguments, {name: texts}, settings.directory))
        for name, texts in settings.devices.items()
    ]
    checks += [
        ("memory", lambda: parse_memory(settings.memory)),
        ("uuid", lambda: parse_uuid(settings.uuid)),
        ("publish", lambda: [network.parse_publish(each) for each in settings.publish]),
        ("net", lambda: network.addresses(settings.net)),
        ("serial", lambda: hyperkit.parse_serial(settings.serial)),
    ]
    for key, work in checks:
        try:
            work()
        except UsageError as error:
            raise SettingError(key, str(error)) from None
    if not 1 <= settings.cpus <= CPUS_MAX:
        raise SettingError("cpus", f"cpus is {settings.cpus}, expected 1 to {CPUS_MAX}")
    if settings.engine not in ENGINES:
        message = f"engine is {settings.engine!r}, expected one of {', '.join(ENGINES)}"
        raise SettingError("engine", message)


def find(text: str, table: str, key: str) -> int:
    """Return the line of `key` in `table`, else of the table's header; 0 where neither is."""
    inside, header = "", 0
    written = re.compile(rf"""\s*["']?{re.escape(key)}["']?\s*[=.]""")
    for number, line in enumerate(text.splitlines(), 1):
        if match := _TABLE.match(line):
            inside = re.sub(r"""["']|\s""", "", match[1])
            if inside == table or inside == f"{table}.{key}".lstrip("."):
                header = header or number
                if inside != table:
                    return number
        elif inside == table and written.match(line):
            return number
    return header


def shown(settings: Settings) -> dict[str, object]:
    """Return what is not the default, as JSON takes it."""
    default = asdict(Settings())
    values = {name: value for name, value in asdict(settings).items() if name in NAMES}
    differing = {name: value for name, value in values.items() if value != default[name]}
    made = {**differing, **settings.devices}
    return {name: str(value) if isinstance(value, Path) else value for name, value in made.items()}


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--print", "printing", is_flag=True, help="Print the machines as JSON.")
def config(file: Path, printing: bool) -> None:
    """Check a machine file, and say which line is wrong.

    \b
    hypervisor config machines.toml
    hypervisor config --print machines.toml
    """
    machines = read(file)
    if printing:
        click.echo(json.dumps([shown(each) for each in machines], indent=1))
        return
    names = ", ".join(each.name or "(without a name)" for each in machines)
    click.echo(f"{file}: {len(machines)} machine{'s' * (len(machines) != 1)}: {names}")
