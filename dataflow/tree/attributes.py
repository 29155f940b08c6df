"""What `.gitattributes` of a tree say about a path's merge, and glob patterns as they have them.

A pattern without a slash matches the last name, at any depth; one with a slash the whole path
below the directory of its file, `**` any directories.  The last line that matches decides, and a
file in a deeper directory comes later.  Quoted patterns and macros but `binary` are not known.

Matching takes time in proportion to pattern times name, whatever the pattern: a star is tried
again only until the next one has matched, a pattern needs no regular expression.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

from dulwich.attrs import AttributeValue, parse_git_attributes

from ..store.base import Oid
from ..store.objects import Entry, Objects
from .paths import Path
from .tree import find

NAME = b".gitattributes"
SIZE_MAX = 1 << 20
_STAR = None

Token = frozenset[int] | None  # one of these octets, or None: any octets
_ANY = frozenset(range(256)) - {ord("/")}


def _tokens(pattern: bytes) -> tuple[Token, ...]:
    """Take one component of a pattern apart."""
    out: list[Token] = []
    at = 0
    while at < len(pattern):
        sign = pattern[at : at + 1]
        at += 1
        if sign == b"*":
            if not out or out[-1] is not _STAR:
                out.append(_STAR)
        elif sign == b"?":
            out.append(_ANY)
        elif sign == b"[" and (end := pattern.find(b"]", at + 1)) > 0:
            out.append(_class(pattern[at:end]))
            at = end + 1
        else:
            if sign == b"\\" and at < len(pattern):
                sign = pattern[at : at + 1]
                at += 1
            out.append(frozenset(sign))
    return tuple(out)


def _class(text: bytes) -> frozenset[int]:
    """Return the octets of a bracket expression, given without its brackets."""
    negated = text[:1] in {b"!", b"^"}
    text = text[negated:]
    found: set[int] = set()
    at = 0
    while at < len(text):
        if text[at + 1 : at + 2] == b"-" and at + 2 < len(text):
            found.update(range(text[at], text[at + 2] + 1))
            at += 3
        else:
            found.add(text[at])
            at += 1
    return _ANY - found if negated else frozenset(found)


def _match_name(tokens: tuple[Token, ...], name: bytes) -> bool:
    at = i = 0
    star = mark = -1
    while i < len(name):
        token = tokens[at] if at < len(tokens) else frozenset[int]()
        if token is _STAR:
            star, mark, at = at, i, at + 1
        elif name[i] in token:
            at, i = at + 1, i + 1
        elif star >= 0:  # let the last star take one octet more
            mark += 1
            at, i = star + 1, mark
        else:
            return False
    return all(token is _STAR for token in tokens[at:])


class Glob:
    """A pattern of `.gitattributes`, for paths relative to the directory of the file."""

    __slots__ = ("_names",)

    def __init__(self, pattern: bytes) -> None:
        parts = pattern.removeprefix(b"/").split(b"/")
        if b"/" not in pattern:
            parts = [b"**", *parts]
        self._names = tuple(None if p == b"**" else _tokens(p) for p in parts)

    def match(self, path: Path) -> bool:
        """Say whether the pattern matches the path, all of it."""
        names = self._names
        at = i = 0
        star = mark = -1
        while i < len(path):
            if at < len(names) and (tokens := names[at]) is None:
                star, mark, at = at, i, at + 1
            elif at < len(names) and tokens is not None and _match_name(tokens, path[i]):
                at, i = at + 1, i + 1
            elif star >= 0:
                mark += 1
                at, i = star + 1, mark
            else:
                return False
        return at == len(names)


@dataclass(frozen=True, slots=True)
class _Rule:
    glob: Glob
    merge: AttributeValue


class Attributes:
    """The attribute `merge` of every path of a tree; each file is read once, when it is asked."""

    def __init__(self, objects: Objects, root: Oid) -> None:
        self._objects = objects
        self._root = root
        self._rules: dict[Path, list[_Rule]] = {}

    def merge(self, path: Path) -> AttributeValue:
        """Return a driver's name, True for text, False for no merging, None if nothing is said."""
        found: AttributeValue = None
        for depth in range(len(path)):
            for rule in self._at(path[:depth]):
                if rule.glob.match(path[depth:]):
                    found = rule.merge
        return found

    def _at(self, directory: Path) -> list[_Rule]:
        if directory not in self._rules:
            entry = find(self._objects, self._root, (*directory, NAME))
            self._rules[directory] = [] if entry is None else _rules(self._objects, entry)
        return self._rules[directory]


def _rules(objects: Objects, entry: Entry) -> list[_Rule]:
    if entry.mode & 0o170000 != 0o100000 or objects.size(entry.oid) > SIZE_MAX:
        return []
    rules = []
    for pattern, values in parse_git_attributes(io.BytesIO(objects.blob(entry.oid))):
        if b"merge" in values:
            rules.append(_Rule(Glob(pattern), values[b"merge"]))
        elif b"binary" in values:  # the macro: -diff -merge -text
            rules.append(_Rule(Glob(pattern), False if values[b"binary"] else None))
    return rules
