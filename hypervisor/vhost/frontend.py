"""The vhost-user front-end as a machine without I/O: answers and wishes in, actions out.

One `Frontend` lives through many connections to a back-end that comes and goes.  A connection
begins with questions (features, queues, configuration), whose answers are `Known`; from then on the
device may be started and stopped.  Each message that has an answer stands in a queue until that
came: a back-end that answers anything else, or nothing before `deadline`, is as good as gone.

A start has no answer of its own, so a question goes behind it: when that is answered the back-end
has taken all of it (QEMU waits for SET_MEM_TABLE in the same way).
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..queue.layout import Feature
from ..queue.state import QueueState, Region
from . import messages as wire
from .messages import NEED_REPLY, Header, MessageError, Protocol, Request, VringAddr, VringState

ANSWER_WITHIN = 5.0  # seconds for each answer
# CONFIG and MTU are taken where the device needs them.
PROTOCOL_FEATURES = Protocol.MQ | Protocol.REPLY_ACK | Protocol.MTU | Protocol.CONFIG


class State(enum.Enum):
    """Where the connection and the device at its other end are."""

    OFFLINE = "offline"
    ASKING = "asking"
    READY = "ready"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"


class Step(enum.Enum):
    """What moves the front-end from state to state."""

    CONNECT = "connect"
    LOSE = "lose"
    KNOW = "know"
    START = "start"
    RUN = "run"
    STOP = "stop"
    END = "end"


TRANSITIONS: Mapping[tuple[State, Step], State] = {
    (State.OFFLINE, Step.CONNECT): State.ASKING,
    (State.ASKING, Step.KNOW): State.READY,
    (State.READY, Step.START): State.STARTING,
    (State.STARTING, Step.RUN): State.RUNNING,
    (State.STARTING, Step.STOP): State.STOPPING,
    (State.RUNNING, Step.STOP): State.STOPPING,
    (State.STOPPING, Step.END): State.READY,
    **{(state, Step.LOSE): State.OFFLINE for state in State},
}


@dataclass(frozen=True, slots=True)
class Send:
    """Send these bytes with these descriptors, which stay whose they are."""

    data: bytes
    fds: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Known:
    """The back-end said what it is: its feature bits, most queue pairs and configuration space."""

    features: int
    queues: int  # most rings (by pairs, for net); 0 where it did not say
    config: bytes


@dataclass(frozen=True, slots=True)
class Started:
    """The back-end runs the rings."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """The back-end let go of all rings; where each of them was."""

    bases: Mapping[int, int]


Action = Send | Known | Started | Stopped


@dataclass(frozen=True, slots=True)
class Ring:
    """One ring to be run: where it lies, the descriptors that its driver and the guest use."""

    index: int
    state: QueueState
    kick: int
    call: int
    err: int = -1
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a start tells the back-end; `fd` holds all regions."""

    features: int
    regions: tuple[Region, ...]
    fd: int
    rings: tuple[Ring, ...]
    mtu: int = 0  # told to back-ends that want to know, unless 0


@dataclass(slots=True)
class _Connection:
    """What one connection has brought so far."""

    offered: int = 0
    protocol: int = 0
    queues: int = 0
    config: bytes = b""
    rings: tuple[int, ...] = ()  # that the back-end was told of
    ending: set[int] = field(default_factory=set)  # of these, taken back
    bases: dict[int, int] = field(default_factory=dict)
    awaited: deque[Request] = field(default_factory=deque)


