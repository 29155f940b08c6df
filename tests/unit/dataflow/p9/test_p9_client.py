"""The client machine against hand-made answers, and what it refuses from a server."""

import errno

import pytest
from p9pair import pack, unpack

from dataflow.p9.client import ClientSession, Done, Ready
from dataflow.p9.const import NOTAG, Dialect
from dataflow.p9.errors import P9Error, ProtocolError, UsageError
from dataflow.p9.messages import (
    Rclunk,
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


def ready(**options):
    c = ClientSession(**options)
    c.data_to_send()
    c.receive(pack(NOTAG, Rversion(8192, "9P2000.L")))
    assert c.next_event() == Ready(Dialect.LINUX, 8192)
    return c


def sent(c):
    return unpack(b"".join(c.data_to_send()))


def test_hello():
    c = ClientSession(msize=65536)
    assert sent(c) == [(NOTAG, Tversion(65536, "9P2000.L"))]
    with pytest.raises(UsageError):
        c.call(Tclunk(1))


@pytest.mark.parametrize(
    "answer", [Rversion(8192, "unknown"), Rversion(1 << 30, "9P2000.L"), Rversion(10, "9P2000.L"),
               Rlerror(5), Rclunk()]
)  # fmt: skip
def test_bad_version_ends_the_connection(answer):
    c = ClientSession()
    with pytest.raises(ProtocolError):
        c.receive(pack(NOTAG, answer))


def test_call_and_answer():
    c = ready()
    call = c.call(Tread(1, 0, 10))
    c.receive(pack(call.tag, Rread(b"data")))
    assert c.next_event() == Done(call)
    assert bytes(call.answer.data) == b"data"
    assert c.room == 256


def test_error_answer():
    c = ready()
    call = c.call(Tclunk(1))
    c.receive(pack(call.tag, Rlerror(errno.ENOENT)))
    assert isinstance(call.answer, P9Error)
    assert call.answer.errno == errno.ENOENT


def test_answers_in_any_order():
    c = ready()
    a, b = c.call(Tclunk(1)), c.call(Tread(2, 0, 1))
    c.receive(pack(b.tag, Rread(b"x")) + pack(a.tag, Rclunk()))
    assert [c.next_event(), c.next_event()] == [Done(b), Done(a)]


def test_flushed_call_keeps_its_tag_until_rflush():
    c = ready(calls_max=2)
    call = c.call(Tread(1, 0, 1))
    c.data_to_send()
    c.flush(call)
    c.flush(call)
    [(tag, message)] = sent(c)
    assert message == Tflush(call.tag)
    c.receive(pack(call.tag, Rread(b"late")))
    assert c.next_event() is None
    assert c.room == 1
    c.receive(pack(tag, Rflush()))
    assert c.next_event() == Done(call)
    assert bytes(call.answer.data) == b"late"
    assert c.room == 2


def test_flush_without_answer():
    c = ready()
    call = c.call(Tread(1, 0, 1))
    c.flush(call)
    c.receive(pack(call.flush.tag, Rflush()))
    assert c.next_event() == Done(call)
    assert call.answer is None


def test_room_is_bounded():
    c = ready(calls_max=1)
    c.call(Tclunk(1))
    with pytest.raises(UsageError):
        c.call(Tclunk(2))


def test_call_beyond_msize_is_misuse_and_leaks_no_tag():
    c = ready(calls_max=1)
    for _ in range(5):
        with pytest.raises(UsageError):
            c.call(Twrite(1, 0, bytes(9000)))
    assert c.room == 1
    c.call(Tclunk(1))


@pytest.mark.parametrize(("tag", "message"), [(99, Rclunk()), (0, Rflush()), (0, Tclunk(1))])
def test_wrong_answers_end_the_connection(tag, message):
    c = ready()
    c.call(Tclunk(1))
    with pytest.raises(ProtocolError):
        c.receive(pack(tag, message))


def test_second_answer_ends_the_connection():
    c = ready()
    call = c.call(Tclunk(1))
    with pytest.raises(ProtocolError):
        c.receive(pack(call.tag, Rclunk()) * 2)
