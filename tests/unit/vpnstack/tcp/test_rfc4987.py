"""RFC 4987 (SYN cookies), RFC 6056 (ports)."""

from __future__ import annotations

import random

import pytest
from tcp_trace import IRS, MASK, syn

from vpnstack.proto.tcp import cookie
from vpnstack.proto.tcp.block import Event
from vpnstack.proto.tcp.config import Config
from vpnstack.proto.tcp.ports import Ports
from vpnstack.proto.tcp.segment import ACK, SYN, Segment
from vpnstack.proto.tcp.state import State
from vpnstack.stack.synqueue import SynQueue

SECRET, FLOW = b"s" * 16, b"flow"
CONFIG = Config()


def ack_of(answer: Segment, **fields) -> Segment:
    """Return the peer's ACK of a SYN-ACK."""
    ts = None if answer.ts is None else (8, answer.ts[0])
    seg = Segment((IRS + 1) & MASK, (answer.seq + 1) & MASK, ACK, 500, ts=ts)
    return seg._replace(**fields)


@pytest.mark.parametrize("mss", [536, 1000, 1460, 8960])
@pytest.mark.parametrize("wscale", [-1, 0, 7, 14])
@pytest.mark.parametrize("sack", [True, False])
def test_a_cookie_brings_the_options_back(mss: int, wscale: int, sack: bool) -> None:
    offer = syn(mss=mss, wscale=wscale, sack_permitted=sack, ts=(7, 0))
    answer = cookie.answer(CONFIG, SECRET, FLOW, offer, 1000.0)
    assert answer.flags == SYN | ACK
    assert answer.ack == (IRS + 1) & MASK
    conn = cookie.restore(CONFIG, SECRET, FLOW, ack_of(answer, data=b"hello"), 1000.1)
    assert conn is not None
    assert conn.state is State.ESTABLISHED
    assert conn.next_event() is Event.CONNECTED
    assert bytes(conn.received()[0]) == b"hello"
    assert mss * 0.85 <= conn.peer_mss <= mss
    assert conn.sack_ok is sack
    assert conn.snd_wscale == max(wscale, 0)
    assert conn.snd_wnd == 500 << max(wscale, 0)
    conn.send(b"x")
    (seg,) = conn.transmit(1000.1)
    assert seg.seq == (answer.seq + 1) & MASK
    assert seg.ts is not None
    assert answer.ts is not None
    assert (seg.ts[0] - answer.ts[0]) & MASK < 1000


def test_without_timestamps_nothing_is_offered_that_could_not_be_kept() -> None:
    answer = cookie.answer(CONFIG, SECRET, FLOW, syn(), 1000.0)
    assert (answer.wscale, answer.sack_permitted, answer.ts) == (-1, False, None)
    conn = cookie.restore(CONFIG, SECRET, FLOW, ack_of(answer), 1000.1)
    assert conn is not None
    assert (conn.snd_wnd, conn.peer_mss) == (500, 900)


def test_a_wrong_or_old_cookie_is_refused() -> None:
    answer = cookie.answer(CONFIG, SECRET, FLOW, syn(), 1000.0)
    good = ack_of(answer)
    for bad in (good._replace(ack=good.ack ^ 1), good._replace(ack=good.ack ^ 1 << 25),
                good._replace(seq=good.seq + 1)):  # fmt: skip
        assert cookie.restore(CONFIG, SECRET, FLOW, bad, 1000.1) is None
    assert cookie.restore(CONFIG, SECRET, b"other", good, 1000.1) is None
    assert cookie.restore(CONFIG, b"t" * 16, FLOW, good, 1000.1) is None
    assert cookie.restore(CONFIG, SECRET, FLOW, good, 1000.0 + 3 * cookie.UNIT) is None


class Half:
    """A handshake under way."""

    def __init__(self) -> None:
        self.conn = type("Conn", (), {"state": State.SYN_RECEIVED})()


def test_a_full_queue_answers_by_cookie_and_ends_that_when_handshakes_end() -> None:
    queue = SynQueue(SECRET, limit=2)
    halves = [Half(), Half()]
    for half in halves:
        assert not queue.full()
        queue.add(half)
    assert queue.full()
    halves[0].conn.state = State.ESTABLISHED
    assert not queue.full()


def test_cookies_are_taken_only_while_they_may_be_about() -> None:
    queue = SynQueue(SECRET)
    answer = cookie.answer(CONFIG, SECRET, FLOW, syn(), 1000.0)
    assert queue.restore(CONFIG, FLOW, ack_of(answer), 1000.1) is None
    queue.answer(CONFIG, FLOW, syn(), 1000.0)
    assert queue.restore(CONFIG, FLOW, ack_of(answer), 1000.1) is not None
    assert (queue.cookies_out, queue.cookies_taken) == (1, 1)


def test_rfc6056_ports_differ_by_destination_and_count_up_within_one() -> None:
    ports = Ports(SECRET)
    first = [ports.choose(b"a", lambda port: True) for _ in range(3)]
    assert first == [first[0], first[0] + 1, first[0] + 2]
    assert len({Ports(SECRET).choose(bytes((i,)), lambda port: True) for i in range(50)}) == 50
    assert Ports(b"t" * 16).choose(b"a", lambda port: True) != first[0]


def test_rfc6056_ports_skip_what_is_taken_and_end() -> None:
    ports = Ports(SECRET, 100, 109)
    rng = random.Random(1)
    taken: set[int] = set()
    for _ in range(10):
        port = ports.choose(rng.randbytes(4), lambda port: port not in taken)
        assert 100 <= port <= 109
        assert port not in taken
        taken.add(port)
    assert ports.choose(b"x", lambda port: port not in taken) == 0
