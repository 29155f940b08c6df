"""vhost-user messages: header and payloads (QEMU's docs/interop/vhost-user, front-end types).

A message is a header of 12 bytes, a payload of the size that the header says, and descriptors that
come with its first byte.  All numbers are in host order.  Sizes and flags are strict: whatever a
message's payload is not exactly raises `MessageError`.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from ..errors import PeerError
from ..queue.state import Region

HEADER = struct.Struct("=III")
VERSION = 1
VERSION_MASK = 3
REPLY = 4
NEED_REPLY = 8

REGIONS_BASELINE = 8  # VHOST_MEMORY_BASELINE_NREGIONS: the most in one table, and descriptors
VRING_INDEX_MASK = 0xFF
VRING_NO_FD = 0x100

_U64 = struct.Struct("=Q")
_STATE = struct.Struct("=II")
_ADDR = struct.Struct("=IIQQQQ")
_TABLE = struct.Struct("=II")
_REGION = struct.Struct("=QQQQ")
_CONFIG = struct.Struct("=III")
CONFIG_MAX = 256  # VHOST_USER_MAX_CONFIG_SIZE
TABLE_MAX = _TABLE.size + REGIONS_BASELINE * _REGION.size
REPLY_SIZE_MAX = _CONFIG.size + CONFIG_MAX
SIZE_MAX = max(TABLE_MAX, _CONFIG.size + CONFIG_MAX)  # the largest payload known here


class MessageError(PeerError):
    """A message that the protocol does not know or allow."""


class Request(enum.IntEnum):
    """Front-end message types, by the specification's numbers (VHOST_USER_ left out)."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SEND_RARP = 19
    NET_SET_MTU = 20
    SET_BACKEND_REQ_FD = 21
    IOTLB_MSG = 22
    SET_VRING_ENDIAN = 23
    GET_CONFIG = 24
    SET_CONFIG = 25
    CREATE_CRYPTO_SESSION = 26
    CLOSE_CRYPTO_SESSION = 27
    POSTCOPY_ADVISE = 28
    POSTCOPY_LISTEN = 29
    POSTCOPY_END = 30
    GET_INFLIGHT_FD = 31
    SET_INFLIGHT_FD = 32
    GPU_SET_SOCKET = 33
    RESET_DEVICE = 34
    VRING_KICK = 35
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40
    GET_SHARED_OBJECT = 41
    SET_DEVICE_STATE_FD = 42
    CHECK_DEVICE_STATE = 43


class Protocol(enum.IntFlag):
    """Protocol feature bits."""

    MQ = 1 << 0
    LOG_SHMFD = 1 << 1
    RARP = 1 << 2
    REPLY_ACK = 1 << 3
    MTU = 1 << 4
    BACKEND_REQ = 1 << 5
    CROSS_ENDIAN = 1 << 6
    CRYPTO_SESSION = 1 << 7
    PAGEFAULT = 1 << 8
    CONFIG = 1 << 9
    BACKEND_SEND_FD = 1 << 10
    HOST_NOTIFIER = 1 << 11
    INFLIGHT_SHMFD = 1 << 12
    RESET_DEVICE = 1 << 13
    INBAND_NOTIFICATIONS = 1 << 14
    CONFIGURE_MEM_SLOTS = 1 << 15
    STATUS = 1 << 16


@dataclass(frozen=True, slots=True)
class Header:
    """`size` counts the payload's bytes."""

    request: Request
    flags: int
    size: int

    @property
    def need_reply(self) -> bool:
        """True when the front-end waits for an acknowledgement."""
        return bool(self.flags & NEED_REPLY)

    def __str__(self) -> str:
        return f"{self.request.name} flags {self.flags:#x} size {self.size}"


@dataclass(frozen=True, slots=True)
class VringState:
    """A ring's index and a number: its size, its base, or whether it is enabled."""

    index: int
    num: int


@dataclass(frozen=True, slots=True)
class VringAddr:
    """Where a ring lies, in the front-end's addresses."""

    index: int
    flags: int
    desc: int
    used: int
    avail: int
    log: int


def parse_header(data: bytes) -> Header:
    """Parse 12 bytes from a front-end; MessageError names what is wrong."""
    number, flags, size = HEADER.unpack(data)
    try:
        request = Request(number)
    except ValueError:
        raise MessageError(f"message {number}, expected a known one") from None
    if flags & VERSION_MASK != VERSION:
        raise MessageError(f"{request.name}: version {flags & VERSION_MASK}, expected {VERSION}")
    if flags & ~(VERSION_MASK | NEED_REPLY):
        raise MessageError(f"{request.name}: flags {flags:#x}, expected those of a request")
    if size > SIZE_MAX:
        raise MessageError(f"{request.name}: size {size}, expected at most {SIZE_MAX}")
    return Header(request, flags, size)


