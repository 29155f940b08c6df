"""The vhost-user back-end as a machine without I/O: messages in, actions out.

`receive` checks one message against the state and returns what to do, in order.  Descriptors that
come with it belong to the machine's caller until an action hands them on; a message that is
refused hands on none.  Whoever executes the actions owns sockets, mappings and rings.

A ring is STOPPED until a kick arrives (SET_VRING_KICK), then STARTED until GET_VRING_BASE or an
empty memory; a rule that its driver broke makes it BROKEN until it is stopped.  It is attached
whenever it is started and its size, addresses and memory are known, in whatever order they came:
QEMU sends NUM, BASE, ADDR, KICK, CALL per ring, cloud-hypervisor all NUM first.
Being enabled is independent of that (vhost-user, ring states).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from ..queue.layout import REGIONS_MAX, SIZE_MAX, Feature
from ..queue.state import QueueState, Region
from . import messages as wire
from .actions import (
    Action,
    Attach,
    Detach,
    Enable,
    MapRegion,
    MapTable,
    Reply,
    SetConfig,
    SetFd,
    SetFeatures,
    SetMtu,
    Stop,
    UnmapRegion,
)
from .messages import (
    VRING_INDEX_MASK,
    VRING_NO_FD,
    Header,
    MessageError,
    Protocol,
    Request,
    VringAddr,
)
from .offer import PAIRS_MAX, Offer, offer_net


class RingState(enum.Enum):
    """A ring's state; whether it is enabled is kept beside it."""

    STOPPED = "stopped"
    STARTED = "started"
    BROKEN = "broken"


class RingEvent(enum.Enum):
    """What moves a ring from state to state."""

    KICK = "kick"
    STOP = "stop"
    BREAK = "break"


TRANSITIONS: dict[tuple[RingState, RingEvent], RingState] = {
    (RingState.STOPPED, RingEvent.KICK): RingState.STARTED,
    (RingState.STOPPED, RingEvent.STOP): RingState.STOPPED,
    (RingState.STOPPED, RingEvent.BREAK): RingState.BROKEN,
    (RingState.STARTED, RingEvent.KICK): RingState.STARTED,
    (RingState.STARTED, RingEvent.STOP): RingState.STOPPED,
    (RingState.STARTED, RingEvent.BREAK): RingState.BROKEN,
    (RingState.BROKEN, RingEvent.KICK): RingState.BROKEN,
    (RingState.BROKEN, RingEvent.STOP): RingState.STOPPED,
    (RingState.BROKEN, RingEvent.BREAK): RingState.BROKEN,
}


@dataclass(slots=True)
class _Ring:
    state: RingState = RingState.STOPPED
    enabled: bool = False
    size: int = 0
    addr: VringAddr | None = None
    base: int | None = 0  # None: go on where the ring is
    attached: bool = False

    def move(self, event: RingEvent) -> None:
        self.state = TRANSITIONS[self.state, event]


