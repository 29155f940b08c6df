"""The front-end machine by its messages: what back-ends see, and answers that are none."""

from __future__ import annotations

import pytest

from hypervisor.errors import PeerError
from hypervisor.queue.layout import Feature
from hypervisor.queue.state import QueueState, Region
from hypervisor.vhost import messages as wire
from hypervisor.vhost.backend import Backend
from hypervisor.vhost.frontend import (
    ANSWER_WITHIN,
    Action,
    Frontend,
    Known,
    Plan,
    Ring,
    Send,
    Started,
    State,
    Stopped,
)
from hypervisor.vhost.messages import HEADER, Protocol, Request

FEATURES = int(Feature.VERSION_1 | Feature.NET_MRG_RXBUF | Feature.NET_MTU)
REGION = Region(0, 1 << 20, 0, 0)


def plan(features: int = FEATURES, mtu: int = 0) -> Plan:
    rings = tuple(
        Ring(i, QueueState(8, 0x1000, 0x2000, 0x3000, features, last_avail=3), 10 + i, 20, 30)
        for i in range(2)
    )
    return Plan(features, (REGION,), 9, rings, mtu)


def requests(actions: list[Action]) -> list[Request]:
    return [Request(HEADER.unpack_from(a.data)[0]) for a in actions if isinstance(a, Send)]


def answer(front: Frontend, request: Request, payload: bytes, now: float = 0.0) -> list[Action]:
    header = wire.parse_reply_header(wire.emit(request, payload, wire.REPLY)[: HEADER.size])
    return front.receive(header, payload, now)


def u64(value: int) -> bytes:
    return wire.emit_u64(value)


def ready(protocol: int = 0, config_len: int = 0) -> Frontend:
    front = Frontend(config_len=config_len)
    front.connected(0.0)
    answer(front, Request.GET_FEATURES, u64(FEATURES | Feature.VHOST_PROTOCOL_FEATURES))
    answer(front, Request.GET_PROTOCOL_FEATURES, u64(protocol))
    return front


def running() -> Frontend:
    front = ready()
    front.start(plan(), 0.0)
    assert answer(front, Request.GET_FEATURES, u64(FEATURES)) == [Started()]
    return front


def test_asking() -> None:
    front = Frontend(config_len=60)
    assert requests(front.connected(0.0)) == [Request.GET_FEATURES]
    offered = FEATURES | Feature.VHOST_PROTOCOL_FEATURES
    said = answer(front, Request.GET_FEATURES, u64(offered))
    assert requests(said) == [Request.GET_PROTOCOL_FEATURES]
    said = answer(front, Request.GET_PROTOCOL_FEATURES, u64(0xFFFF))
    assert requests(said) == [
        Request.SET_PROTOCOL_FEATURES,
        Request.GET_QUEUE_NUM,
        Request.SET_OWNER,
        Request.GET_CONFIG,
    ]
    assert front.protocol == Protocol.MQ | Protocol.REPLY_ACK | Protocol.MTU | Protocol.CONFIG
    assert answer(front, Request.GET_QUEUE_NUM, u64(4)) == []
    space = bytes(range(60))
    said = answer(front, Request.GET_CONFIG, wire.emit_config(wire.ConfigSpace(0, 0, space)))
    assert said == [Known(FEATURES, 4, space)]
    assert front.state is State.READY
    assert front.deadline() is None


def test_a_back_end_without_protocol_features() -> None:
    front = Frontend()
    front.connected(0.0)
    said = answer(front, Request.GET_FEATURES, u64(FEATURES))
    assert requests(said) == [Request.SET_OWNER]
    assert said[1:] == [Known(FEATURES, 0, b"")]
    assert Request.SET_VRING_ENABLE not in requests(front.start(plan(), 0.0))


def test_starting() -> None:
    front = ready(Protocol.REPLY_ACK | Protocol.MTU)
    said = front.start(plan(mtu=1500), 1.0)
    ring = [
        Request.SET_VRING_NUM,
        Request.SET_VRING_BASE,
        Request.SET_VRING_ADDR,
        Request.SET_VRING_ERR,
        Request.SET_VRING_KICK,
        Request.SET_VRING_CALL,
    ]
    assert requests(said) == [
        Request.SET_FEATURES,
        Request.NET_SET_MTU,
        Request.SET_MEM_TABLE,
        *ring,
        *ring,
        Request.SET_VRING_ENABLE,
        Request.SET_VRING_ENABLE,
        Request.GET_FEATURES,
    ]
    assert [a.fds for a in said if isinstance(a, Send) and a.fds] == [
        (9,), (30,), (10,), (20,), (30,), (11,), (20,),
    ]  # fmt: skip
    assert answer(front, Request.NET_SET_MTU, u64(0), 2.0) == []
    assert front.deadline() == 2.0 + ANSWER_WITHIN
    assert answer(front, Request.SET_MEM_TABLE, u64(0)) == []
    assert front.state is State.STARTING
    assert answer(front, Request.GET_FEATURES, u64(FEATURES)) == [Started()]


