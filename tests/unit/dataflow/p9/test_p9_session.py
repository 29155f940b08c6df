"""The server's session machine: versions, tags, flushes, framing."""

import errno

import pytest
from p9pair import Wire, pack

from dataflow.p9.const import NOTAG, Dialect
from dataflow.p9.errors import P9Error, ProtocolError, UsageError
from dataflow.p9.messages import (
    Rclunk,
    Rerror,
    Rflush,
    Rlerror,
    Rread,
    Rversion,
    Tclunk,
    Tflush,
    Tread,
    Tversion,
    Twrite,
)
from dataflow.p9.server import Cancel, RequestState, Reset


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("9P2000.L", "9P2000.L"),
        ("9P2000.u", "9P2000.u"),
        ("9P2000", "9P2000"),
        ("9P2000.x", "9P2000"),
        ("9P1999", "unknown"),
        ("", "unknown"),
    ],
)
def test_version(asked, told):
    w = Wire(hello=False)
    w.send(NOTAG, Tversion(8192, asked))
    assert w.answers() == [(NOTAG, Rversion(8192, told))]
    assert bool(w.events()) == (told != "unknown")


def test_msize_is_clamped_to_ours():
    w = Wire(hello=False, msize_max=16384)
    w.send(NOTAG, Tversion(0xFFFFFFFF, "9P2000.L"))
    assert w.answers() == [(NOTAG, Rversion(16384, "9P2000.L"))]
    assert w.events() == [Reset(Dialect.LINUX, 16384)]


def test_requests_before_version_are_refused():
    w = Wire(hello=False)
    w.send(1, Tclunk(1))
    assert isinstance(w.answers(Dialect.BASE)[0][1], Rerror)
    assert w.events() == []


def test_request_and_reply():
    w = Wire()
    w.send(5, Tclunk(1))
    [request] = w.events()
    assert request.message == Tclunk(1)
    w.session.reply(request, Rclunk())
    assert w.answers() == [(5, Rclunk())]
    assert w.session.requests_len == 0


def test_bytes_one_at_a_time():
    w = Wire()
    for byte in pack(5, Twrite(1, 2, b"x" * 9000)):
        w.session.receive(bytes([byte]))
    [request] = w.events()
    assert request.message == Twrite(1, 2, b"x" * 9000)


def test_large_write_is_not_copied_and_survives_the_next_receive():
    w = Wire()
    w.session.receive(pack(5, Twrite(1, 0, b"a" * 60000)) + pack(6, Twrite(1, 0, b"b" * 60000)))
    w.session.receive(pack(7, Twrite(1, 0, b"c" * 50)))
    first, second, third = w.events()
    assert isinstance(first.message.data, memoryview)
    assert bytes(first.message.data) == b"a" * 60000
    assert bytes(second.message.data) == b"b" * 60000
    assert third.message.data == b"c" * 50


def test_flush_of_unknown_tag_is_answered():
    w = Wire()
    w.send(1, Tflush(99))
    assert w.answers() == [(1, Rflush())]


def test_flush_cancels_and_is_answered_after_the_request_ended():
    w = Wire()
    w.send(1, Tread(1, 0, 10))
    w.send(2, Tflush(1))
    request, cancel = w.events()
    assert cancel == Cancel(request)
    assert w.answers() == []
    w.session.drop(request)
    assert w.answers() == [(2, Rflush())]


def test_answer_that_won_the_race_precedes_rflush():
    w = Wire()
    w.send(1, Tread(1, 0, 10))
    w.send(2, Tflush(1))
    request = w.events()[0]
    w.session.reply(request, Rread(b"x"))
    assert w.answers() == [(1, Rread(b"x")), (2, Rflush())]


def test_several_flushes_of_one_request_in_order():
    w = Wire()
    w.send(1, Tread(1, 0, 10))
    for tag in (2, 3):
        w.send(tag, Tflush(1))
    w.send(4, Tflush(3))
    events = w.events()
    assert len(events) == 2
    w.session.drop(events[0])
    assert w.answers() == [(2, Rflush()), (3, Rflush()), (4, Rflush())]


def test_clunk_is_not_cancelled_by_flush():
    w = Wire()
    w.send(1, Tclunk(1))
    w.send(2, Tflush(1))
    [request] = w.events()
    w.session.reply(request, Rclunk())
    assert w.answers() == [(1, Rclunk()), (2, Rflush())]


def test_tag_is_free_after_its_answer():
    w = Wire()
    for _ in range(3):
        w.send(1, Tclunk(1))
        [request] = w.events()
        w.session.reply(request, Rclunk())
    assert w.answers() == [(1, Rclunk())] * 3


