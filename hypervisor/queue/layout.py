"""Layout of split virtqueues and feature bits (virtio 1.2, sections 2.7, 5.1.3 and 6)."""

from __future__ import annotations

import enum
import struct

SIZE_MAX = 32768  # 2.7: the largest split queue
REGIONS_MAX = 32  # of guest memory: HV_REGIONS_MAX
CHAIN_MAX = 1024  # descriptors in one chain: our limit, whatever the queue's size
PIECES_MAX = 2048  # of memory that one frame may use: VQ_IOV_MAX
ARENA = 262196  # what is merged by copying a burst: VQ_ARENA
FRAME_PIECES_MAX = 20  # frame.h: FRAME_IOV_MAX
FRAME_LEN_MAX = 65589  # frame.h
ETH_LEN = 14

DESC = struct.Struct("<QIHH")  # addr, len, flags, next (2.7.5)
USED_ELEM = struct.Struct("<II")  # id, len (2.7.8)
U16 = struct.Struct("<H")

DESC_NEXT = 1
DESC_WRITE = 2
DESC_INDIRECT = 4
AVAIL_NO_INTERRUPT = 1
USED_NO_NOTIFY = 1

# Offsets inside a ring: flags, idx, then the entries, then the event field.
FLAGS = 0
IDX = 2
ENTRIES = 4


class Feature(enum.IntFlag):
    """Device feature bits that the virtio-net devices of this kit know."""

    NET_CSUM = 1 << 0
    NET_GUEST_CSUM = 1 << 1
    NET_MTU = 1 << 3
    NET_MAC = 1 << 5
    NET_GUEST_TSO4 = 1 << 7
    NET_GUEST_TSO6 = 1 << 8
    NET_GUEST_ECN = 1 << 9
    NET_GUEST_UFO = 1 << 10
    NET_HOST_TSO4 = 1 << 11
    NET_HOST_TSO6 = 1 << 12
    NET_HOST_ECN = 1 << 13
    NET_HOST_UFO = 1 << 14
    NET_MRG_RXBUF = 1 << 15
    NET_STATUS = 1 << 16
    NET_CTRL_VQ = 1 << 17
    NET_MQ = 1 << 22
    VHOST_LOG_ALL = 1 << 26
    RING_INDIRECT_DESC = 1 << 28
    RING_EVENT_IDX = 1 << 29
    VHOST_PROTOCOL_FEATURES = 1 << 30
    VERSION_1 = 1 << 32
    NET_GUEST_USO4 = 1 << 54  # virtio 1.3, 5.1.3
    NET_GUEST_USO6 = 1 << 55
    NET_HOST_USO = 1 << 56


def desc_size(size: int) -> int:
    """Return the bytes of a descriptor table of `size` entries."""
    return DESC.size * size


def avail_size(size: int) -> int:
    """Return the bytes of an available ring with its `used_event`."""
    return 6 + 2 * size


def used_size(size: int) -> int:
    """Return the bytes of a used ring with its `avail_event`."""
    return 6 + 8 * size


def used_event(size: int) -> int:
    """Return the offset of `used_event` in the available ring (2.7.10)."""
    return ENTRIES + 2 * size


def avail_event(size: int) -> int:
    """Return the offset of `avail_event` in the used ring (2.7.10)."""
    return ENTRIES + 8 * size


def need_event(event: int, new: int, old: int) -> bool:
    """Say whether moving an index from `old` to `new` passes `event` (2.7.10); modulo 2**16."""
    return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF


def header_len(features: int) -> int:
    """Return the bytes of the virtio-net header (5.1.6.1): a legacy one lacks `num_buffers`."""
    return 12 if features & (Feature.VERSION_1 | Feature.NET_MRG_RXBUF) else 10
