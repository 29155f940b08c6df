"""RFC 5961: blind resets, SYNs and data are challenged, ten times a second at most."""

from __future__ import annotations

import pytest
from tcp_trace import established

from vpnstack.proto.tcp.block import Event
from vpnstack.proto.tcp.state import State


def test_3_2_the_exact_reset_ends_the_connection() -> None:
    t = established()
    t.inject("R")
    assert t.conn.state is State.CLOSED
    assert t.conn.error is Event.RESET


@pytest.mark.parametrize(("seq", "answer"), [(2, [". 1:1 ack 1"]), (60_000, [". 1:1 ack 1"]),
                                             (10_000_000, []), (-5, [])])  # fmt: skip
def test_3_2_another_in_the_window_is_challenged_outside_dropped(
    seq: int, answer: list[str]
) -> None:
    t = established()
    t.inject("R", seq=seq)
    assert t.trace() == answer
    assert t.conn.state is State.ESTABLISHED


@pytest.mark.parametrize("seq", [1, 500, 10_000_000])
def test_4_2_a_syn_is_challenged_wherever_it_stands(seq: int) -> None:
    t = established()
    t.inject("S", seq=seq)
    assert t.trace() == [". 1:1 ack 1"]
    assert t.conn.state is State.ESTABLISHED


@pytest.mark.parametrize("ack", [2, 1_000_000, -200_000])
def test_5_2_data_with_an_impossible_ack_is_challenged_and_not_taken(ack: int) -> None:
    t = established()
    t.inject(".", ack=ack, data=b"injected")
    assert t.trace() == [". 1:1 ack 1"]
    assert t.conn.rcv_queued == 0


def test_7_challenges_are_limited_to_ten_a_second() -> None:
    t = established()
    sent = 0
    for _ in range(50):
        t.inject("S")
        sent += len(t.trace())
    assert sent == 10
    t.wait(1.0)
    t.inject("S")
    assert len(t.trace()) == 1