def test_version_disowns_what_runs():
    w = Wire()
    w.send(1, Tread(1, 0, 10))
    [old] = w.events()
    w.send(NOTAG, Tversion(8192, "9P2000"))
    assert [type(e) for e in w.events()] == [Reset]
    w.answers()
    w.session.reply(old, Rread(b"late"))
    w.session.fail(old, P9Error(5))
    assert w.answers() == []
    assert old.state is RequestState.DISOWNED


def test_answer_beyond_msize_becomes_an_error():
    w = Wire()
    w.send(1, Tread(1, 0, 10))
    [request] = w.events()
    w.session.reply(request, Rread(bytes(65536)))
    assert w.answers() == [(1, Rlerror(errno.EMSGSIZE))]


def test_drop_without_flush_is_misuse():
    w = Wire()
    w.send(1, Tread(1, 0, 10))
    with pytest.raises(UsageError):
        w.session.drop(w.events()[0])


def test_errors_carry_text_in_9p2000_and_numbers_in_u():
    for dialect, answer in (
        (Dialect.BASE, Rerror("no way")),
        (Dialect.UNIX, Rerror("no way", errno.EPERM)),
    ):
        w = Wire(dialect)
        w.send(1, Tclunk(1))
        w.session.fail(w.events()[0], P9Error(errno.EPERM, "no way"))
        assert w.answers() == [(1, answer)]


def test_statistics():
    w = Wire()
    w.send(1, Tclunk(1))
    w.send(1, Tclunk(2))
    s = w.session.statistics()
    assert (s.requests, s.refused) == (3, 1)


# Issue: "Malformed 9P ...: an error for that client only".


@pytest.mark.parametrize("size", [0, 6, 65537, 0xFFFFFFFF])
def test_bad_size_ends_the_connection(size):
    w = Wire()
    with pytest.raises(ProtocolError):
        w.session.receive(size.to_bytes(4, "little") + b"\x78\1\0\0\0\0\0")


def test_short_message_is_an_error():
    w = Wire()
    w.session.receive(b"\x0a\0\0\0\x78\1\0\0\0\0")
    assert w.answers() == [(1, Rlerror(errno.EBADMSG))]


def test_long_message_is_an_error():
    w = Wire()
    w.session.receive(b"\x0c\0\0\0\x78\1\0\0\0\0\0\0")
    assert w.answers() == [(1, Rlerror(errno.EBADMSG))]


@pytest.mark.parametrize("kind", [0, 6, 106, 121, 117, 255, 7, 107])
def test_unknown_and_r_messages_are_errors(kind):
    w = Wire()
    w.session.receive(b"\x0b\0\0\0" + bytes([kind]) + b"\1\0\0\0\0\0")
    assert w.answers() == [(1, Rlerror(errno.EBADMSG))]
    assert w.events() == []


def test_duplicate_tag_is_an_error():
    w = Wire()
    w.send(1, Tread(1, 0, 1))
    w.send(1, Tread(1, 0, 1))
    assert w.answers() == [(1, Rlerror(errno.EINVAL))]
    assert len(w.events()) == 1


def test_too_many_requests_are_refused_but_flushes_still_pass():
    w = Wire(tags_max=4)
    for tag in range(5):
        w.send(tag, Tread(1, 0, 1))
    assert w.answers() == [(4, Rlerror(errno.EAGAIN))]
    w.send(9, Tflush(0))
    assert isinstance(w.events()[-1], Cancel)


@pytest.mark.parametrize("msize", [0, 1, 4095])
def test_tiny_msize_is_an_error(msize):
    w = Wire(hello=False)
    w.send(NOTAG, Tversion(msize, "9P2000.L"))
    assert w.answers() == [(NOTAG, Rlerror(errno.EINVAL))]
    assert w.session.dialect is None
    assert w.events() == []


def test_string_length_beyond_the_message_is_an_error():
    w = Wire()
    w.session.receive(b"\x0f\0\0\0\x6e\1\0\0\0\0\0\1\0\0\0")  # Twalk cut short
    assert w.answers() == [(1, Rlerror(errno.EBADMSG))]


def test_data_count_beyond_the_message_is_an_error():
    raw = bytearray(pack(1, Twrite(1, 0, b"abcd")))
    raw[19:23] = b"\xff\xff\xff\xff"
    w = Wire()
    w.session.receive(raw)
    assert w.answers() == [(1, Rlerror(errno.EBADMSG))]
