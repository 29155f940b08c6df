"""The FUSE protocol: layouts of include/uapi/linux/fuse.h, byte by byte where it matters."""

import struct

import pytest

from dataflow.fuse import wire
from dataflow.fuse.const import Init, Op
from dataflow.p9.tree import Attr


def request(opcode: int, body: bytes, *, size: int | None = None, nodeid: int = 7) -> bytes:
    length = 40 + len(body) if size is None else size
    return struct.pack("=IIQQIIII", length, opcode, 99, nodeid, 1, 2, 3, 0) + body


def test_a_request() -> None:
    found = wire.parse(request(Op.LOOKUP, b"name\0"))
    assert found[:6] == (Op.LOOKUP, 99, 7, 1, 2, 3)
    assert wire.names(found.body, 1) == ["name"]


@pytest.mark.parametrize("data", [b"", request(1, b"")[:39], request(1, b"x", size=40)])
def test_a_request_of_the_wrong_length(data: bytes) -> None:
    with pytest.raises(wire.WireError, match="expected 40"):
        wire.parse(data)


def test_names_that_are_no_utf8_and_names_that_are_missing() -> None:
    assert wire.names(memoryview(b"\xff\0to\0"), 2) == ["\udcff", "to"]
    with pytest.raises(wire.WireError, match="expected 2, found 1"):
        wire.names(memoryview(b"one\0"), 2)


def test_fixed_fields_that_are_cut() -> None:
    with pytest.raises(wire.WireError, match="expected 40 bytes, found 39"):
        wire.take(wire.READ, memoryview(bytes(39)))


def test_forgets() -> None:
    body = struct.pack("=IIQQQQ", 2, 0, 5, 1, 6, 3)
    assert wire.forgets(memoryview(body)) == [(5, 1), (6, 3)]
    with pytest.raises(wire.WireError, match="expected 2, found 1"):
        wire.forgets(memoryview(body[:-1]))


def test_answers_carry_their_length_and_negative_errors() -> None:
    head, body = wire.answer(99, [b"abc"])
    assert struct.unpack("=IiQ", head) == (19, 0, 99)
    assert body == b"abc"
    assert struct.unpack("=IiQ", wire.answer(99, [], 2)[0]) == (16, -2, 99)


def test_init_agrees_on_what_both_have() -> None:
    asked = wire.init_in(memoryview(struct.pack("=IIII", 7, 40, 65536, 0xFFFF)))
    out = wire.init_out(asked, Init.POSIX_LOCKS | Init.MAX_PAGES, 1 << 20)
    assert len(out) == 64
    assert struct.unpack_from("=IIII", out) == (7, 31, 65536, Init.POSIX_LOCKS)
    assert struct.unpack_from("=I", out, 20) == (1 << 20,)
    assert struct.unpack_from("=H", out, 28) == (256,)


def test_the_sizes_of_the_structs() -> None:
    attr = Attr(0o100644, 1000, mtime_ns=3_000_000_007)
    assert len(wire.attr_out(1, attr, 0)) == 104
    entry = wire.entry_out(wire.Entry(2, 55, attr, 3600))
    assert len(entry) == len(wire.NO_ENTRY) == 128
    assert struct.unpack_from("=QQQQ", entry) == (2, 0, 3600, 3600)
    ino, size, blocks, _, mtime = struct.unpack_from("=QQQQQ", entry, 40)
    assert (ino, size, blocks, mtime) == (55, 1000, 2, 3)
    assert len(wire.open_out(1, 2)) == 16
    assert len(wire.statfs_out(1, 2, 3, 4, 5, 6, 7)) == 80
    assert len(wire.lock_out(0, 1, 2, 3)) == 24
    assert wire.SETATTR.size == 88


@pytest.mark.parametrize("name", ["a", "12345678", "longer than that"])
def test_directory_entries_are_padded_to_eight(name: str) -> None:
    raw = wire.dirent(5, 1, 4, name)
    assert len(raw) % 8 == 0
    assert struct.unpack_from("=QQII", raw) == (5, 1, len(name), 4)
    assert raw[24:].rstrip(b"\0") == name.encode()
