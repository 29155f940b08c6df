"""The back-end machine: negotiation, ring states, orders of messages, acknowledgements."""

from __future__ import annotations

import pytest

from hypervisor.queue.layout import Feature
from hypervisor.queue.state import QueueState, Region
from hypervisor.vhost import messages as wire
from hypervisor.vhost.actions import (
    Action,
    Attach,
    Detach,
    Enable,
    MapRegion,
    MapTable,
    Reply,
    SetFd,
    SetFeatures,
    SetMtu,
    Stop,
    UnmapRegion,
    fds_of,
)
from hypervisor.vhost.backend import (
    TRANSITIONS,
    Backend,
    RingEvent,
    RingState,
)
from hypervisor.vhost.messages import (
    Header,
    MessageError,
    Protocol,
    Request,
    VringAddr,
    VringState,
)
from hypervisor.vhost.offer import PROTOCOL_FEATURES

FEATURES = int(Feature.VERSION_1 | Feature.VHOST_PROTOCOL_FEATURES)
REGION = Region(0, 4096, 0x7000, 0)
ADDR = VringAddr(0, 0, 0x7000, 0x7800, 0x7400, 0)
STATE = QueueState(16, 0x7000, 0x7400, 0x7800, FEATURES, 5)


def say(
    backend: Backend, request: Request, payload: bytes = b"", *fds: int, flags: int = 0
) -> list[Action]:
    return backend.receive(Header(request, flags | wire.VERSION, len(payload)), payload, fds)


def u64(backend: Backend, request: Request, value: int, *fds: int) -> list[Action]:
    return say(backend, request, wire.emit_u64(value), *fds)


def state(backend: Backend, request: Request, index: int, num: int) -> list[Action]:
    return say(backend, request, wire.emit_state(VringState(index, num)))


def reply(request: Request, payload: bytes) -> Reply:
    return Reply(wire.emit(request, payload, wire.REPLY))


def negotiated() -> Backend:
    backend = Backend()
    u64(backend, Request.SET_PROTOCOL_FEATURES, PROTOCOL_FEATURES)
    u64(backend, Request.SET_FEATURES, FEATURES)
    return backend


def started() -> Backend:
    backend = negotiated()
    for step in STEPS.values():
        step(backend)
    return backend


STEPS = {
    "memory": lambda b: say(b, Request.SET_MEM_TABLE, wire.emit_table((REGION,)), 3),
    "num": lambda b: state(b, Request.SET_VRING_NUM, 0, 16),
    "base": lambda b: state(b, Request.SET_VRING_BASE, 0, 5),
    "addr": lambda b: say(b, Request.SET_VRING_ADDR, wire.emit_addr(ADDR)),
    "kick": lambda b: u64(b, Request.SET_VRING_KICK, 0, 9),
}


def test_transition_table_is_complete() -> None:
    assert set(TRANSITIONS) == {(s, e) for s in RingState for e in RingEvent}


def test_features_are_offered() -> None:
    backend = Backend()
    offered = reply(Request.GET_FEATURES, wire.emit_u64(backend.offered))
    assert say(backend, Request.GET_FEATURES) == [offered]
    for bit in (Feature.NET_MRG_RXBUF, Feature.NET_HOST_TSO4, Feature.RING_EVENT_IDX):
        assert backend.offered & bit
    assert not backend.offered & (Feature.NET_HOST_UFO | Feature.NET_CTRL_VQ)
    protocol = reply(Request.GET_PROTOCOL_FEATURES, wire.emit_u64(PROTOCOL_FEATURES))
    assert say(backend, Request.GET_PROTOCOL_FEATURES) == [protocol]
    assert not PROTOCOL_FEATURES & Protocol.CONFIG
    assert say(backend, Request.GET_QUEUE_NUM) == [reply(Request.GET_QUEUE_NUM, wire.emit_u64(8))]


def test_one_pair_does_not_offer_multiqueue() -> None:
    assert not Backend(pairs=1).offered & Feature.NET_MQ


