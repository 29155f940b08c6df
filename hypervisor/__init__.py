"""Lightweight machines as a library: virtio devices and engines driven from asyncio."""

from .aio.vsock import Vsock
from .engine.base import EngineError, Event, EventKind, Exit, ExitReason, State
from .engine.nic import Tap, VhostUser
from .engine.statistics import Statistics
from .errors import HypervisorError, PeerError, UsageError
from .machine import Machine

__all__ = [
    "EngineError",
    "Event",
    "EventKind",
    "Exit",
    "ExitReason",
    "HypervisorError",
    "Machine",
    "PeerError",
    "State",
    "Statistics",
    "Tap",
    "UsageError",
    "VhostUser",
    "Vsock",
]
