"""Merge drivers: what makes one file of three, chosen by the file's path.

A driver is a function `(base, ours, theirs, path) -> bytes | Conflict`; `base` is empty where
there is none.  It is asked only where both sides changed a regular file's content differently.
An error it raises becomes a conflict with the error's text.  Built in are

    text         lines, as `git merge-file`; files with a NUL are a conflict (the default)
    binary       always a conflict
    union        lines, and where both sides changed the same ones, all of them
    json         objects by key, arrays by element (see `jsonmerge`); other files as text
    last-writer  the side whose last commit to the path is later
    ours theirs  that side

Patterns are those of `.gitattributes`, the last that matches decides; `drivers=` of a repository
comes before the attribute `merge` in the `.gitattributes` of our side, whose values are the names
above.  `-merge` and the macro `binary` mean binary; an unknown name means text, as for Git.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..errors import UsageError
from .attributes import Attributes, Glob
from .conflicts import Conflict, Kind
from .jsonmerge import merge_json
from .lines import Budget
from .paths import Path
from .textmerge import MARKER_SIZE, Favor, Labels, Style, is_binary, merge_text

SIZE_MAX = 16 << 20  # octets on the three sides; more are not merged by lines
LINES_MAX = 1_000_000  # likewise

Driver = Callable[[bytes, bytes, bytes, str], bytes | Conflict]
TheirsNewer = Callable[[], bool | None]


@dataclass(frozen=True, slots=True)
class Request:
    """What a built-in driver knows; `theirs_newer` is None where no commits are compared."""

    base: bytes
    ours: bytes
    theirs: bytes
    path: str
    style: Style = Style.MERGE
    labels: Labels = field(default_factory=Labels)
    marker_size: int = MARKER_SIZE
    theirs_newer: TheirsNewer = lambda: None


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """A driver of our own; also callable as any other driver is."""

    name: str
    merge: Callable[[Request], bytes | Conflict]

    def __call__(self, base: bytes, ours: bytes, theirs: bytes, path: str) -> bytes | Conflict:
        """Merge one file."""
        return self.merge(Request(base, ours, theirs, path))


def _text(r: Request) -> bytes | Conflict:
    refused = _refused(r)
    if refused is not None:
        return refused
    merged = merge_text(
        r.base, r.ours, r.theirs,
        style=r.style, labels=r.labels, marker_size=r.marker_size, join=False, budget=Budget(),
    )  # fmt: skip
    if not merged.conflicts:
        return merged.data
    places = f"{merged.conflicts} place{'s' * (merged.conflicts > 1)}"
    return Conflict(f"{r.path}: both changed {places}", Kind.CONTENT, marked=merged.data)


def _refused(r: Request) -> Conflict | None:
    """Return the conflict of what is not merged by lines."""
    sides = (r.base, r.ours, r.theirs)
    if any(is_binary(data) for data in sides):
        return Conflict(f"{r.path}: binary files differ", Kind.BINARY)
    if sum(map(len, sides)) > SIZE_MAX or sum(data.count(b"\n") for data in sides) > LINES_MAX:
        return Conflict(f"{r.path}: too large to be merged by lines", Kind.BINARY)
    return None


def _binary(r: Request) -> bytes | Conflict:
    return Conflict(f"{r.path}: both changed it, and it is not merged", Kind.BINARY)


def _union(r: Request) -> bytes | Conflict:
    return _refused(r) or merge_text(r.base, r.ours, r.theirs, favor=Favor.UNION, join=False).data


def _json(r: Request) -> bytes | Conflict:
    try:
        merged = merge_json(r.base, r.ours, r.theirs)
    except ValueError:
        return _text(r)
    if isinstance(merged, bytes):
        return merged
    as_text = _text(r)
    marked = as_text.marked if isinstance(as_text, Conflict) else as_text
    return Conflict(f"{r.path}: both changed {', '.join(merged)}", Kind.CONTENT, marked=marked)


def _last_writer(r: Request) -> bytes | Conflict:
    newer = r.theirs_newer()
    if newer is None:
        return Conflict(f"{r.path}: no commits whose times could be compared")
    return r.theirs if newer else r.ours


by_lines = BuiltIn("text", _text)
binary = BuiltIn("binary", _binary)
union = BuiltIn("union", _union)
json = BuiltIn("json", _json)
last_writer = BuiltIn("last-writer", _last_writer)
ours = BuiltIn("ours", lambda r: r.ours)
theirs = BuiltIn("theirs", lambda r: r.theirs)

BUILT_IN: Mapping[str, BuiltIn] = {
    d.name: d for d in (by_lines, binary, union, json, last_writer, ours, theirs)
}


class Drivers:
    """The drivers of a repository by pattern; values are drivers or names of built-in ones."""

    def __init__(self, patterns: Mapping[str, Driver | str] | None = None) -> None:
        self._patterns = [
            (Glob(pattern.encode("utf-8", "surrogateescape")), _named(driver))
            for pattern, driver in (patterns or {}).items()
        ]

    def select(self, path: Path, attributes: Attributes | None) -> Driver:
        """Return the driver for a path."""
        for glob, driver in reversed(self._patterns):
            if glob.match(path):
                return driver
        value = attributes.merge(path) if attributes else None
        if value is False:
            return binary
        if isinstance(value, bytes):
            return BUILT_IN.get(value.decode("utf-8", "replace"), by_lines)
        return by_lines


def _named(driver: Driver | str) -> Driver:
    if not isinstance(driver, str):
        return driver
    if driver not in BUILT_IN:
        raise UsageError(f"driver: expected one of {', '.join(BUILT_IN)}, found {driver!r}")
    return BUILT_IN[driver]


def run(driver: Driver, request: Request) -> bytes | Conflict:
    """Ask a driver; whatever it does wrong is a conflict."""
    if isinstance(driver, BuiltIn):
        return driver.merge(request)
    try:
        got: object = driver(request.base, request.ours, request.theirs, request.path)
    except Exception as err:  # a user's code: its errors are this path's conflict
        return Conflict(f"{request.path}: merge driver: {type(err).__name__}: {err}")
    if isinstance(got, bytes | Conflict):
        return got
    kind = type(got).__name__
    return Conflict(f"{request.path}: merge driver: expected bytes or Conflict, found {kind}")