@pytest.mark.parametrize("request_", [Request.SET_FEATURES, Request.SET_PROTOCOL_FEATURES])
def test_features_beyond_the_offer(request_: Request) -> None:
    with pytest.raises(MessageError, match="expected only bits"):
        u64(Backend(), request_, 1 << 63)


def test_features_chosen() -> None:
    assert u64(Backend(), Request.SET_FEATURES, FEATURES) == [SetFeatures(FEATURES)]


ORDERS = [
    ("memory", "num", "base", "addr", "kick"),  # QEMU
    ("memory", "num", "addr", "base", "kick"),  # cloud-hypervisor
    ("kick", "addr", "base", "num", "memory"),
    ("base", "kick", "memory", "addr", "num"),
    ("num", "base", "kick", "memory", "addr"),
]


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_ring_is_attached_by_the_last_message(order: tuple[str, ...]) -> None:
    backend = negotiated()
    for name in order[:-1]:
        assert not any(isinstance(a, Attach) for a in STEPS[name](backend))
    assert STEPS[order[-1]](backend)[-1] == Attach(0, STATE, resume=False)
    assert backend.ring_state(0) == (RingState.STARTED, False)


def test_ring_starts_enabled_without_protocol_features() -> None:
    backend = Backend()
    u64(backend, Request.SET_FEATURES, Feature.VERSION_1)
    assert Enable(0, True) in u64(backend, Request.SET_VRING_KICK, 0, 9)


def test_ring_is_enabled_and_disabled() -> None:
    backend = started()
    assert state(backend, Request.SET_VRING_ENABLE, 0, 1) == [Enable(0, True)]
    assert backend.ring_state(0) == (RingState.STARTED, True)
    assert state(backend, Request.SET_VRING_ENABLE, 0, 0) == [Enable(0, False)]


def test_get_base_stops_and_a_kick_goes_on_there() -> None:
    backend = started()
    kick = SetFd(0, Request.SET_VRING_KICK, -1)
    assert state(backend, Request.GET_VRING_BASE, 0, 0) == [kick, Stop(0)]
    assert backend.ring_state(0)[0] is RingState.STOPPED
    data = backend.base_reply(0, 77)
    assert data[12:] == wire.emit_state(VringState(0, 77))
    assert isinstance(u64(backend, Request.SET_VRING_KICK, 0, 9)[-1], Attach)


def test_new_memory_moves_running_rings() -> None:
    backend = started()
    table, attach = STEPS["memory"](backend)
    assert table == MapTable((REGION,), (3,))
    assert isinstance(attach, Attach)
    assert attach.resume


def test_memory_slots() -> None:
    backend = started()
    assert say(backend, Request.GET_MAX_MEM_SLOTS) == [
        reply(Request.GET_MAX_MEM_SLOTS, wire.emit_u64(32))
    ]
    more = Region(1 << 20, 4096, 1 << 20, 0)
    assert say(backend, Request.ADD_MEM_REG, wire.emit_region(more), 4)[0] == MapRegion(more, 4)
    assert say(backend, Request.REM_MEM_REG, wire.emit_region(more))[0] == UnmapRegion(more)
    actions = say(backend, Request.REM_MEM_REG, wire.emit_region(REGION), 8)
    assert actions == [UnmapRegion(REGION), Detach(0)]
    with pytest.raises(MessageError, match="no region"):
        say(backend, Request.REM_MEM_REG, wire.emit_region(REGION))


def test_broken_ring_waits_for_a_stop() -> None:
    backend = started()
    assert backend.broken(0) == [Detach(0)]
    assert STEPS["memory"](backend) == [MapTable((REGION,), (3,))]
    assert STEPS["kick"](backend) == [SetFd(0, Request.SET_VRING_KICK, 9)]
    state(backend, Request.GET_VRING_BASE, 0, 0)
    assert isinstance(STEPS["kick"](backend)[-1], Attach)


def test_reset_owner_disables() -> None:
    backend = started()
    state(backend, Request.SET_VRING_ENABLE, 0, 1)
    assert Enable(0, False) in say(backend, Request.RESET_OWNER)