class Frontend:
    """Asks, starts and stops one back-end; `config_len` bytes of configuration are its to give."""

    def __init__(self, *, config_len: int = 0) -> None:
        self.state = State.OFFLINE
        self._config_len = config_len
        self._now = 0.0
        self._deadline: float | None = None
        self._c = _Connection()

    @property
    def protocol(self) -> Protocol:
        """Protocol features in use on this connection."""
        return Protocol(self._c.protocol)

    def deadline(self) -> float | None:
        """Return when the next answer must be there; None if none is awaited."""
        return self._deadline

    # What the device wants.

    def connected(self, now: float) -> list[Action]:
        """Begin a connection."""
        self._move(Step.CONNECT)
        self._now = now
        self._c = _Connection()
        return [self._ask(Request.GET_FEATURES)]

    def lost(self) -> None:
        """Forget the connection: it is closed."""
        self._move(Step.LOSE)
        self._c.awaited.clear()
        self._deadline = None

    def start(self, plan: Plan, now: float) -> list[Action]:
        """Hand over guest memory and rings; `Started` follows.  Only when READY."""
        self._move(Step.START)
        self._now = now
        c = self._c
        c.rings = tuple(ring.index for ring in plan.rings)
        c.bases, c.ending = {}, set()
        features = plan.features
        if c.offered & Feature.VHOST_PROTOCOL_FEATURES:
            features |= Feature.VHOST_PROTOCOL_FEATURES
        actions: list[Action] = [self._u64(Request.SET_FEATURES, features)]
        if plan.mtu and c.protocol & Protocol.MTU:
            actions.append(self._acked(Request.NET_SET_MTU, wire.emit_u64(plan.mtu)))
        table = wire.emit_table(plan.regions)
        fds = (plan.fd,) * len(plan.regions)
        actions.append(self._acked(Request.SET_MEM_TABLE, table, fds))
        for ring in plan.rings:
            actions += self._place(ring)
        for ring in plan.rings:
            actions += self.enable(ring.index, ring.enabled)
        return [*actions, self._ask(Request.GET_FEATURES)]

    def _place(self, ring: Ring) -> list[Action]:
        index, state = ring.index, ring.state
        addr = VringAddr(index, 0, state.desc, state.used, state.avail, 0)
        messages: list[Action] = [
            self._state(Request.SET_VRING_NUM, index, state.size),
            self._state(Request.SET_VRING_BASE, index, state.last_avail),
            Send(wire.emit(Request.SET_VRING_ADDR, wire.emit_addr(addr))),
        ]
        if ring.err >= 0:
            messages.append(self._u64(Request.SET_VRING_ERR, index, ring.err))
        messages.append(self._u64(Request.SET_VRING_KICK, index, ring.kick))
        messages.append(self._u64(Request.SET_VRING_CALL, index, ring.call))
        return messages

    def enable(self, index: int, on: bool) -> list[Action]:
        """Let a ring receive or not, where the back-end tells the two apart."""
        if not self._c.offered & Feature.VHOST_PROTOCOL_FEATURES:
            return []
        return [self._state(Request.SET_VRING_ENABLE, index, int(on))]

    def stop_ring(self, index: int, now: float) -> list[Action]:
        """Take one ring back, for good; a device that was not started has none."""
        c = self._c
        if self.state is State.OFFLINE or index not in c.rings or index in c.ending:
            return []
        self._now = now
        c.ending.add(index)
        base = wire.emit_state(VringState(index, 0))
        return [*self.enable(index, False), self._ask(Request.GET_VRING_BASE, base)]

    def stop(self, now: float) -> list[Action]:
        """Take all rings back; `Stopped` follows.  Only when STARTING or RUNNING."""
        self._move(Step.STOP)
        actions = [each for index in self._c.rings for each in self.stop_ring(index, now)]
        return actions if self._c.awaited else self._settle()

    # What the back-end says.

    def receive(self, header: Header, payload: bytes, now: float) -> list[Action]:
        """Take an answer; MessageError ends the connection."""
        self._now = now
        awaited = self._c.awaited
        if not awaited or awaited[0] is not header.request:
            expected = awaited[0].name if awaited else "nothing"
            raise MessageError(f"answer to {header.request.name}, expected {expected}")
        awaited.popleft()
        self._deadline = now + ANSWER_WITHIN if awaited else None
        handler = _HANDLERS.get(header.request, Frontend._on_ack)
        actions = handler(self, header, payload)
        return actions if self._c.awaited else actions + self._settle()

    def _settle(self) -> list[Action]:
        """Everything asked was answered: the step that was under way is done."""
        c = self._c
        if self.state is State.ASKING:
            self._move(Step.KNOW)
            return [Known(c.offered & ~Feature.VHOST_PROTOCOL_FEATURES, c.queues, c.config)]
        if self.state is State.STARTING:
            self._move(Step.RUN)
            return [Started()]
        if self.state is State.STOPPING:
            self._move(Step.END)
            return [Stopped(dict(c.bases))]
        return []

    def _on_features(self, header: Header, payload: bytes) -> list[Action]:
        features = wire.parse_u64(header, payload)
        if self.state is not State.ASKING:
            return []  # behind a start
        self._c.offered = features
        if features & Feature.VHOST_PROTOCOL_FEATURES:
            return [self._ask(Request.GET_PROTOCOL_FEATURES)]
        return [Send(wire.emit(Request.SET_OWNER))]

    def _on_protocol(self, header: Header, payload: bytes) -> list[Action]:
        c = self._c
        wanted = PROTOCOL_FEATURES if self._config_len else PROTOCOL_FEATURES & ~Protocol.CONFIG
        c.protocol = wire.parse_u64(header, payload) & wanted
        actions: list[Action] = [self._u64(Request.SET_PROTOCOL_FEATURES, c.protocol)]
        if c.protocol & Protocol.MQ:
            actions.append(self._ask(Request.GET_QUEUE_NUM))
        actions.append(Send(wire.emit(Request.SET_OWNER)))
        if c.protocol & Protocol.CONFIG:
            space = wire.emit_config(wire.ConfigSpace(0, 0, bytes(self._config_len)))
            actions.append(self._ask(Request.GET_CONFIG, space))
        return actions

    def _on_queue_num(self, header: Header, payload: bytes) -> list[Action]:
        self._c.queues = wire.parse_u64(header, payload)
        return []

    def _on_config(self, header: Header, payload: bytes) -> list[Action]:
        space = wire.parse_config(header, payload)  # a back-end that cannot sends none
        if space.offset or len(space.data) != self._config_len:
            raise MessageError(
                f"{header.request.name}: {len(space.data)} bytes at {space.offset},"
                f" expected {self._config_len} at 0"
            )
        self._c.config = space.data
        return []

    def _on_base(self, header: Header, payload: bytes) -> list[Action]:
        state = wire.parse_state(header, payload)
        if state.index not in self._c.ending or state.index in self._c.bases:
            raise MessageError(f"{header.request.name}: ring {state.index}, expected one of ours")
        self._c.bases[state.index] = state.num
        return []

    def _on_ack(self, header: Header, payload: bytes) -> list[Action]:
        if (value := wire.parse_u64(header, payload)) != 0:
            raise MessageError(f"{header.request.name} was refused: {value:#x}")
        return []

    # Building messages.

    def _ask(self, request: Request, payload: bytes = b"", fds: tuple[int, ...] = ()) -> Send:
        self._await(request)
        return Send(wire.emit(request, payload), fds)

    def _acked(self, request: Request, payload: bytes, fds: tuple[int, ...] = ()) -> Send:
        """Build a request whose success is told where the protocol can."""
        if not self._c.protocol & Protocol.REPLY_ACK:
            return Send(wire.emit(request, payload), fds)
        self._await(request)
        return Send(wire.emit(request, payload, NEED_REPLY), fds)

    def _await(self, request: Request) -> None:
        self._c.awaited.append(request)
        self._deadline = self._now + ANSWER_WITHIN

    def _u64(self, request: Request, value: int, *fds: int) -> Send:
        return Send(wire.emit(request, wire.emit_u64(value)), fds)

    def _state(self, request: Request, index: int, num: int) -> Send:
        return Send(wire.emit(request, wire.emit_state(VringState(index, num))))

    def _move(self, step: Step) -> None:
        self.state = TRANSITIONS[self.state, step]


_HANDLERS: Mapping[Request, Callable[[Frontend, Header, bytes], list[Action]]] = {
    Request.GET_FEATURES: Frontend._on_features,
    Request.GET_PROTOCOL_FEATURES: Frontend._on_protocol,
    Request.GET_QUEUE_NUM: Frontend._on_queue_num,
    Request.GET_CONFIG: Frontend._on_config,
    Request.GET_VRING_BASE: Frontend._on_base,
}
