"""One stream's state and its credit, both ways (virtio 1.2, 5.10.6.3).

Credit: each side says in every packet how much it can hold (`buf_alloc`) and how much it has
consumed since the beginning (`fwd_cnt`); its peer may have `buf_alloc` bytes under way beyond that.
The counters are numbers of 32 bits that wrap.
"""

from __future__ import annotations

import enum

from .wire import Repr, Shutdown

MASK = 0xFFFF_FFFF


class State(enum.Enum):
    """Where a connection is in its life."""

    REQUESTED = "requested"  # by us: the guest has yet to answer
    OFFERED = "offered"  # by the guest: we have yet to answer
    ESTABLISHED = "established"
    CLOSING = "closing"  # we said that we do nothing more, and wait for the guest's RST
    CLOSED = "closed"


class Cause(enum.Enum):
    """What moves a connection from state to state."""

    RESPONSE = "response"
    ACCEPT = "accept"
    CLOSE = "close"
    RESET = "reset"


TRANSITIONS: dict[tuple[State, Cause], State] = {
    (State.REQUESTED, Cause.RESPONSE): State.ESTABLISHED,
    (State.OFFERED, Cause.ACCEPT): State.ESTABLISHED,
    (State.ESTABLISHED, Cause.CLOSE): State.CLOSING,
    **{(state, Cause.RESET): State.CLOSED for state in State},
}


class Want:
    """Bits of control packets that wait to be sent, in the order in which they are."""

    NONE = 0
    REQUEST = 1
    RESPONSE = 2
    CREDIT_UPDATE = 4
    CREDIT_REQUEST = 8
    SHUTDOWN = 16


class Connection:
    """A stream between `guest_port` and `host_port`; `user` belongs to whoever drives it."""

    __slots__ = (
        "asked",
        "buf_alloc",
        "deadline",
        "fwd_cnt",
        "fwd_told",
        "guest_port",
        "host_port",
        "peer_buf_alloc",
        "peer_fwd_cnt",
        "peer_shutdown",
        "rx_cnt",
        "shutdown",
        "state",
        "tx_cnt",
        "user",
        "want",
    )

    def __init__(self, guest_port: int, host_port: int, state: State, buf_alloc: int) -> None:
        self.guest_port = guest_port
        self.host_port = host_port
        self.state = state
        self.buf_alloc = buf_alloc
        self.want = Want.NONE
        self.deadline = 0.0  # 0: none
        self.shutdown = Shutdown.NONE  # what we do no more
        self.peer_shutdown = Shutdown.NONE
        self.rx_cnt = self.fwd_cnt = self.fwd_told = 0  # not wrapped: ours alone
        self.tx_cnt = 0
        self.peer_buf_alloc = self.peer_fwd_cnt = 0
        self.asked = False  # for credit, since it last changed
        self.user: object = None

    def __str__(self) -> str:
        return f"{self.guest_port} of the guest, {self.host_port} of the host, {self.state.value}"

    def move(self, cause: Cause) -> bool:
        """Change the state; False where the table has no such transition."""
        after = TRANSITIONS.get((self.state, cause))
        if after is None:
            return False
        self.state = after
        return True

    @property
    def credit(self) -> int:
        """Bytes that the guest has room for, 0 where nothing may be sent."""
        if self.state is not State.ESTABLISHED or self.shutdown & Shutdown.SEND:
            return 0
        if self.peer_shutdown & Shutdown.RCV:
            return 0
        return max(0, self.peer_buf_alloc - (self.tx_cnt - self.peer_fwd_cnt & MASK))

    @property
    def held(self) -> int:
        """Bytes that were received and not consumed yet."""
        return self.rx_cnt - self.fwd_cnt

    def take_credit(self, packet: Repr) -> bool:
        """Note what the guest says of its buffer; False if it consumed what was never sent."""
        before = self.peer_buf_alloc, self.peer_fwd_cnt
        ahead = packet.fwd_cnt - self.peer_fwd_cnt & MASK
        if ahead <= (self.tx_cnt - self.peer_fwd_cnt & MASK):
            self.peer_fwd_cnt = packet.fwd_cnt
        elif ahead <= MASK >> 1:
            return False
        # else an older packet: the guest's processors filled two in one order and sent in another
        self.peer_buf_alloc = packet.buf_alloc
        if before != (self.peer_buf_alloc, self.peer_fwd_cnt):
            self.asked = False
        return True

    def receive(self, size: int) -> bool:
        """Take payload of `size` bytes; False if it is more than we had room for."""
        if size > self.buf_alloc - self.held:
            return False
        self.rx_cnt += size
        return True

    def consumed(self, size: int) -> None:
        """Give room for `size` bytes back; tells the guest once it may soon need that."""
        self.fwd_cnt += size
        told = self.buf_alloc - (self.rx_cnt - self.fwd_told)
        if told <= self.buf_alloc // 2 and self.fwd_cnt - self.fwd_told >= self.buf_alloc // 8:
            self.want |= Want.CREDIT_UPDATE