def test_our_back_end_takes_what_we_say() -> None:
    """Both machines of this kit against each other, at every message."""
    front, back = Frontend(), Backend(pairs=1, mtu=1500)
    events: list[Action] = []
    queue = front.connected(0.0)
    asked = iter([lambda: front.start(plan(mtu=1500), 0.0), lambda: front.stop(0.0)])
    while queue:
        action = queue.pop(0)
        if not isinstance(action, Send):
            events.append(action)
            if not queue and (ask := next(asked, None)):
                queue += ask()
            continue
        header = wire.parse_header(action.data[: HEADER.size])
        for done in back.receive(header, action.data[HEADER.size :], action.fds):
            data = getattr(done, "data", None)
            if header.request is Request.GET_VRING_BASE and type(done).__name__ == "Stop":
                data = back.base_reply(done.index, 7)  # type: ignore[union-attr]
            if data is not None:
                reply = wire.parse_reply_header(data[: HEADER.size])
                queue += front.receive(reply, data[HEADER.size :], 0.0)
    assert [type(event) for event in events] == [Known, Started, Stopped]
    assert events[-1] == Stopped({0: 7, 1: 7})
    assert front.state is State.READY


def test_stopping_gives_the_bases() -> None:
    front = running()
    disable = Request.SET_VRING_ENABLE
    said = front.stop(0.0)
    assert requests(said) == [disable, Request.GET_VRING_BASE] * 2
    assert answer(front, Request.GET_VRING_BASE, bytes((0, 0, 0, 0, 5, 0, 0, 0))) == []
    said = answer(front, Request.GET_VRING_BASE, bytes((1, 0, 0, 0, 6, 0, 0, 0)))
    assert said == [Stopped({0: 5, 1: 6})]


def test_stopping_what_has_not_started_yet() -> None:
    front = ready()
    front.start(plan(), 0.0)
    front.stop(0.0)
    assert answer(front, Request.GET_FEATURES, u64(FEATURES)) == []
    assert answer(front, Request.GET_VRING_BASE, bytes(8)) == []
    assert front.state is State.STOPPING


def test_a_ring_on_its_own() -> None:
    front = running()
    assert requests(front.stop_ring(1, 0.0))[-1] is Request.GET_VRING_BASE
    assert front.stop_ring(1, 0.0) == front.stop_ring(5, 0.0) == []
    assert answer(front, Request.GET_VRING_BASE, bytes((1, 0, 0, 0, 6, 0, 0, 0))) == []
    assert front.state is State.RUNNING
    front.stop(0.0)
    said = answer(front, Request.GET_VRING_BASE, bytes(8))
    assert said == [Stopped({1: 6, 0: 0})]


@pytest.mark.parametrize(
    ("request_", "payload"),
    [
        (Request.GET_VRING_BASE, bytes(8)),
        (Request.GET_FEATURES, bytes(4)),
        (Request.SET_MEM_TABLE, bytes(8)),
    ],
)
def test_an_answer_that_was_not_asked_for(request_: Request, payload: bytes) -> None:
    front = running()
    with pytest.raises(PeerError, match="expected nothing"):
        answer(front, request_, payload)


def test_a_memory_table_that_is_refused() -> None:
    front = ready(Protocol.REPLY_ACK)
    front.start(plan(), 0.0)
    with pytest.raises(PeerError, match="SET_MEM_TABLE was refused: 0x1"):
        answer(front, Request.SET_MEM_TABLE, u64(1))


@pytest.mark.parametrize("index", [0, 2], ids=["twice", "not ours"])
def test_bases_of_other_rings(index: int) -> None:
    front = running()
    front.stop(0.0)
    answer(front, Request.GET_VRING_BASE, bytes(8))
    with pytest.raises(PeerError, match=f"ring {index}"):
        answer(front, Request.GET_VRING_BASE, bytes((index, 0, 0, 0, 0, 0, 0, 0)))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        wire.emit_config(wire.ConfigSpace(1, 0, bytes(60))),
        wire.emit_config(wire.ConfigSpace(0, 0, bytes(59))),
    ],
)
def test_a_configuration_that_is_none(payload: bytes) -> None:
    front = ready(Protocol.CONFIG, config_len=60)
    with pytest.raises(PeerError, match="GET_CONFIG"):
        answer(front, Request.GET_CONFIG, payload)


def test_a_lost_connection_at_any_time() -> None:
    for front in (ready(), running()):
        front.lost()
        assert (front.state, front.deadline()) == (State.OFFLINE, None)
        assert requests(front.connected(0.0)) == [Request.GET_FEATURES]
