"""The wire format of 9P: `emit` makes messages, `parse` checks and reads them.

Source: intro(5) of Plan 9 for 9P2000, the 9P2000.u draft (Van Hensbergen), and for 9P2000.L the
Linux kernel's net/9p.  A message is size[4] type[1] tag[2] and fields, all little-endian; size
counts itself.  Codecs are built once from the annotations in `messages`: runs of numbers become
one `struct`, so the hot messages take one unpack.  Bulk data is never copied here: `parse` gives
views into its argument, `emit` gives it back as a piece of its own.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple, get_type_hints

from .const import HEADER_SIZE, STRING_MAX, Dialect
from .errors import NineError
from .messages import TYPES, Message, Stat
from .tree import Buffer, Qid

HEADER = struct.Struct("<IBH")
WALK_WIRE_MAX = 0xFFFF  # what the count can say; servers refuse more than WALK_MAX

_QID = struct.Struct("<BIQ")
_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")
_BASE_ONLY = frozenset({112, 113, 114, 115, 124, 125, 126, 127, 107})
_TYPE_OF: dict[type[Any], int] = {cls: kind for kind, cls in TYPES.items()}


class WireError(NineError):
    """A message whose fields do not fit its size or its rules; the frame itself was whole."""


def is_request(kind: int) -> bool:
    """Tell requests (T-messages, even) from answers (R-messages, odd)."""
    return not kind & 1


def kind_of(message: Message) -> int:
    """Return the type byte of a message."""
    return _TYPE_OF[type(message)]


# A step reads values from (view, position) or writes them; a codec is a row of steps.
_Reader = Callable[[memoryview, int, list[Any]], int]
_Writer = Callable[[Any, list[Buffer]], None]


def _need(view: memoryview, pos: int, n: int, what: str) -> None:
    if n > len(view) - pos:
        raise WireError(f"{what}: expected {n} bytes, found {len(view) - pos}")


def _read_numbers(layout: struct.Struct) -> _Reader:
    def read(view: memoryview, pos: int, out: list[Any]) -> int:
        _need(view, pos, layout.size, "numbers")
        out.extend(layout.unpack_from(view, pos))
        return pos + layout.size

    return read


def _take_str(view: memoryview, pos: int) -> tuple[str, int]:
    _need(view, pos, 2, "string length")
    n: int = _U16.unpack_from(view, pos)[0]
    _need(view, pos + 2, n, "string")
    raw = bytes(view[pos + 2 : pos + 2 + n])
    if 0 in raw:
        raise WireError("string: expected no NUL, found one")
    return raw.decode(errors="surrogateescape"), pos + 2 + n


def _read_str(view: memoryview, pos: int, out: list[Any]) -> int:
    text, pos = _take_str(view, pos)
    out.append(text)
    return pos


def _read_data(view: memoryview, pos: int, out: list[Any]) -> int:
    _need(view, pos, 4, "data length")
    n: int = _U32.unpack_from(view, pos)[0]
    _need(view, pos + 4, n, "data")
    out.append(view[pos + 4 : pos + 4 + n])
    return pos + 4 + n


def _read_names(view: memoryview, pos: int, out: list[Any]) -> int:
    _need(view, pos, 2, "name count")
    n: int = _U16.unpack_from(view, pos)[0]
    _need(view, pos + 2, 2 * n, "names")
    pos += 2
    names = []
    for _ in range(n):
        name, pos = _take_str(view, pos)
        names.append(name)
    out.append(tuple(names))
    return pos


def _read_qid(view: memoryview, pos: int, out: list[Any]) -> int:
    _need(view, pos, 13, "qid")
    out.append(Qid(*_QID.unpack_from(view, pos)))
    return pos + 13


def _read_qids(view: memoryview, pos: int, out: list[Any]) -> int:
    _need(view, pos, 2, "qid count")
    n: int = _U16.unpack_from(view, pos)[0]
    _need(view, pos + 2, 13 * n, "qids")
    body = view[pos + 2 : pos + 2 + 13 * n]
    out.append(tuple(Qid(*q) for q in _QID.iter_unpack(body)))
    return pos + 2 + 13 * n


def _put_str(text: str, out: list[Buffer]) -> None:
    raw = text.encode(errors="surrogateescape")
    if len(raw) > STRING_MAX or 0 in raw:
        raise WireError(f"string: expected at most {STRING_MAX} bytes without NUL: {text[:40]!r}")
    out.append(_U16.pack(len(raw)))
    out.append(raw)


def _put_data(data: Buffer, out: list[Buffer]) -> None:
    out.append(_U32.pack(len(data)))
    out.append(data)


def _put_names(names: tuple[str, ...], out: list[Buffer]) -> None:
    out.append(_U16.pack(len(names)))
    for name in names:
        _put_str(name, out)


def _put_qid(qid: Qid, out: list[Buffer]) -> None:
    out.append(_QID.pack(*qid))


def _put_qids(qids: tuple[Qid, ...], out: list[Buffer]) -> None:
    out.append(_U16.pack(len(qids)))
    out.extend(_QID.pack(*qid) for qid in qids)


_READERS: dict[str, _Reader] = {
    "str": _read_str,
    "data": _read_data,
    "names": _read_names,
    "qid": _read_qid,
    "qids": _read_qids,
}
_WRITERS: dict[str, _Writer] = {
    "str": _put_str,
    "data": _put_data,
    "names": _put_names,
    "qid": _put_qid,
    "qids": _put_qids,
}


class Codec(NamedTuple):
    """How one message, or a stat, of one dialect is read and written."""

    cls: type[Any]
    fixed: struct.Struct | None  # set where the whole message is numbers
    readers: tuple[_Reader, ...]
    writers: tuple[tuple[_Writer | struct.Struct, int, int], ...]  # step, first field, one past

    def read(self, view: memoryview, pos: int) -> tuple[Any, int]:
        """Return the message that starts at `pos`, and the position behind it."""
        values: list[Any] = []
        for step in self.readers:
            pos = step(view, pos, values)
        return self.cls(*values), pos

    def write(self, message: Any, out: list[Buffer]) -> None:
        """Append the message's pieces to `out`."""
        for step, first, last in self.writers:
            if isinstance(step, struct.Struct):
                out.append(step.pack(*message[first:last]))
            else:
                step(message[first], out)


