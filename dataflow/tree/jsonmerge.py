"""Three-way merge of JSON values: objects by key, arrays by element.

Theory of operation.  A value that one side left as it was is taken from the other; what both
changed alike is taken once.  Objects are merged key by key; keys stand in our order, each new one
of theirs behind the key it follows there.  Arrays whose elements are all objects with a unique
`id`, `key` or `name` are merged by that key; other arrays as lines of text are, an element being
a line, and changes that touch are a conflict.  Anything else that both changed is a conflict,
named by its place (`.jobs[2]`, `.jobs["build"].cpu`).  Numbers keep their spelling.

The result is written in our file's layout: its indent, separators, escapes and last line end;
arrays of plain values on one line if our file has them so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .lines import Budget, difference
from .textmerge import hunks_of

SIZE_MAX = 4 << 20
_KEYS = ("id", "key", "name")
_MISSING: Any = type("Missing", (), {"__repr__": lambda self: "missing"})()

Value = Any  # dict, list, str, bool, None, Number


class Number(str):
    """A number as it is spelled."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Layout:
    """How a file is written; `indent` None is all on one line."""

    indent: str | None
    comma: str
    colon: str
    ascii: bool
    inline: bool  # arrays of plain values stand on one line
    newline: str
    end: str

    @classmethod
    def of(cls, text: str) -> Layout:
        """Read a file's habits from its text."""
        newline = "\r\n" if "\r\n" in text else "\n"
        match = re.search(r"[{\[]\r?\n([ \t]*)\S", text)
        spaced = re.search(r'":[ ]', text) is not None or '":' not in text
        comma = re.search(r",( ?)", text)
        return cls(
            indent=match[1] if match else None,
            comma=comma[0] if comma else ", " if spaced else ",",
            colon=": " if spaced else ":",
            ascii=text.isascii(),
            inline=bool(re.search(r"\[[^\n\[\]{}]*[^\s\[\]{}][^\n\[\]{}]*\]", text)),
            newline=newline,
            end=newline if text.endswith("\n") else "",
        )


def merge_json(base: bytes, ours: bytes, theirs: bytes) -> bytes | tuple[str, ...]:
    """Return the merged file, or the places where both sides changed something differently.

    Raises `ValueError` if one side is no JSON (an empty base is a missing one), has a key twice,
    or is too deep or too large.
    """
    merger = _Merger()
    try:
        b = parse(base) if base.strip() else _MISSING
        merged = merger.value("", b, parse(ours), parse(theirs))
        if merger.places:
            return tuple(merger.places)
        layout = Layout.of(ours.decode())
        text = _emit(merged, layout, layout.newline) + layout.end
    except RecursionError as err:
        raise ValueError("nested too deep") from err
    return text.encode("utf-8", "surrogatepass")


def parse(data: bytes) -> Value:
    """Read a JSON file strictly; `ValueError`, `RecursionError`."""
    if len(data) > SIZE_MAX:
        raise ValueError(f"{len(data)} octets, at most {SIZE_MAX}")
    return json.loads(
        data.decode(),
        object_pairs_hook=_object,
        parse_int=Number,
        parse_float=Number,
        parse_constant=Number,
    )


