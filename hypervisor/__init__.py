"""Lightweight machines as a library: virtio devices and engines driven from asyncio."""

from .devices.disk import Disk
from .engine.base import EngineError, Event, EventKind, Exit, ExitReason, State
from .errors import HypervisorError, PeerError, UsageError
from .machine import Machine

__all__ = [
    "Disk",
    "EngineError",
    "Event",
    "EventKind",
    "Exit",
    "ExitReason",
    "HypervisorError",
    "Machine",
    "PeerError",
    "State",
    "UsageError",
]