class Backend:
    """One connection's state.

    It serves what `offer` says; by default a network device with `pairs` queue pairs, for which
    `mtu` is the most that fits.
    """

    def __init__(
        self, *, pairs: int = PAIRS_MAX, mtu: int = 65535, offer: Offer | None = None
    ) -> None:
        self._offer = offer or offer_net(pairs)
        self.offered = Feature(self._offer.features)
        self.features = 0
        self.protocol = Protocol(0)
        self.negotiated = False  # SET_FEATURES came
        self._mtu = mtu
        self._rings = [_Ring() for _ in range(self._offer.rings)]
        self._regions: list[Region] = []

    def ring_state(self, index: int) -> tuple[RingState, bool]:
        """Return a ring's state and whether it is enabled."""
        return self._rings[index].state, self._rings[index].enabled

    def receive(self, header: Header, payload: bytes, fds: tuple[int, ...]) -> list[Action]:
        """Take one message; MessageError ends the connection, and `fds` stay the caller's."""
        handler = _HANDLERS.get(header.request)
        if handler is None:
            raise MessageError(f"{header.request.name}, expected only what was offered")
        if fds and header.request not in _WITH_FDS:
            raise MessageError(f"{header.request.name}: {len(fds)} descriptors, expected none")
        actions = handler(self, header, payload, fds)
        replied = any(isinstance(action, Reply | Stop) for action in actions)
        if header.need_reply and self.protocol & Protocol.REPLY_ACK and not replied:
            actions.append(self._reply(header.request, wire.emit_u64(0)))
        return actions

    def broken(self, index: int) -> list[Action]:
        """Note that a ring's driver broke a rule; it stays so until the ring is stopped."""
        ring = self._rings[index]
        ring.move(RingEvent.BREAK)
        ring.attached = False
        return [Detach(index)]

    def base_reply(self, index: int, last_avail: int) -> bytes:
        """Build the answer to GET_VRING_BASE."""
        return self._reply(
            Request.GET_VRING_BASE, wire.emit_state(wire.VringState(index, last_avail))
        ).data

    def _reply(self, request: Request, payload: bytes) -> Reply:
        return Reply(wire.emit(request, payload, wire.REPLY))

    def _ring(self, header: Header, index: int) -> _Ring:
        if index >= len(self._rings):
            raise MessageError(
                f"{header.request.name}: ring {index}, expected below {len(self._rings)}"
            )
        return self._rings[index]

    def _need(self, header: Header, feature: Protocol) -> None:
        if not self.protocol & feature:
            raise MessageError(f"{header.request.name} without protocol feature {feature.name}")

    def _subset(self, header: Header, found: int, offered: int) -> None:
        if found & ~offered:
            raise MessageError(
                f"{header.request.name}: {found:#x}, expected only bits of {offered:#x}"
            )

    def _place(self, index: int) -> list[Action]:
        """Attach, move or detach a ring after something that it depends on changed."""
        ring = self._rings[index]
        ready = ring.state is RingState.STARTED and ring.size and ring.addr and self._regions
        if not ready or ring.addr is None:
            was, ring.attached = ring.attached, False
            return [Detach(index)] if was else []
        ring.attached = True
        addr, base, ring.base = ring.addr, ring.base, None
        state = QueueState(ring.size, addr.desc, addr.avail, addr.used, self.features, base or 0)
        return [Attach(index, state, base is None)]

    def _place_all(self) -> list[Action]:
        return [action for i in range(len(self._rings)) for action in self._place(i)]

    # One method a message; the names are the specification's.

    def _get_features(self, header: Header, payload: bytes, _: tuple[int, ...]) -> list[Action]:
        wire.parse_none(header, payload)
        return [self._reply(header.request, wire.emit_u64(self.offered))]

    def _set_features(self, header: Header, payload: bytes, _: tuple[int, ...]) -> list[Action]:
        features = wire.parse_u64(header, payload)
        self._subset(header, features, int(self.offered))
        changed, self.features, self.negotiated = features != self.features, features, True
        actions: list[Action] = [SetFeatures(features)]
        return actions + (self._place_all() if changed else [])

    def _set_owner(self, header: Header, payload: bytes, _: tuple[int, ...]) -> list[Action]:
        wire.parse_none(header, payload)
        return []

    def _reset_owner(self, header: Header, payload: bytes, _: tuple[int, ...]) -> list[Action]:
        """Deprecated; old front-ends meant: disable all rings."""
        wire.parse_none(header, payload)
        actions: list[Action] = []
        for index, ring in enumerate(self._rings):
            ring.enabled = False
            actions.append(Enable(index, False))
        return actions

    def _get_protocol(self, header: Header, payload: bytes, _: tuple[int, ...]) -> list[Action]:
        wire.parse_none(header, payload)
        return [self._reply(header.request, wire.emit_u64(self._offer.protocol))]

    def _set_protocol(self, header: Header, payload: bytes, _: tuple[int, ...]) -> list[Action]:
        features = wire.parse_u64(header, payload)
        self._subset(header, features, int(self._offer.protocol))
        self.protocol = Protocol(features)
        return []

    def _get_queue_num(self, header: Header, payload: bytes, _: tuple[int, ...]) -> list[Action]:
        wire.parse_none(header, payload)
        return [self._reply(header.request, wire.emit_u64(self._offer.queues))]

    def _set_mem_table(self, header: Header, payload: bytes, fds: tuple[int, ...]) -> list[Action]:
        regions = wire.parse_table(header, payload)
        if len(fds) != len(regions):
            raise MessageError(
                f"{header.request.name}: {len(fds)} descriptors, expected {len(regions)}"
            )
        self._regions = list(regions)
        actions: list[Action] = [MapTable(regions, fds)]
        return actions + self._place_all()

    def _get_max_slots(self, header: Header, payload: bytes, _: tuple[int, ...]) -> list[Action]:
        self._need(header, Protocol.CONFIGURE_MEM_SLOTS)
        wire.parse_none(header, payload)
        return [self._reply(header.request, wire.emit_u64(REGIONS_MAX))]

    def _add_mem_reg(self, header: Header, payload: bytes, fds: tuple[int, ...]) -> list[Action]:
        self._need(header, Protocol.CONFIGURE_MEM_SLOTS)
        region = wire.parse_region(header, payload)
        if len(fds) != 1:
            raise MessageError(f"{header.request.name}: {len(fds)} descriptors, expected 1")
        self._regions.append(region)
        actions: list[Action] = [MapRegion(region, fds[0])]
        return actions + self._place_all()

    def _rem_mem_reg(self, header: Header, payload: bytes, fds: tuple[int, ...]) -> list[Action]:
        """Some front-ends send the region's descriptor along; it is closed unused."""
        self._need(header, Protocol.CONFIGURE_MEM_SLOTS)
        region = wire.parse_region(header, payload)
        kept = [
            r
            for r in self._regions
            if (r.gpa, r.size, r.uva) != (region.gpa, region.size, region.uva)
        ]
        if len(kept) == len(self._regions):
            raise MessageError(f"{header.request.name}: no region at {region.gpa:#x}")
        self._regions = kept
        actions: list[Action] = [UnmapRegion(region)]
        return actions + self._place_all()

    def _set_num(self, header: Header, payload: bytes, _: tuple[int, ...]) -> list[Action]:
        state = wire.parse_state(header, payload)
        ring = self._ring(header, state.index)
        if not 1 <= state.num <= SIZE_MAX or state.num & (state.num - 1):
            raise MessageError(
                f"{header.request.name}: {state.num}, expected a power of two up to {SIZE_MAX}"
            )
        ring.size = state.num
        return self._place(state.index)

    def _set_addr(self, header: Header, payload: bytes, _: tuple[int, ...]) -> list[Action]:
        addr = wire.parse_addr(header, payload)
        self._ring(header, addr.index).addr = addr
        return self._place(addr.index)

    def _set_base(self, header: Header, payload: bytes, _: tuple[int, ...]) -> list[Action]:
        state = wire.parse_state(header, payload)
        ring = self._ring(header, state.index)
        if state.num > 0xFFFF:
            raise MessageError(f"{header.request.name}: {state.num}, expected at most 65535")
        ring.base = state.num
        return self._place(state.index)

    def _get_base(self, header: Header, payload: bytes, _: tuple[int, ...]) -> list[Action]:
        index = wire.parse_state(header, payload).index
        ring = self._ring(header, index)
        ring.move(RingEvent.STOP)
        ring.attached = False
        ring.base = None
        return [SetFd(index, Request.SET_VRING_KICK, -1), Stop(index)]

    def _set_fd(self, header: Header, payload: bytes, fds: tuple[int, ...]) -> list[Action]:
        value = wire.parse_u64(header, payload)
        index, want = value & VRING_INDEX_MASK, 0 if value & VRING_NO_FD else 1
        ring = self._ring(header, index)
        if value & ~(VRING_INDEX_MASK | VRING_NO_FD) or len(fds) != want:
            raise MessageError(
                f"{header.request.name}: {value:#x} with {len(fds)} descriptors, expected {want}"
            )
        actions: list[Action] = [SetFd(index, header.request, fds[0] if fds else -1)]
        if header.request is not Request.SET_VRING_KICK:
            return actions
        ring.move(RingEvent.KICK)
        if not self.features & Feature.VHOST_PROTOCOL_FEATURES:
            ring.enabled = True  # ring states: without the feature rings start enabled
            actions.append(Enable(index, True))
        return actions + self._place(index)

    def _set_enable(self, header: Header, payload: bytes, _: tuple[int, ...]) -> list[Action]:
        state = wire.parse_state(header, payload)
        ring = self._ring(header, state.index)
        if state.num > 1:
            raise MessageError(f"{header.request.name}: {state.num}, expected 0 or 1")
        ring.enabled = bool(state.num)
        return [Enable(state.index, ring.enabled)]

    def _set_mtu(self, header: Header, payload: bytes, _: tuple[int, ...]) -> list[Action]:
        self._need(header, Protocol.MTU)
        mtu = wire.parse_u64(header, payload)
        if not 68 <= mtu <= self._mtu:
            raise MessageError(f"{header.request.name}: {mtu}, expected 68 to {self._mtu}")
        return [SetMtu(mtu)]

    def _get_config(self, header: Header, payload: bytes, _: tuple[int, ...]) -> list[Action]:
        self._need(header, Protocol.CONFIG)
        asked = wire.parse_config(header, payload)
        space = self._offer.config() if self._offer.config is not None else b""
        size = len(asked.data)
        data = space[asked.offset : asked.offset + size].ljust(size, b"\0")
        answer = wire.emit_config(wire.ConfigSpace(asked.offset, asked.flags, data))
        return [self._reply(header.request, answer)]

    def _set_config(self, header: Header, payload: bytes, _: tuple[int, ...]) -> list[Action]:
        self._need(header, Protocol.CONFIG)
        asked = wire.parse_config(header, payload)
        return [SetConfig(asked.offset, asked.data)]