def test_acknowledgement_only_when_asked_and_negotiated() -> None:
    ack = reply(Request.SET_OWNER, wire.emit_u64(0))
    backend = Backend()
    assert say(backend, Request.SET_OWNER, flags=wire.NEED_REPLY) == []
    u64(backend, Request.SET_PROTOCOL_FEATURES, Protocol.REPLY_ACK)
    assert say(backend, Request.SET_OWNER) == []
    assert say(backend, Request.SET_OWNER, flags=wire.NEED_REPLY) == [ack]
    only = say(backend, Request.GET_FEATURES, flags=wire.NEED_REPLY)
    assert len(only) == 1


def test_mtu() -> None:
    backend = negotiated()
    assert u64(backend, Request.NET_SET_MTU, 1500) == [SetMtu(1500)]
    with pytest.raises(MessageError, match="expected 68"):
        u64(backend, Request.NET_SET_MTU, 67)
    with pytest.raises(MessageError, match="MTU"):
        u64(Backend(), Request.NET_SET_MTU, 1500)


def test_fd_messages_hand_their_descriptor_on() -> None:
    backend = negotiated()
    for request in (Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR):
        (action,) = u64(backend, request, 3, 7)
        assert action == SetFd(3, request, 7)
        assert fds_of(action) == (7,)
        assert u64(backend, request, 3 | wire.VRING_NO_FD) == [SetFd(3, request, -1)]


BAD = [
    (Request.SET_VRING_NUM, wire.emit_state(VringState(16, 16)), ()),
    (Request.SET_VRING_NUM, wire.emit_state(VringState(0, 0)), ()),
    (Request.SET_VRING_NUM, wire.emit_state(VringState(0, 48)), ()),
    (Request.SET_VRING_NUM, wire.emit_state(VringState(0, 65536)), ()),
    (Request.SET_VRING_BASE, wire.emit_state(VringState(0, 65536)), ()),
    (Request.SET_VRING_ENABLE, wire.emit_state(VringState(0, 2)), ()),
    (Request.SET_VRING_ENABLE, wire.emit_state(VringState(99, 1)), ()),
    (Request.GET_VRING_BASE, wire.emit_state(VringState(2**32 - 1, 0)), ()),
    (Request.SET_VRING_KICK, wire.emit_u64(0), ()),
    (Request.SET_VRING_KICK, wire.emit_u64(0), (5, 6)),
    (Request.SET_VRING_KICK, wire.emit_u64(0x100), (5,)),
    (Request.SET_VRING_CALL, wire.emit_u64(0x200), (5,)),
    (Request.SET_VRING_CALL, wire.emit_u64(255), (5,)),
    (Request.SET_MEM_TABLE, wire.emit_table((REGION,)), ()),
    (Request.SET_MEM_TABLE, wire.emit_table((REGION,)), (5, 6)),
    (Request.ADD_MEM_REG, wire.emit_region(REGION), ()),
    (Request.SET_OWNER, b"", (5,)),
    (Request.SET_LOG_FD, b"", (5,)),
    (Request.SET_LOG_BASE, bytes(16), (5,)),
    (Request.GET_CONFIG, bytes(12), ()),
    (Request.SEND_RARP, wire.emit_u64(0), ()),
    (Request.GET_INFLIGHT_FD, bytes(24), ()),
]


@pytest.mark.parametrize(("request_", "payload", "fds"), BAD)
def test_refused(request_: Request, payload: bytes, fds: tuple[int, ...]) -> None:
    with pytest.raises(MessageError, match=request_.name):
        say(negotiated(), request_, payload, *fds)


def test_slots_need_their_feature() -> None:
    backend = Backend()
    for request in (Request.GET_MAX_MEM_SLOTS, Request.ADD_MEM_REG, Request.REM_MEM_REG):
        with pytest.raises(MessageError, match="CONFIGURE_MEM_SLOTS"):
            say(backend, request, b"")