def parse_reply_header(data: bytes) -> Header:
    """Parse 12 bytes from a back-end, which only ever answers; MessageError names what is wrong."""
    number, flags, size = HEADER.unpack(data)
    try:
        request = Request(number)
    except ValueError:
        raise MessageError(f"answer to message {number}, expected a known one") from None
    if flags & ~NEED_REPLY != VERSION | REPLY:
        raise MessageError(f"{request.name}: flags {flags:#x}, expected those of an answer")
    if size > REPLY_SIZE_MAX:
        raise MessageError(f"{request.name}: size {size}, expected at most {REPLY_SIZE_MAX}")
    return Header(request, flags, size)


def emit(request: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """Build a message; the version is added to `flags`."""
    return HEADER.pack(request, flags | VERSION, len(payload)) + payload


def _exact(header: Header, payload: bytes, size: int) -> None:
    if len(payload) != size:
        raise MessageError(f"{header.request.name}: {len(payload)} bytes, expected {size}")


def parse_none(header: Header, payload: bytes) -> None:
    """Check that a message has no payload."""
    _exact(header, payload, 0)


def parse_u64(header: Header, payload: bytes) -> int:
    """Parse one number of 64 bits."""
    _exact(header, payload, _U64.size)
    return int(_U64.unpack(payload)[0])


def emit_u64(value: int) -> bytes:
    """Build one number of 64 bits."""
    return _U64.pack(value)


def parse_state(header: Header, payload: bytes) -> VringState:
    """Parse a ring's index and number."""
    _exact(header, payload, _STATE.size)
    return VringState(*_STATE.unpack(payload))


def emit_state(state: VringState) -> bytes:
    """Build a ring's index and number."""
    return _STATE.pack(state.index, state.num)


def parse_addr(header: Header, payload: bytes) -> VringAddr:
    """Parse a ring's addresses."""
    _exact(header, payload, _ADDR.size)
    return VringAddr(*_ADDR.unpack(payload))


def emit_addr(addr: VringAddr) -> bytes:
    """Build a ring's addresses."""
    return _ADDR.pack(addr.index, addr.flags, addr.desc, addr.used, addr.avail, addr.log)


def _region(header: Header, data: bytes) -> Region:
    gpa, size, uva, offset = _REGION.unpack(data)
    if size == 0 or max(gpa, uva, offset) > 2**64 - 1 - size:
        raise MessageError(
            f"{header.request.name}: region at {gpa:#x}, {uva:#x}, offset {offset:#x} of {size} "
            "bytes, expected one that does not wrap around"
        )
    return Region(gpa, size, uva, offset)


def parse_table(header: Header, payload: bytes) -> tuple[Region, ...]:
    """Parse a memory table; QEMU and others send no more than the regions that they count."""
    if len(payload) < _TABLE.size:
        raise MessageError(f"{header.request.name}: {len(payload)} bytes, expected a table")
    count, _ = _TABLE.unpack_from(payload)
    if not 1 <= count <= REGIONS_BASELINE:
        raise MessageError(
            f"{header.request.name}: {count} regions, expected 1 to {REGIONS_BASELINE}"
        )
    end = _TABLE.size + count * _REGION.size
    # libvhost-user's and DPDK's front-ends send the whole array; what is not counted is not read.
    if len(payload) not in (end, TABLE_MAX):
        _exact(header, payload, end)
    starts = range(_TABLE.size, end, _REGION.size)
    return tuple(_region(header, payload[i : i + _REGION.size]) for i in starts)


def emit_table(regions: tuple[Region, ...]) -> bytes:
    """Build a memory table."""
    body = b"".join(_REGION.pack(r.gpa, r.size, r.uva, r.offset) for r in regions)
    return _TABLE.pack(len(regions), 0) + body


def parse_region(header: Header, payload: bytes) -> Region:
    """Parse one region behind its padding (ADD_MEM_REG, REM_MEM_REG)."""
    _exact(header, payload, _U64.size + _REGION.size)
    return _region(header, payload[_U64.size :])


def emit_region(region: Region) -> bytes:
    """Build one region behind its padding."""
    return _U64.pack(0) + _REGION.pack(region.gpa, region.size, region.uva, region.offset)


@dataclass(frozen=True, slots=True)
class ConfigSpace:
    """Bytes of the device's configuration space from `offset` (GET_CONFIG, SET_CONFIG)."""

    offset: int
    flags: int
    data: bytes


def parse_config(header: Header, payload: bytes) -> ConfigSpace:
    """Parse a piece of configuration space; in GET_CONFIG its bytes mean nothing."""
    if len(payload) < _CONFIG.size:
        raise MessageError(f"{header.request.name}: {len(payload)} bytes, expected more")
    offset, size, flags = _CONFIG.unpack_from(payload)
    if size > CONFIG_MAX or offset > CONFIG_MAX - size:
        raise MessageError(
            f"{header.request.name}: {size} bytes at {offset}, expected inside {CONFIG_MAX}"
        )
    _exact(header, payload, _CONFIG.size + size)
    return ConfigSpace(offset, flags, payload[_CONFIG.size :])


def emit_config(config: ConfigSpace) -> bytes:
    """Build a piece of configuration space."""
    return _CONFIG.pack(config.offset, len(config.data), config.flags) + config.data