_Handler = Callable[[Backend, Header, bytes, tuple[int, ...]], list[Action]]
_HANDLERS: dict[Request, _Handler] = {
    Request.GET_FEATURES: Backend._get_features,
    Request.SET_FEATURES: Backend._set_features,
    Request.SET_OWNER: Backend._set_owner,
    Request.RESET_OWNER: Backend._reset_owner,
    Request.GET_PROTOCOL_FEATURES: Backend._get_protocol,
    Request.SET_PROTOCOL_FEATURES: Backend._set_protocol,
    Request.GET_QUEUE_NUM: Backend._get_queue_num,
    Request.SET_MEM_TABLE: Backend._set_mem_table,
    Request.GET_MAX_MEM_SLOTS: Backend._get_max_slots,
    Request.ADD_MEM_REG: Backend._add_mem_reg,
    Request.REM_MEM_REG: Backend._rem_mem_reg,
    Request.SET_VRING_NUM: Backend._set_num,
    Request.SET_VRING_ADDR: Backend._set_addr,
    Request.SET_VRING_BASE: Backend._set_base,
    Request.GET_VRING_BASE: Backend._get_base,
    Request.SET_VRING_KICK: Backend._set_fd,
    Request.SET_VRING_CALL: Backend._set_fd,
    Request.SET_VRING_ERR: Backend._set_fd,
    Request.SET_VRING_ENABLE: Backend._set_enable,
    Request.NET_SET_MTU: Backend._set_mtu,
    Request.GET_CONFIG: Backend._get_config,
    Request.SET_CONFIG: Backend._set_config,
}
_WITH_FDS = frozenset(
    {
        Request.SET_MEM_TABLE,
        Request.ADD_MEM_REG,
        Request.REM_MEM_REG,
        Request.SET_VRING_KICK,
        Request.SET_VRING_CALL,
        Request.SET_VRING_ERR,
    }
)