def _object(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


@dataclass(slots=True)
class _Merger:
    places: list[str] = field(default_factory=list)
    budget: Budget = field(default_factory=Budget)
    numbers: dict[Hashable, int] = field(default_factory=dict)  # content to its number
    known: dict[int, tuple[int, Value]] = field(default_factory=dict)  # id() to number, object

    def number(self, value: Value) -> int:
        """Return a number that equal values share; each object is looked into once."""
        if not isinstance(value, dict | list):
            return self.numbers.setdefault((type(value).__name__, value), len(self.numbers))
        if id(value) not in self.known:
            key: Hashable
            if isinstance(value, dict):
                key = frozenset((k, self.number(v)) for k, v in value.items())
            else:
                key = tuple(self.number(v) for v in value)
            self.known[id(value)] = self.numbers.setdefault(key, len(self.numbers)), value
        return self.known[id(value)][0]

    def value(self, place: str, b: Value, o: Value, t: Value) -> Value:
        nb, no, nt = self.number(b), self.number(o), self.number(t)
        if nt in {no, nb}:
            return o
        if nb == no:
            return t
        if isinstance(o, dict) and isinstance(t, dict):
            return self.keyed(place, b if isinstance(b, dict) else {}, o, t)
        if isinstance(o, list) and isinstance(t, list):
            return self.array(place, b if isinstance(b, list) else [], o, t)
        self.places.append(place or ".")
        return o

    def keyed(
        self,
        place: str,
        b: Mapping[str, Value],
        o: Mapping[str, Value],
        t: Mapping[str, Value],
        show: Callable[[str], str] = lambda key: f".{key}",
    ) -> dict[str, Value]:
        out = {}
        for key in _order(list(b), list(o), list(t)):
            sides = (x.get(key, _MISSING) for x in (b, o, t))
            merged = self.value(place + show(key), *sides)
            if merged is not _MISSING:
                out[key] = merged
        return out

    def array(self, place: str, b: list[Value], o: list[Value], t: list[Value]) -> list[Value]:
        name = next((k for k in _KEYS if all(_has_key(x, k) for x in (b, o, t))), None)
        if name is None or not (o and t):
            return self.sequence(place, b, o, t)
        by_b, by_o, by_t = ({_mark(x[name]): x for x in side} for side in (b, o, t))
        return list(self.keyed(place, by_b, by_o, by_t, lambda key: f"[{key}]").values())

    def sequence(self, place: str, b: list[Value], o: list[Value], t: list[Value]) -> list[Value]:
        kb, ko, kt = ([self.number(v) for v in side] for side in (b, o, t))
        mine, other = difference(kb, ko, self.budget), difference(kb, kt, self.budget)
        out: list[Value] = []
        at = 0
        for h in hunks_of(mine, other, ko, kt):
            if h.side == 0:
                self.places.append(f"{place}[{h.i1}]")
            out += o[at : h.i1]
            out += t[h.i2 : h.i2 + h.n2] if h.side == 2 else o[h.i1 : h.i1 + h.n1]
            at = h.i1 + h.n1
        return out + o[at:]


def _order(base: list[str], ours: list[str], theirs: list[str]) -> list[str]:
    """Return all keys in our order, a new one of theirs behind the one it follows there.

    Where only they changed the order of what was there, theirs is kept instead.
    """
    common = set(base) & set(ours) & set(theirs)
    b, o, t = ([k for k in side if k in common] for side in (base, ours, theirs))
    if b == o != t:
        ours, theirs = theirs, ours
    known = set(ours)
    behind: dict[str | None, list[str]] = {}
    last: str | None = None
    for key in theirs:
        if key in known:
            last = key
        else:
            behind.setdefault(last, []).append(key)
    out = list(behind.get(None, []))
    for key in ours:
        out += [key, *behind.get(key, ())]
    return out


def _has_key(items: list[Value], name: str) -> bool:
    """Say whether all items are objects with a plain value of their own under `name`."""
    if not all(isinstance(x, dict) and isinstance(x.get(name), str) for x in items):
        return False
    return len({_mark(x[name]) for x in items}) == len(items)


def _mark(value: str) -> str:
    return str(value) if isinstance(value, Number) else json.dumps(value)


def _emit(value: Value, layout: Layout, lead: str) -> str:
    """Write a value; `lead` is the line end and indent in front of its closing bracket."""
    if isinstance(value, Number):
        return str(value)
    if not isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=layout.ascii)
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    if not value:
        return opening + closing
    inner = lead + (layout.indent or "")
    if isinstance(value, dict):
        parts = [
            json.dumps(k, ensure_ascii=layout.ascii) + layout.colon + _emit(v, layout, inner)
            for k, v in value.items()
        ]
    else:
        parts = [_emit(v, layout, inner) for v in value]
        if layout.inline and not any(isinstance(v, dict | list) for v in value):
            return "[" + (", " if layout.indent is not None else layout.comma).join(parts) + "]"
    if layout.indent is None:
        return opening + layout.comma.join(parts) + closing
    return opening + inner + ("," + inner).join(parts) + lead + closing