def _build(cls: type[Any], extended: bool, stat: Codec | None) -> Codec:
    hints = get_type_hints(cls, include_extras=True)
    marks = [getattr(hints[name], "__metadata__", ("",)) for name in cls._fields]
    readers: list[_Reader] = []
    writers: list[tuple[_Writer | struct.Struct, int, int]] = []
    i = 0
    while i < len(marks) and (extended or "extended" not in marks[i]):
        if len(marks[i][0]) == 1:
            j = i
            while j < len(marks) and len(marks[j][0]) == 1 and (extended or len(marks[j]) == 1):
                j += 1
            layout = struct.Struct("<" + "".join(m[0] for m in marks[i:j]))
            readers.append(_read_numbers(layout))
            writers.append((layout, i, j))
        else:
            j = i + 1
            reader, writer = _READERS.get(marks[i][0]), _WRITERS.get(marks[i][0])
            if stat is not None and marks[i][0] == "stat":
                reader, writer = _stat_steps(stat)
            if reader is None or writer is None:
                raise TypeError(f"{cls.__name__}.{cls._fields[i]}: no wire type")
            readers.append(reader)
            writers.append((writer, i, j))
        i = j
    whole = writers[0][0] if len(writers) == 1 else None
    fixed = whole if isinstance(whole, struct.Struct) else None
    return Codec(cls, fixed, tuple(readers), tuple(writers))


