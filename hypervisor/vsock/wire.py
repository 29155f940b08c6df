"""struct virtio_vsock_hdr and the events (virtio 1.2, 5.10.6): what stands before every payload."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

HEADER = struct.Struct("<QQIIIHHIII")  # 44 bytes, little-endian
EVENT = struct.Struct("<I")  # 5.10.6.7
TRANSPORT_RESET = 0
CONFIG = struct.Struct("<Q")  # guest_cid (5.10.4)

HOST_CID = 2  # VMADDR_CID_HOST
CID_MIN, CID_MAX = 3, 0xFFFF_FFFE  # of guests: 0 to 2 are reserved, all ones is any
PORT_MAX = 0xFFFF_FFFF
STREAM, SEQPACKET = 1, 2


class Op(enum.IntEnum):
    """What a packet is for (5.10.6)."""

    INVALID = 0
    REQUEST = 1
    RESPONSE = 2
    RST = 3
    SHUTDOWN = 4
    RW = 5
    CREDIT_UPDATE = 6
    CREDIT_REQUEST = 7


class Shutdown:
    """What its sender will do no more (5.10.6.5).  Plain numbers: every packet looks at them."""

    NONE = 0
    RCV = 1
    SEND = 2
    BOTH = 3


@dataclass(frozen=True, slots=True)
class Repr:
    """One packet's header; `op` and `type` are numbers, for a peer may send any."""

    src_cid: int
    dst_cid: int
    src_port: int
    dst_port: int
    len: int = 0
    type: int = STREAM
    op: int = Op.INVALID
    flags: int = 0
    buf_alloc: int = 0
    fwd_cnt: int = 0

    def __str__(self) -> str:
        name = Op(self.op).name if self.op in _OPS else f"op {self.op}"
        return (
            f"{self.src_cid}:{self.src_port} > {self.dst_cid}:{self.dst_port} {name}"
            f" flags {self.flags:#x} win {self.buf_alloc} fwd {self.fwd_cnt} len {self.len}"
        )


_OPS = frozenset(Op)


def parse(data: bytes | memoryview) -> Repr:
    """Read a header from 44 bytes or more; each field once, for the guest may be writing."""
    return Repr(*HEADER.unpack_from(data))


def emit(packet: Repr) -> bytes:
    """Build the 44 bytes of a header."""
    return HEADER.pack(
        packet.src_cid,
        packet.dst_cid,
        packet.src_port,
        packet.dst_port,
        packet.len,
        packet.type,
        packet.op,
        packet.flags,
        packet.buf_alloc,
        packet.fwd_cnt,
    )
