"""Listeners: bounded queues, overflow, children that end early."""

from __future__ import annotations

from tcp_trace import IRS, ISS, Trace, syn

from vpnstack.proto.tcp.config import Config
from vpnstack.proto.tcp.listener import Listener
from vpnstack.proto.tcp.state import State


def test_accept_in_order() -> None:
    listener = Listener(Config(), backlog=2)
    first = listener.on_syn(syn(), 0.0, ISS)
    second = listener.on_syn(syn(), 0.0, ISS)
    assert first is not None
    assert second is not None
    assert listener.on_syn(syn(), 0.0, ISS) is None
    assert listener.accept() is None
    for child in (second, first):
        t = Trace(child)
        t.trace()
        t.inject(".")
        listener.established(child)
    assert listener.on_syn(syn(), 0.0, ISS) is None  # the queue of accept is full as well
    assert listener.accept() is second
    assert listener.accept() is first
    counts = listener.statistics()
    assert (counts.opened, counts.accepted, counts.overflowed, counts.pending) == (2, 2, 2, 0)


def test_child_that_ends_makes_room() -> None:
    listener = Listener(Config(), backlog=1)
    child = listener.on_syn(syn(), 0.0, ISS)
    assert child is not None
    child.receive(syn()._replace(flags=4, seq=IRS + 1), 0.0)
    listener.closed(child)
    assert listener.on_syn(syn(), 0.0, ISS) is not None


def test_close_resets_the_children() -> None:
    listener = Listener(Config())
    child = listener.on_syn(syn(), 0.0, ISS, hold=True)
    assert child is not None
    assert listener.close() == [child]
    assert child.state is State.CLOSED
    assert listener.accept() is None