def _stat_steps(codec: Codec) -> tuple[_Reader, _Writer]:
    """A stat in a message is counted twice (stat(5), BUGS): n[2] around size[2] and the fields."""

    def read(view: memoryview, pos: int, out: list[Any]) -> int:
        _need(view, pos, 2, "stat length")
        n: int = _U16.unpack_from(view, pos)[0]
        _need(view, pos + 2, n, "stat")
        stat, used = _read_stat(codec, view[pos + 2 : pos + 2 + n], 0)
        if used != n:
            raise WireError(f"stat: expected {used} bytes, found {n}")
        out.append(stat)
        return pos + 2 + n

    def write(stat: Any, out: list[Buffer]) -> None:
        raw = _write_stat(codec, stat)
        out.append(_U16.pack(len(raw)))
        out.append(raw)

    return read, write


def _read_stat(codec: Codec, view: memoryview, pos: int) -> tuple[Stat, int]:
    _need(view, pos, 2, "stat size")
    n: int = _U16.unpack_from(view, pos)[0]
    _need(view, pos + 2, n, "stat fields")
    stat, used = codec.read(view[: pos + 2 + n], pos + 2)
    if used != pos + 2 + n:
        raise WireError(f"stat: expected {n} bytes of fields, found {used - pos - 2}")
    return stat, used


def _write_stat(codec: Codec, stat: Stat) -> bytes:
    out: list[Buffer] = []
    codec.write(stat, out)
    raw = b"".join(out)
    if len(raw) > STRING_MAX - 2:
        raise WireError(f"stat: expected at most {STRING_MAX - 2} bytes, found {len(raw)}")
    return _U16.pack(len(raw)) + raw


def _allowed(kind: int, dialect: Dialect) -> bool:
    if dialect is Dialect.LINUX:
        return kind not in _BASE_ONLY
    return kind >= 100


_STATS = {d: _build(Stat, d is not Dialect.BASE, None) for d in Dialect}
_CODECS: dict[Dialect, dict[int, Codec]] = {
    d: {k: _build(c, d is not Dialect.BASE, _STATS[d]) for k, c in TYPES.items() if _allowed(k, d)}
    for d in Dialect
}


def parse(kind: int, body: memoryview, dialect: Dialect) -> Message:
    """Read the fields of a message of type `kind`; data comes as views into `body`.

    Raises `WireError` for a type the dialect lacks, a short body, and trailing bytes.
    """
    codec = _CODECS[dialect].get(kind)
    if codec is None:
        raise WireError(f"type: expected a message of {dialect.value}, found {kind}")
    fixed = codec.fixed
    if fixed is not None and fixed.size == len(body):
        return codec.cls._make(fixed.unpack(body))  # type: ignore[no-any-return]
    if kind == 50 and len(body) == 4:  # Tfsync came without `datasync` before Linux 3.0
        body = memoryview(bytes(body) + bytes(4))
    message, used = codec.read(body, 0)
    if used != len(body):
        raise WireError(f"{codec.cls.__name__}: expected {used} bytes, found {len(body)}")
    return message  # type: ignore[no-any-return]


def emit(tag: int, message: Message, dialect: Dialect) -> list[Buffer]:
    """Make the pieces of a message, ready for writelines(); bulk data is a piece of its own."""
    kind = _TYPE_OF[type(message)]
    out: list[Buffer] = []
    _CODECS[dialect][kind].write(message, out)
    if kind in _BULK:
        head = b"".join(out[:-1])
        size = HEADER_SIZE + len(head) + len(out[-1])
        return [HEADER.pack(size, kind, tag) + head, out[-1]]
    body = b"".join(out)
    return [HEADER.pack(HEADER_SIZE + len(body), kind, tag) + body]


_BULK = frozenset({41, 117, 118})  # Rreaddir, Rread, Twrite: data is the last field


def parse_stat(view: memoryview, pos: int, dialect: Dialect) -> tuple[Stat, int]:
    """Read one entry of a 9P2000 or .u directory; return it and the position behind it."""
    return _read_stat(_STATS[dialect], view, pos)


def emit_stat(stat: Stat, dialect: Dialect) -> bytes:
    """Make one entry of a 9P2000 or .u directory."""
    return _write_stat(_STATS[dialect], stat)
