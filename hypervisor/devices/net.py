"""virtio-net (virtio 1.2, 5.1): the machine's network interface as a port of vpnstack.

Frames go the way of the vhost-user port (vhost/ringport.py), without its socket: the rings are
attached where the driver puts them, when it is ready.  The port outlives resets of its device, and
the device outlives its port: closing that takes the carrier away.
"""

from __future__ import annotations

import enum
import os
import struct

from vpnstack.link.port import Offload

from ..core.ring import Ring
from ..errors import UsageError
from ..queue.layout import Feature
from ..vhost.actions import Attach, Detach, Enable, SetFd
from ..vhost.messages import Request
from ..vhost.ringport import RingPort, Soften, offload_of
from .base import Device, Line

DEVICE_ID = 1
QUEUE_SIZE = 1024
CONFIG = struct.Struct("<6sHHH")  # mac, status, max_virtqueue_pairs, mtu (5.1.4)
MTU_MIN, MTU_MAX = 68, 65535

FEATURES = (
    Feature.NET_CSUM
    | Feature.NET_GUEST_CSUM
    | Feature.NET_MTU
    | Feature.NET_MAC
    | Feature.NET_GUEST_TSO4
    | Feature.NET_GUEST_TSO6
    | Feature.NET_GUEST_ECN
    | Feature.NET_GUEST_USO4
    | Feature.NET_GUEST_USO6
    | Feature.NET_HOST_TSO4
    | Feature.NET_HOST_TSO6
    | Feature.NET_HOST_ECN
    | Feature.NET_HOST_USO
    | Feature.NET_MRG_RXBUF
    | Feature.NET_STATUS
)


class Status(enum.IntFlag):
    """The link's status (5.1.4)."""

    DOWN = 0
    LINK_UP = 1


class NetPort(RingPort):
    """The port that a `Net` shows to the stack; a line is its control plane."""

    def __init__(self, device: Net, name: str, mtu: int, soften: Soften | None) -> None:
        super().__init__(name, mtu, 1, soften)
        self._net = device
        self._line: Line | None = None

    def start(self, line: Line) -> None:
        """Move frames through the queues of `line`."""
        if self._closed:
            return
        self._line = line
        self.offload = offload_of(line.features)
        device = self._device
        device.borrow(line.memory)
        for index, (queue, kick) in enumerate(zip(line.queues, line.kicks, strict=True)):
            if not queue.attached or queue.state is None:
                continue
            # The rings are this port's own, for their counters and bursts; the line's stay unused.
            device.execute(Attach(index, queue.state, False))
            device.execute(SetFd(index, Request.SET_VRING_CALL, os.dup(line.call)))
            device.execute(SetFd(index, Request.SET_VRING_KICK, os.dup(kick)))
            device.execute(Enable(index, True))
        device.refresh()

    def ring(self, index: int) -> tuple[Ring, int]:
        """Return ring `index` and the kicks that came for it."""
        return self._device.rings[index], self._device.kicked[index]

    def stop_ring(self, index: int) -> None:
        """Move nothing through ring `index` any more."""
        self._forget(self._device.rings[index])
        self._device.execute(Detach(index))
        self._device.refresh()

    def stop(self) -> None:
        """Let go of the line: frames for the driver are dropped from now on."""
        if self._line is None:
            return
        self._line = None
        self.offload = Offload.NONE
        for ring in self._device.rings:
            self._forget(ring)
        self._device.release_fds()
        self._device.release_memory()

    def _forget(self, ring: Ring) -> None:
        """Give nothing back to a ring that is no longer the device's."""
        if ring in self._lent:
            self._lent.remove(ring)

    def _broken(self, index: int) -> None:
        """Stop the whole device: it has no other way to tell its driver (2.1.2)."""
        line, fault = self._line, self._device.rings[index].fault
        self.stop()
        if line is not None:
            line.failed(f"queue {index}: {fault}")

    def _release(self) -> None:
        self._net.unplugged()


class Net(Device):
    """A network interface with address `mac`; plug `port` in where its frames are to go."""

    device_id = DEVICE_ID
    queue_sizes = (QUEUE_SIZE, QUEUE_SIZE)  # receiveq1, transmitq1 (5.1.2)
    takes_kicks = True
    features = int(FEATURES)

    def __init__(
        self, mac: bytes, mtu: int = 1500, *, name: str = "net", soften: Soften | None = None
    ) -> None:
        super().__init__()
        if len(mac) != 6 or mac[0] & 1:
            raise UsageError(f"MAC address {mac.hex(':')}, expected 6 bytes, not a group's")
        if not MTU_MIN <= mtu <= MTU_MAX:
            raise UsageError(f"MTU {mtu}, expected {MTU_MIN} to {MTU_MAX}")
        self.mac = mac
        self.mtu = mtu
        self._status = Status.LINK_UP
        self.port = NetPort(self, name, mtu, soften)

    def config(self) -> bytes:
        """Return address, status and MTU; the number of queue pairs has no meaning without MQ."""
        return CONFIG.pack(self.mac, self._status, 1, self.mtu)

    def set_link(self, up: bool) -> None:
        """Plug the cable in or out, as the driver sees it."""
        self._status = Status.LINK_UP if up else Status.DOWN
        self.config_changed()

    def unplugged(self) -> None:
        """Show the driver that its port was closed."""
        self.set_link(False)

    def activate(self, line: Line) -> None:
        """Move frames from now on."""
        self.port.start(line)

    def ring(self, index: int) -> tuple[Ring, int]:
        """Return the port's ring, which outlives resets."""
        return self.port.ring(index)

    def stopped(self, index: int) -> None:
        """Move none through this queue."""
        self.port.stop_ring(index)

    def reset(self) -> None:
        """Move none, and keep the port open."""
        self.port.stop()

    async def close(self) -> None:
        """Close the port, too."""
        self.port.stop()
        self.port.close()
