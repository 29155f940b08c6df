"""What the vhost-user back-end machine asks of whoever drives it, in the order in which it says."""

from __future__ import annotations

from dataclasses import dataclass

from ..queue.state import QueueState, Region
from .messages import Request


@dataclass(frozen=True, slots=True)
class Reply:
    """Send these bytes to the front-end."""

    data: bytes


@dataclass(frozen=True, slots=True)
class SetFeatures:
    """The driver's choice among the offered features."""

    features: int


@dataclass(frozen=True, slots=True)
class MapTable:
    """Replace guest memory by `regions`, each from the descriptor of the same position."""

    regions: tuple[Region, ...]
    fds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MapRegion:
    """Add a region of guest memory."""

    region: Region
    fd: int


@dataclass(frozen=True, slots=True)
class UnmapRegion:
    """Remove a region of guest memory."""

    region: Region


@dataclass(frozen=True, slots=True)
class SetFd:
    """Replace one of a ring's descriptors; -1 is none.  `kind`: VRING_KICK, _CALL or _ERR."""

    index: int
    kind: Request
    fd: int


@dataclass(frozen=True, slots=True)
class Attach:
    """Put a ring on its place in guest memory, or move it; `state.last_avail` counts only where
    `resume` is false (else the ring goes on where it was)."""

    index: int
    state: QueueState
    resume: bool


@dataclass(frozen=True, slots=True)
class Detach:
    """Take a ring off guest memory; it keeps its index."""

    index: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop a ring, then send `Backend.base_reply(index, last_avail)`."""

    index: int


@dataclass(frozen=True, slots=True)
class Enable:
    """Receive into a ring, or only discard what it transmits."""

    index: int
    on: bool


@dataclass(frozen=True, slots=True)
class SetMtu:
    """The driver was told this MTU."""

    mtu: int


@dataclass(frozen=True, slots=True)
class SetConfig:
    """The driver wrote to the device's configuration space."""

    offset: int
    data: bytes


Action = (
    Reply
    | SetFeatures
    | MapTable
    | MapRegion
    | UnmapRegion
    | SetFd
    | Attach
    | Detach
    | Stop
    | Enable
    | SetMtu
    | SetConfig
)


def fds_of(action: Action) -> tuple[int, ...]:
    """Return the descriptors that an action hands on."""
    if isinstance(action, MapTable):
        return action.fds
    if isinstance(action, MapRegion | SetFd) and action.fd >= 0:
        return (action.fd,)
    return ()
