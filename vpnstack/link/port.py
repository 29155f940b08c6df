"""The Port protocol: what a link is to the stack and to the switch.

A port moves bursts of virtio-net frames (`vpnstack.core.burst.Burst`, an array of `struct frame`).
It is driven from one loop and never blocks.  Whatever its kind, it has one readable descriptor;
a port with several inside (vhost-user: a control socket and a kick for each queue) shows an epoll
descriptor over them.  A port that lives in this process alone may call instead (`Notifying`).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from ..core.burst import Burst
from ..errors import LinkError


class PortClosed(LinkError):
    """The other side of a port is gone for good."""


@dataclass(frozen=True, slots=True)
class PortStatistics:
    """Counters of one port since it was opened; octets count Ethernet frames without FCS."""

    rx_frames: int = 0
    rx_octets: int = 0
    rx_dropped: int = 0
    tx_frames: int = 0
    tx_octets: int = 0
    tx_dropped: int = 0


class Offload(enum.IntFlag):
    """What a link takes off our hands when we transmit into it (virtio 1.2, 5.1.3)."""

    NONE = 0
    CSUM = 1  # frames with VNET_NEEDS_CSUM
    TSO4 = 2  # frames with VNET_GSO_TCPV4, up to 64 KiB
    TSO6 = 4  # frames with VNET_GSO_TCPV6
    USO = 8  # frames with VNET_GSO_UDP_L4


@runtime_checkable
class Port(Protocol):
    """A link that moves frames; the contract of every method is that it returns at once."""

    name: str
    mtu: int  # bytes of an IP packet

    @property
    def offload(self) -> Offload:
        """What the link takes; may change while the port lives (a driver negotiates late)."""

    @property
    def stalled(self) -> bool:
        """True while frames given to `tx_burst` still wait: hold back what can wait."""

    def fileno(self) -> int:
        """A descriptor that is readable when `rx_burst` has work to do; -1: see `Notifying`."""

    def rx_burst(self, burst: Burst) -> int:
        """Fill `burst` with received frames, unparsed; return how many.

        Also does whatever else the descriptor woke us for (control messages, draining a stalled
        transmission).  Raises `PortClosed` when the other side is gone for good.
        """

    def rx_done(self, burst: Burst) -> None:
        """Take back the buffers of the last `rx_burst`; its frames must not be read afterwards."""

    def tx_burst(self, burst: Burst) -> None:
        """Send all frames of `burst`, which may be reused as soon as this returns.

        Segments and completes checksums in software where `offload` lacks the bit a frame needs.
        What the link does not take now is copied into a bounded backlog (`stalled` is then True)
        and sent later; what does not fit there is dropped and counted.  Never raises for the
        other side's sake: frames for a peer that is gone are dropped, `rx_burst` reports it.
        """

    def flush(self) -> None:
        """Send from the backlog; the driver calls it when the descriptor is writable."""

    def close(self) -> None:
        """Release descriptors and memory; calling it again does nothing."""

    def statistics(self) -> PortStatistics:
        """Return counters since the port was opened."""


@runtime_checkable
class Notifying(Protocol):
    """A port that calls instead of, or as well as, making a descriptor readable.

    Ports of one process have no descriptor; ports that delay frames have work when no descriptor
    says so.
    """

    def notify(self, ready: Callable[[], None] | None) -> None:
        """Call `ready` from the loop when `rx_burst` has something to do or `stalled` ended."""


class Timer(Protocol):
    """A call that was put off."""

    def cancel(self) -> None:
        """Do not make it."""


class Clock(Protocol):
    """What ports that wait need to have: any asyncio loop is one."""

    def time(self) -> float:
        """Return the time in seconds."""

    def call_soon(self, callback: Callable[..., object], *args: Any) -> Timer:
        """Call after this turn of the loop."""

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call at the time `when`."""


@runtime_checkable
class Jack(Protocol):
    """A place on a switch where a port is plugged in: what `Gateway.port(name)` returns."""

    name: str
    mac: bytes  # the address the machine should use, 6 bytes; stable for a name
    mtu: int

    def plug(self, port: Port) -> None:
        """Connect `port`, replacing and closing the one that was there."""

    def unplug(self) -> None:
        """Disconnect and close the port; the place stays."""


@runtime_checkable
class Listener(Protocol):
    """Something at which ports arrive: what an entry point of `vpnstack.ports` returns.

    Such an entry point is a callable `listen(address: str, *, mtu: int) -> Listener`.
    """

    def fileno(self) -> int:
        """A descriptor that is readable when `accept` has something to do."""

    def accept(self) -> list[Port]:
        """Return the ports that arrived, without waiting."""

    def close(self) -> None:
        """Stop listening and remove what was made in the file system; accepted ports live on."""
