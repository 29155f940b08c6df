"""parse(emit(x)) == x for every message of every dialect, and what parse refuses."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflow.p9 import dirent, wire
from dataflow.p9.const import Dialect
from dataflow.p9.messages import TYPES, Rerror, Rread, Stat, Tattach, Tread, Twalk
from dataflow.p9.tree import Qid

NUMBERS = {
    c: st.integers(0, (1 << bits) - 1) for c, bits in zip("BHIQ", (8, 16, 32, 64), strict=True)
}
TEXT = st.binary(max_size=40).map(lambda b: b.replace(b"\0", b"x").decode(errors="surrogateescape"))
QID = st.builds(Qid, NUMBERS["B"], NUMBERS["I"], NUMBERS["Q"])


def fields(cls, extended):
    from typing import get_type_hints

    hints = get_type_hints(cls, include_extras=True)
    for name in cls._fields:
        marks = hints[name].__metadata__
        if "extended" in marks and not extended:
            continue
        yield name, marks[0]


def strategy(cls, extended):
    kinds = {
        **NUMBERS,
        "str": TEXT,
        "data": st.binary(max_size=100),
        "names": st.lists(TEXT, max_size=20).map(tuple),
        "qid": QID,
        "qids": st.lists(QID, max_size=20).map(tuple),
    }
    if cls is not Stat:
        kinds["stat"] = strategy(Stat, extended)
    parts = {name: kinds[kind] for name, kind in fields(cls, extended)}
    return st.fixed_dictionaries(parts).map(lambda values: cls(**values))


CASES = [(dialect, kind) for dialect in Dialect for kind in TYPES if kind in wire._CODECS[dialect]]


@pytest.mark.parametrize(("dialect", "kind"), CASES)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_round_trip(dialect, kind, data):
    message = data.draw(strategy(TYPES[kind], dialect is not Dialect.BASE))
    raw = b"".join(wire.emit(77, message, dialect))
    assert int.from_bytes(raw[:4], "little") == len(raw)
    assert raw[4] == kind
    assert raw[5:7] == b"\x4d\0"
    assert wire.parse(kind, memoryview(raw)[7:], dialect) == message
    for bad in (raw[7:-1], raw[7:] + b"\0"):
        if kind == 50 and len(bad) == 4:
            continue
        with pytest.raises(wire.WireError):
            wire.parse(kind, memoryview(bad) if len(raw) > 7 else memoryview(b"\0"), dialect)


def test_plain_9p2000_lacks_the_extended_fields():
    message = Tattach(1, 2, "glenda", "/")
    base = b"".join(wire.emit(1, message, Dialect.BASE))
    assert len(b"".join(wire.emit(1, message, Dialect.UNIX))) == len(base) + 4
    assert len(b"".join(wire.emit(1, Rerror("no"), Dialect.BASE))) == 7 + 2 + 2


def test_tread_as_on_the_wire():
    raw = b"".join(wire.emit(3, Tread(1, 2, 3), Dialect.LINUX))
    assert raw.hex() == "17000000740300" + "01000000" + "0200000000000000" + "03000000"


def test_bulk_data_is_not_copied():
    data = bytearray(1 << 16)
    head, body = wire.emit(1, Rread(data), Dialect.LINUX)
    assert body is data
    assert len(head) == 11
    view = memoryview(head[7:] + body)
    assert wire.parse(117, view, Dialect.LINUX).data.obj is view.obj


def test_string_with_nul_is_refused():
    with pytest.raises(wire.WireError):
        wire.emit(1, Twalk(1, 2, ("a\0b",)), Dialect.LINUX)


def test_string_of_65536_bytes_is_refused():
    with pytest.raises(wire.WireError):
        wire.emit(1, Twalk(1, 2, ("a" * 65536,)), Dialect.LINUX)


def test_linux_messages_do_not_exist_in_9p2000():
    with pytest.raises(wire.WireError):
        wire.parse(12, memoryview(bytes(8)), Dialect.BASE)


def test_tfsync_without_datasync_is_taken():
    assert wire.parse(50, memoryview(b"\1\0\0\0"), Dialect.LINUX).datasync == 0


@given(st.lists(st.builds(dirent.Dirent, QID, NUMBERS["Q"], NUMBERS["B"], TEXT), max_size=5))
def test_dirents_round_trip(entries):
    raw = b"".join(map(dirent.emit, entries))
    assert dirent.parse(memoryview(raw)) == entries
    if raw:
        with pytest.raises(wire.WireError):
            dirent.parse(memoryview(raw)[:-1])
