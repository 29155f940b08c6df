"""Flows through the vhost-user port: over queue pairs in order, and many datagrams in a frame."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Callable

import dpkt
from vhost_driver import FEATURES, Made, receive, settle, started, transmit

from hypervisor.queue.layout import Feature
from vpnstack import Host

MAC = bytes((2, 0, 0, 0, 0, 1))
USO = Feature.NET_GUEST_USO4 | Feature.NET_GUEST_USO6 | Feature.NET_HOST_USO
SUPER = bytes((1, 5, 42, 0, 100, 0, 34, 0, 6, 0, 0, 0))  # VNET_GSO_UDP_L4, 100 octets each


def datagrams(payload: bytes) -> bytes:
    """UDP from port 9 to 9, its checksum left to others."""
    udp = struct.pack("!HHHH", 9, 9, 8 + len(payload), 0)
    addresses = bytes((10, 0, 0, 2, 10, 0, 0, 1))
    ip = dpkt.ip.IP(src=addresses[:4], dst=addresses[4:], p=17, data=udp + payload)
    ip.len = len(ip)
    return MAC + b"\2\0\0\0\0\2\x08\0" + bytes(ip)


def test_datagrams_reach_a_driver_that_segments_them_whole(make: Callable[..., Made]) -> None:
    port, front = make()
    front.start_qemu(FEATURES | USO)
    settle(port)
    buffer = front.rings[0].receive_buffer(400)
    frame = datagrams(bytes(250))
    transmit(port, frame, vnet=SUPER)
    assert front.guest.read(buffer.gpa, 10) == SUPER[:10]
    assert front.guest.read(buffer.gpa + 12, len(frame)) == frame
    assert len(front.rings[0].used_elements()) == 1


class Inbox(asyncio.DatagramProtocol):
    """Gathers three datagrams."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.full = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.got.append(data)
        if len(self.got) == 3:
            self.full.set_result(None)


async def test_datagrams_of_a_driver_come_one_by_one(make: Callable[..., Made]) -> None:
    port, front = make()
    front.start_qemu(FEATURES | USO)
    settle(port)
    async with asyncio.timeout(20), Host(port, ["10.0.0.1/24"], mac=MAC.hex(":")) as host:
        _, inbox = await host.create_datagram_endpoint(Inbox, local_addr=("10.0.0.1", 9))
        payload = bytes(range(250))
        front.rings[1].send(datagrams(payload), SUPER)
        os.eventfd_write(front.kick[1], 1)
        await inbox.full
        assert inbox.got == [payload[:100], payload[100:200], payload[200:]]


def test_two_pairs_are_served_and_steered(make: Callable[..., Made]) -> None:
    port, front = started(make, pairs=2)
    ip = bytes.fromhex("4500002800000000400600000a0000010a000002")
    there = bytes(12) + b"\x08\x00" + ip + bytes.fromhex("1000 0050") + bytes(16)
    back = bytes(12) + b"\x08\x00" + ip[:12] + ip[16:] + ip[12:16]
    back += bytes.fromhex("0050 1000") + bytes(16)
    front.rings[3].send(there)
    os.eventfd_write(front.kick[3], 1)
    assert receive(port) == [there]
    for ring in (front.rings[0], front.rings[2]):
        ring.receive_buffer(200)
    transmit(port, back)
    assert front.rings[0].used_elements() == []
    assert len(front.rings[2].used_elements()) == 1


def flow(number: int, payload: int, way: bool) -> bytes:
    """A TCP segment of the guest's (`way`) or to it, from and to port 1000 + `number`."""
    ends = bytes.fromhex("0a0000010a000002" if way else "0a0000020a000001")
    ports = (1000 + number, 80) if way else (80, 1000 + number)
    ip = bytes.fromhex("450000280000000040060000") + ends
    return bytes(12) + b"\x08\x00" + ip + struct.pack("!HHI", *ports, payload) + bytes(12)


def test_flows_are_spread_and_keep_their_order_through_stalls(make: Callable[..., Made]) -> None:
    port, front = started(make, pairs=2)
    for number in range(16):
        front.rings[2 * (number % 2) + 1].send(flow(number, 0, True))
        os.eventfd_write(front.kick[2 * (number % 2) + 1], 1)
        settle(port)
    got: dict[int, list[bytes]] = {0: [], 2: []}
    buffers: dict[int, dict[int, int]] = {0: {}, 2: {}}

    def collect() -> None:
        for index, ring in ((0, front.rings[0]), (2, front.rings[2])):
            for head, size in ring.used_elements():
                got[index].append(ring.guest.read(buffers[index][head] + 12, size - 12))
            for _ in range(3):
                buffer = ring.receive_buffer(100)
                buffers[index][(ring._next - 1) % ring.size] = buffer.gpa
            os.eventfd_write(front.kick[index], 1)

    sent = [flow(number, n, False) for n in range(10) for number in range(16)]
    for start in range(0, len(sent), 40):
        transmit(port, *sent[start : start + 40])
        collect()
        settle(port)
        assert port.stalled
        front.rings[1].send(flow(start % 16 | 1, 0, True))  # a flow that would move
        os.eventfd_write(front.kick[1], 1)
        settle(port)
    while port.stalled:
        collect()
        settle(port)
    collect()
    assert got[0] == sent[0::2]
    assert got[2] == sent[1::2]
    front.rings[1].send(flow(1, 0, True))  # nothing waits: now it moves
    os.eventfd_write(front.kick[1], 1)
    settle(port)
    transmit(port, flow(1, 99, False))
    assert len(front.rings[0].used_elements()) == 1
