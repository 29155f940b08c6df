"""virtio-9p under a driver: requests out, answers into chains, and nobody left waiting."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable

import p9_driver as p9
import pytest
from mmio_driver import ALL, LIVE, NO_EVENT_IDX, Bench
from p9_driver import Mount, Script, message, mount, rlerror, rversion, tversion

from hypervisor.devices import p9exchange
from hypervisor.devices.p9 import P9, TAG_MAX
from hypervisor.devices.p9wire import NOTAG, Answers, Sink
from hypervisor.devices.queue import Chain
from hypervisor.devices.registers import Register
from hypervisor.errors import PeerError, UsageError

MakeBench = Callable[..., Bench]


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def guest(bench: MakeBench, script: Script) -> Mount:
    return mount(bench(P9("data", script)))


def test_the_configuration_is_the_tag(bench: MakeBench, script: Script) -> None:
    device = bench(P9("dätå", script))
    name = "dätå".encode()
    found = bytes(device.read(Register.CONFIG + i, 1) for i in range(2 + len(name)))
    assert found == struct.pack("<H", len(name)) + name
    assert device.offered() & 1
    assert script.talks == []


@pytest.mark.parametrize("tag", ["", "x" * (TAG_MAX + 1), "a\0b"])
def test_a_tag_that_cannot_be_mounted(script: Script, tag: str) -> None:
    with pytest.raises(UsageError, match="expected a name of 1 to 255 octets"):
        P9(tag, script)


@pytest.mark.parametrize("features", [ALL, NO_EVENT_IDX])
def test_requests_and_answers(bench: MakeBench, script: Script, features: int) -> None:
    guest = Mount.start(bench(P9("data", script)), features)
    assert guest.call(tversion()) == rversion()
    assert script.got == [tversion()]
    read = message(p9.TREAD, 1, b"read this")
    head = guest.post(read, 11, 5, 5, cuts=(3, 7))
    assert script.got[-1] == read
    assert guest.take() == []
    script.answer(message(p9.RREAD, 1, b"\4\0\0\0good"))
    assert guest.take() == [(head, message(p9.RREAD, 1, b"\4\0\0\0good"))]
    assert guest.bench.interrupts() >= 1
    assert guest.device.statistics().requests == 2


def test_answers_in_any_order_and_any_pieces(guest: Mount, script: Script) -> None:
    heads = [guest.post(message(p9.TREAD, tag)) for tag in range(5)]
    answers = [message(p9.RREAD, tag, bytes([tag]) * tag * 9) for tag in (3, 0, 4, 1, 2)]
    stream = b"".join(answers)
    for size in (1, 2, 5, 30, 1000):
        part, stream = stream[:size], stream[size:]
        script.answer(part)
    assert guest.take() == list(zip([heads[i] for i in (3, 0, 4, 1, 2)], answers, strict=True))


def test_a_second_tversion_is_for_the_server(guest: Mount, script: Script) -> None:
    assert guest.call(tversion()) == rversion()
    assert len(script.talks) == 1, "a second Tversion is the server's"


def test_an_answer_larger_than_its_room(guest: Mount, script: Script) -> None:
    head = guest.post(message(p9.TREAD, 7), 11)
    script.answer(message(p9.RREAD, 7, bytes(5)))
    assert guest.take() == [(head, rlerror(7, errno.EMSGSIZE))]
    assert guest.device.statistics().oversized == 1
    exact = guest.post(message(p9.TREAD, 7), 11)
    script.answer(message(p9.RREAD, 7, bytes(4)))
    assert guest.take() == [(exact, message(p9.RREAD, 7, bytes(4)))]


@pytest.mark.parametrize(
    ("data", "room", "why"),
    [
        (struct.pack("<IBH", 99, p9.TREAD, 1), 64, "expected 99"),
        (struct.pack("<IBH", 6, p9.TREAD, 1), 64, "expected 6"),
        (struct.pack("<IBH", 0xFFFFFFFF, p9.TREAD, 1), 64, "expected 4294967295"),
        (b"\6\0\0\0\0\0", 64, "request of 6 octets"),
        (message(p9.TREAD, 1), 10, "room of 10 octets"),
    ],
)
def test_a_chain_that_is_no_request(
    guest: Mount, script: Script, caplog: pytest.LogCaptureFixture, data: bytes, room: int, why: str
) -> None:
    waiting = guest.post(message(p9.TREAD, 9))
    guest.post(data, room)
    assert guest.bench.needs_reset
    assert why in caplog.text
    assert len(script.got) == 2
    guest.bench.turn()
    assert script.talks[0].closed
    script.answer(message(p9.RREAD, 9))
    assert guest.take() == [], waiting
    assert guest.bench.start().status == LIVE
    assert Mount(guest.bench).call(tversion()) == rversion()
    assert len(script.talks) == 2


@pytest.mark.parametrize("only", ["readable", "writable"])
def test_a_chain_of_one_part(guest: Mount, only: str) -> None:
    part = guest.bench.readable(tversion()) if only == "readable" else guest.bench.writable(64)
    guest.bench.rings[0].add(part)
    guest.bench.kick(0)
    assert guest.bench.needs_reset


def test_a_request_larger_than_any(guest: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(p9exchange, "MESSAGE_MAX", 100)
    guest.post(message(p9.TREAD, 1, bytes(93)))
    assert not guest.bench.needs_reset
    guest.post(message(p9.TREAD, 2, bytes(94)))
    assert guest.bench.needs_reset


def test_what_lies_behind_a_message_is_ignored(guest: Mount, script: Script) -> None:
    guest.post(message(p9.TREAD, 1, b"all") + b"more")
    assert script.got[-1] == message(p9.TREAD, 1, b"all")


def test_a_tag_in_use(guest: Mount, script: Script) -> None:
    first = guest.post(message(p9.TREAD, 1))
    second = guest.post(message(p9.TREAD, 1))
    assert guest.take() == [(second, rlerror(1, errno.EINVAL))]
    assert len(script.got) == 2
    script.answer(message(p9.RREAD, 1))
    assert [head for head, _ in guest.take()] == [first]


def flush(tag: int, old: int) -> bytes:
    return message(p9.TFLUSH, tag, struct.pack("<H", old))


def test_a_flushed_request_goes_back_empty(guest: Mount, script: Script) -> None:
    read = guest.post(message(p9.TREAD, 1))
    other = guest.post(flush(2, 1))
    assert guest.take() == []
    script.answer(message(p9.RFLUSH, 2))
    assert guest.take() == [(read, b""), (other, message(p9.RFLUSH, 2))]


def test_a_flush_that_came_too_late(guest: Mount, script: Script) -> None:
    read = guest.post(message(p9.TREAD, 1))
    guest.post(flush(2, 1))
    script.answer(message(p9.RREAD, 1, b"done"))
    assert guest.take() == [(read, message(p9.RREAD, 1, b"done"))]
    again = guest.post(message(p9.TREAD, 1))  # the tag serves another request
    script.answer(message(p9.RFLUSH, 2))
    assert len(guest.take()) == 1
    script.answer(message(p9.RREAD, 1))
    assert guest.take() == [(again, message(p9.RREAD, 1))]


def test_a_new_session_gives_back_older_requests(guest: Mount) -> None:
    old = [guest.post(message(p9.TREAD, tag)) for tag in (1, 2)]
    new = guest.post(tversion())
    assert guest.take() == [(old[0], b""), (old[1], b""), (new, rversion())]


def test_an_answer_to_nobody(guest: Mount, script: Script) -> None:
    script.answer(message(p9.RREAD, 77, bytes(300)))
    assert guest.device.statistics().stray == 1
    head = guest.post(message(p9.TREAD, 1))
    script.answer(message(p9.RREAD, 1))
    assert [found for found, _ in guest.take()] == [head]


def test_a_server_that_is_lost(
    guest: Mount, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    heads = [guest.post(message(p9.TREAD, tag)) for tag in (1, 2)]
    script.client.lost("it went away")
    assert guest.take() == [(heads[i], rlerror(i + 1, errno.EIO)) for i in (0, 1)]
    assert "it went away" in caplog.text
    script.client.throttle(True)  # late, too
    assert guest.call(message(p9.TREAD, 3)) == rlerror(3, errno.EIO)
    script.answer(message(p9.RREAD, 1))  # late, of the lost one
    assert guest.call(tversion()) == rversion()
    guest.bench.turn()
    assert [talk.closed for talk in script.talks] == [True, False]
    assert guest.device.statistics().lost == 1


def test_an_answer_with_an_impossible_size(guest: Mount, script: Script) -> None:
    head = guest.post(message(p9.TREAD, 1))
    script.answer(struct.pack("<IBH", 6, p9.RREAD, 1))
    assert guest.take() == [(head, rlerror(1, errno.EIO))]


@pytest.mark.parametrize(("version", "tail"), [("9P2000", b""), ("9P2000.u", b"\5\0\0\0")])
def test_errors_in_the_older_dialects(
    bench: MakeBench, script: Script, version: str, tail: bytes
) -> None:
    guest = Mount.start(bench(P9("data", script)))
    guest.call(tversion(version))
    script.client.lost("it went away")
    text = b"Input/output error"
    body = struct.pack("<H", len(text)) + text + tail
    assert guest.call(message(p9.TREAD, 1)) == message(107, 1, body)
    assert guest.call(message(p9.TREAD, 1), 11) == rlerror(1, errno.EIO), "it must fit"


def test_a_server_with_a_defect(
    bench: MakeBench, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    guest = mount(bench(P9("data", script)))
    script.talks[0].request = 0  # type: ignore[method-assign,assignment]
    assert guest.call(message(p9.TREAD, 1)) == rlerror(1, errno.EIO)
    assert "the 9P server failed" in caplog.text


def test_a_throttled_server_leaves_requests_in_the_ring(guest: Mount, script: Script) -> None:
    script.client.throttle(True)
    for tag in range(3):
        guest.post(message(p9.TREAD, tag))
    assert len(script.got) == 1
    script.client.throttle(False)
    guest.bench.turn()
    assert [m[5] for m in script.got[1:]] == [0, 1, 2]


def test_a_reset_forgets_what_is_in_flight(guest: Mount, script: Script) -> None:
    guest.post(message(p9.TREAD, 1))
    before = bytes(guest.bench.guest.map)
    later = guest.bench.write(Register.STATUS, 0)
    assert later is not None
    assert not later.done()
    script.answer(message(p9.RREAD, 1, b"late"))
    assert bytes(guest.bench.guest.map) == before
    guest.bench.loop.run_until_complete(later)
    assert script.talks[0].closed
    guest.bench.turn()
    assert guest.bench.start().status == LIVE
    assert Mount(guest.bench).call(tversion()) == rversion()


def test_a_queue_that_is_taken_back(guest: Mount, script: Script) -> None:
    guest.post(message(p9.TREAD, 1))
    before = bytes(guest.bench.guest.map)
    guest.bench.write(Register.QUEUE_SEL, 0)
    guest.bench.write(Register.QUEUE_READY, 0)
    script.answer(message(p9.RREAD, 1, b"late"))
    script.client.lost("later still")
    assert bytes(guest.bench.guest.map) == before


def test_close_with_requests_in_flight(guest: Mount, script: Script) -> None:
    guest.post(message(p9.TREAD, 1))
    guest.bench.transport.close()
    guest.bench.loop.run_until_complete(guest.device.close())
    assert script.talks[0].closed


def test_answers_are_poured_piece_by_piece() -> None:
    rooms = [bytearray(1), bytearray(9), bytearray(3)]
    sink = Sink(Chain(0, [], [memoryview(each) for each in rooms]))
    ended: list[tuple[int, int, int]] = []
    answers = Answers(lambda *header: sink, lambda *header: ended.append(header))
    data = message(p9.RREAD, NOTAG, b"abcdef")
    for octet in data:
        assert ended == []
        answers.feed(bytes([octet]))
    assert ended == [(13, p9.RREAD, NOTAG)]
    assert b"".join(rooms) == data
    assert sink.written == 13
    with pytest.raises(PeerError, match="answer of 0 octets"):
        answers.feed(bytes(7))
