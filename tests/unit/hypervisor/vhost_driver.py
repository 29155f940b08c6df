"""A front-end and driver for tests: guest memory in a memfd, the driver's side of split rings, and
the vhost-user messages of QEMU or cloud-hypervisor over a socket pair."""

from __future__ import annotations

import array
import itertools
import mmap
import os
import select
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from hypervisor.core.memory import GuestMemory
from hypervisor.queue import layout
from hypervisor.queue.layout import Feature
from hypervisor.queue.state import QueueState, Region
from hypervisor.vhost import messages as wire
from hypervisor.vhost.messages import Request, VringAddr, VringState
from hypervisor.vhost.port import VhostUserPort
from vpnstack.core.burst import Burst

GPA = 0x10_0000
UVA = 0x7F00_0000_0000
FEATURES = (
    Feature.VERSION_1
    | Feature.NET_MRG_RXBUF
    | Feature.RING_INDIRECT_DESC
    | Feature.RING_EVENT_IDX
    | Feature.NET_CSUM
    | Feature.NET_GUEST_CSUM
    | Feature.NET_GUEST_TSO4
    | Feature.VHOST_PROTOCOL_FEATURES
)


class Guest:
    """`size` bytes of shared memory at guest physical `GPA`, front-end virtual `UVA`."""

    def __init__(self, size: int = 1 << 20) -> None:
        self.size = size
        self.fd = os.memfd_create("guest", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, size)
        self.map = mmap.mmap(self.fd, size)
        self.region = Region(GPA, size, UVA, 0)
        self._free = 0

    def memory(self) -> GuestMemory:
        """Map it as the device does."""
        memory = GuestMemory()
        memory.add(self.region, self.fd)
        memory.fd = self.fd
        return memory

    def alloc(self, size: int, align: int = 16) -> int:
        """Return a guest physical address of `size` free bytes."""
        at = -(-self._free // align) * align
        self._free = at + size
        assert self._free <= self.size
        return GPA + at

    def clear(self) -> None:
        """Zero the memory, and allocate from its beginning again."""
        self.map[:] = bytes(self.size)
        self._free = 0

    def write(self, gpa: int, data: bytes) -> None:
        self.map[gpa - GPA : gpa - GPA + len(data)] = data

    def read(self, gpa: int, size: int) -> bytes:
        return self.map[gpa - GPA : gpa - GPA + size]

    def u16(self, gpa: int) -> int:
        return int(struct.unpack("<H", self.read(gpa, 2))[0])

    def set16(self, gpa: int, value: int) -> None:
        self.write(gpa, struct.pack("<H", value & 0xFFFF))

    def close(self) -> None:
        self.map.close()
        os.close(self.fd)


@dataclass
class Buffer:
    """A driver's buffer."""

    gpa: int
    size: int
    writable: bool = False


class DriverRing:
    """The driver's side of one split virtqueue."""

    def __init__(self, guest: Guest, size: int = 16, features: int = FEATURES) -> None:
        self.guest = guest
        self.size = size
        self.features = features
        self.desc = guest.alloc(layout.desc_size(size))
        self.avail = guest.alloc(layout.avail_size(size))
        self.used = guest.alloc(layout.used_size(size))
        self.avail_idx = 0
        self.used_seen = 0
        self._next = 0

    def state(self, last_avail: int = 0) -> QueueState:
        """Say where it lies, as the device is told."""
        desc, avail, used = (UVA + at - GPA for at in (self.desc, self.avail, self.used))
        return QueueState(self.size, desc, avail, used, self.features, last_avail)

    def set_desc(self, i: int, addr: int, size: int, flags: int = 0, after: int = 0) -> None:
        self.guest.write(self.desc + 16 * i, layout.DESC.pack(addr, size, flags, after))

    def post(self, head: int) -> None:
        """Make a chain available."""
        self.guest.set16(self.avail + 4 + 2 * (self.avail_idx % self.size), head)
        self.avail_idx = (self.avail_idx + 1) & 0xFFFF
        self.guest.set16(self.avail + 2, self.avail_idx)

    def add(self, *buffers: Buffer) -> int:
        """Post a chain of direct descriptors; returns its head."""
        slots = [(self._next + i) % self.size for i in range(len(buffers))]
        self._next = (self._next + len(buffers)) % self.size
        for i, buffer in enumerate(buffers):
            last = i + 1 == len(buffers)
            flags = layout.DESC_WRITE * buffer.writable | layout.DESC_NEXT * (not last)
            self.set_desc(slots[i], buffer.gpa, buffer.size, flags, 0 if last else slots[i + 1])
        self.post(slots[0])
        return slots[0]

    def add_indirect(self, *buffers: Buffer) -> int:
        """Post a chain in an indirect table; returns its head."""
        table = self.guest.alloc(16 * len(buffers))
        for i, buffer in enumerate(buffers):
            last = i + 1 == len(buffers)
            flags = layout.DESC_WRITE * buffer.writable | layout.DESC_NEXT * (not last)
            data = layout.DESC.pack(buffer.gpa, buffer.size, flags, 0 if last else i + 1)
            self.guest.write(table + 16 * i, data)
        head, self._next = self._next, (self._next + 1) % self.size
        self.set_desc(head, table, 16 * len(buffers), layout.DESC_INDIRECT)
        self.post(head)
        return head

    def send(self, frame: bytes, vnet: bytes = bytes(12), cuts: tuple[int, ...] = ()) -> int:
        """Post header and frame for transmission, cut into buffers at `cuts`."""
        data = vnet + frame
        bounds = [0, *cuts, len(data)]
        buffers = []
        for start, end in itertools.pairwise(bounds):
            gpa = self.guest.alloc(end - start, align=1)
            self.guest.write(gpa, data[start:end])
            buffers.append(Buffer(gpa, end - start))
        return self.add(*buffers)

    def receive_buffer(self, size: int) -> Buffer:
        """Post one buffer to receive into."""
        buffer = Buffer(self.guest.alloc(size), size, writable=True)
        self.add(buffer)
        return buffer

    def used_elements(self) -> list[tuple[int, int]]:
        """Return what the device gave back since the last call: heads and written bytes."""
        idx = self.guest.u16(self.used + 2)
        out = []
        while self.used_seen != idx:
            at = self.used + 4 + 8 * (self.used_seen % self.size)
            out.append(layout.USED_ELEM.unpack(self.guest.read(at, 8)))
            self.used_seen = (self.used_seen + 1) & 0xFFFF
        return out

    def set_used_event(self, value: int) -> None:
        self.guest.set16(self.avail + layout.used_event(self.size), value)

    def avail_event(self) -> int:
        return self.guest.u16(self.used + layout.avail_event(self.size))


class FrontEnd:
    """Speaks vhost-user to a back-end at the other end of `sock`."""

    def __init__(self, sock: socket.socket, guest: Guest, pairs: int = 1, size: int = 16) -> None:
        self.sock = sock
        self.guest = guest
        self.rings = [DriverRing(guest, size) for _ in range(2 * pairs)]
        self.kick = [os.eventfd(0, os.EFD_NONBLOCK) for _ in self.rings]
        self.call = [os.eventfd(0, os.EFD_NONBLOCK) for _ in self.rings]
        self.err = [os.eventfd(0, os.EFD_NONBLOCK) for _ in self.rings]

    def send(
        self, request: int, payload: bytes = b"", fds: tuple[int, ...] = (), flags: int = 0
    ) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([wire.emit(request, payload, flags)], rights)

    def reply(self) -> tuple[int, bytes]:
        """Read one answer: its request and payload."""
        number, flags, size = wire.HEADER.unpack(self.sock.recv(wire.HEADER.size))
        assert flags == wire.VERSION | wire.REPLY
        return number, self.sock.recv(size) if size else b""

    def u64(self, request: Request, value: int, *fds: int, flags: int = 0) -> None:
        self.send(request, wire.emit_u64(value), fds, flags)

    def state(self, request: Request, index: int, num: int) -> None:
        self.send(request, wire.emit_state(VringState(index, num)))

    def table(self) -> None:
        self.send(Request.SET_MEM_TABLE, wire.emit_table((self.guest.region,)), (self.guest.fd,))

    def addr(self, index: int) -> None:
        state = self.rings[index].state()
        addr = VringAddr(index, 0, state.desc, state.used, state.avail, 0)
        self.send(Request.SET_VRING_ADDR, wire.emit_addr(addr))

    def start_qemu(self, features: int = FEATURES) -> None:
        """Everything up to running rings, in QEMU's order."""
        self.u64(Request.SET_PROTOCOL_FEATURES, wire.Protocol.MQ | wire.Protocol.REPLY_ACK)
        self.send(Request.SET_OWNER)
        for i in range(len(self.rings)):
            self.u64(Request.SET_VRING_CALL, i, self.call[i])
            self.u64(Request.SET_VRING_ERR, i, self.err[i])
        self.u64(Request.SET_FEATURES, features)
        self.table()
        for i, ring in enumerate(self.rings):
            self.state(Request.SET_VRING_NUM, i, ring.size)
            self.state(Request.SET_VRING_BASE, i, 0)
            self.addr(i)
            self.u64(Request.SET_VRING_KICK, i, self.kick[i])
            self.u64(Request.SET_VRING_CALL, i, self.call[i])
        self.enable()

    def start_cloud_hypervisor(self, features: int = FEATURES) -> None:
        """The same in cloud-hypervisor's order."""
        self.send(Request.SET_OWNER)
        self.u64(Request.SET_PROTOCOL_FEATURES, wire.Protocol.MQ | wire.Protocol.REPLY_ACK)
        self.u64(Request.SET_FEATURES, features)
        self.table()
        for i, ring in enumerate(self.rings):
            self.state(Request.SET_VRING_NUM, i, ring.size)
        for i in range(len(self.rings)):
            self.addr(i)
            self.state(Request.SET_VRING_BASE, i, 0)
            self.u64(Request.SET_VRING_CALL, i, self.call[i])
            self.u64(Request.SET_VRING_KICK, i, self.kick[i])
        self.enable()

    def enable(self, on: int = 1) -> None:
        for i in range(len(self.rings)):
            self.state(Request.SET_VRING_ENABLE, i, on)

    def close(self) -> None:
        self.sock.close()
        for fd in (*self.kick, *self.call, *self.err):
            os.close(fd)


def called(fd: int) -> int:
    """Return how often an eventfd was signalled since the last call."""
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


Made = tuple[VhostUserPort, FrontEnd]


def wakes(port: VhostUserPort) -> bool:
    return bool(select.select([port], [], [], 0)[0])


def receive(port: VhostUserPort, capacity: int = 64) -> list[bytes]:
    burst = Burst(capacity)
    port.rx_burst(burst)
    frames = [burst.octets(i) for i in range(burst.count)]
    port.rx_done(burst)
    return frames


def transmit(port: VhostUserPort, *frames: bytes, vnet: bytes = bytes(12)) -> None:
    burst = Burst()
    for frame in frames:
        burst.append(frame, vnet)
    port.tx_burst(burst)


def settle(port: VhostUserPort) -> None:
    while wakes(port):
        receive(port)


def started(make: Callable[..., Made], **kwargs: int) -> Made:
    port, front = make(**kwargs)
    front.start_qemu()
    settle(port)
    assert port.ready
    return port, front
