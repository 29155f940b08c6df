"""The register page of a virtio-mmio device (virtio 1.2, 4.2.2) and the order in which a driver
sets up a device (2.1, 3.1.1)."""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping

PAGE = 4096
MAGIC = 0x74726976  # "virt"
VERSION = 2
VENDOR = 0x6B697274  # "trik"
NO_REGION = 0xFFFFFFFF  # 4.2.2: length and base of shared memory that there is not
U32 = struct.Struct("<I")

RING_INDIRECT_DESC = 1 << 28
RING_EVENT_IDX = 1 << 29
VERSION_1 = 1 << 32
TRANSPORT_FEATURES = RING_INDIRECT_DESC | RING_EVENT_IDX | VERSION_1

INTERRUPT_USED = 1
INTERRUPT_CONFIG = 2


class Register(enum.IntEnum):
    """Offsets in the page; the configuration space begins at `CONFIG`."""

    MAGIC_VALUE = 0x000
    VERSION = 0x004
    DEVICE_ID = 0x008
    VENDOR_ID = 0x00C
    DEVICE_FEATURES = 0x010
    DEVICE_FEATURES_SEL = 0x014
    DRIVER_FEATURES = 0x020
    DRIVER_FEATURES_SEL = 0x024
    QUEUE_SEL = 0x030
    QUEUE_NUM_MAX = 0x034
    QUEUE_NUM = 0x038
    QUEUE_READY = 0x044
    QUEUE_NOTIFY = 0x050
    INTERRUPT_STATUS = 0x060
    INTERRUPT_ACK = 0x064
    STATUS = 0x070
    QUEUE_DESC_LOW = 0x080
    QUEUE_DESC_HIGH = 0x084
    QUEUE_DRIVER_LOW = 0x090
    QUEUE_DRIVER_HIGH = 0x094
    QUEUE_DEVICE_LOW = 0x0A0
    QUEUE_DEVICE_HIGH = 0x0A4
    SHM_SEL = 0x0AC
    SHM_LEN_LOW = 0x0B0
    SHM_LEN_HIGH = 0x0B4
    SHM_BASE_LOW = 0x0B8
    SHM_BASE_HIGH = 0x0BC
    QUEUE_RESET = 0x0C0
    CONFIG_GENERATION = 0x0FC
    CONFIG = 0x100


# The low halves of a queue's three addresses; the high ones follow.
ADDRESSES = (
    (Register.QUEUE_DESC_LOW, "desc"),
    (Register.QUEUE_DRIVER_LOW, "driver"),
    (Register.QUEUE_DEVICE_LOW, "device"),
)


class Status(enum.IntFlag):
    """Device status bits (2.1)."""

    RESET = 0
    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    DEVICE_NEEDS_RESET = 64
    FAILED = 128


_KNOWN = Status.ACKNOWLEDGE | Status.DRIVER
_AGREED = _KNOWN | Status.FEATURES_OK
_LIVE = _AGREED | Status.DRIVER_OK

# What a driver may write over a status (3.1.1).  Beside that, zero resets and FAILED gives up, from
# anywhere; no other bit is ever cleared.  Some firmware acknowledges and drives in one write.
TRANSITIONS: Mapping[Status, frozenset[Status]] = {
    Status.RESET: frozenset({Status.ACKNOWLEDGE, _KNOWN}),
    Status.ACKNOWLEDGE: frozenset({Status.ACKNOWLEDGE, _KNOWN}),
    _KNOWN: frozenset({_KNOWN, _AGREED}),
    _AGREED: frozenset({_AGREED, _LIVE}),
    _LIVE: frozenset({_LIVE}),
}


class Page:
    """The page as the guest reads it: what does not change, and how to change the rest."""

    def __init__(self, memory: memoryview, device_id: int) -> None:
        if len(memory) != PAGE:
            raise ValueError(f"register page of {len(memory)} bytes, expected {PAGE}")
        self.memory = memory
        self.interrupt = INTERRUPT_USED
        self._generation = 0
        self._config = b""
        self.show(Register.MAGIC_VALUE, MAGIC)
        self.show(Register.VERSION, VERSION)
        self.show(Register.DEVICE_ID, device_id)
        self.show(Register.VENDOR_ID, VENDOR)
        for at in range(Register.SHM_LEN_LOW, Register.SHM_BASE_HIGH + 4, 4):
            self.show(at, NO_REGION)
        self.acknowledge(INTERRUPT_CONFIG)

    def show(self, register: int, value: int) -> None:
        """Let a register read as `value`."""
        U32.pack_into(self.memory, register, value & 0xFFFFFFFF)

    def raise_config(self) -> None:
        """Show that the configuration changed."""
        self.interrupt |= INTERRUPT_CONFIG
        self.show(Register.INTERRUPT_STATUS, self.interrupt)

    def acknowledge(self, bits: int) -> None:
        """Show no configuration change any more if `bits` has that one; used buffers stay."""
        self.interrupt &= ~(bits & INTERRUPT_CONFIG)
        self.show(Register.INTERRUPT_STATUS, self.interrupt)

    @property
    def config_len(self) -> int:
        """Bytes of the configuration space."""
        return len(self._config)

    def show_config(self, config: bytes) -> bool:
        """Put the configuration space on the page; says whether it changed.

        The generation moves before and after (2.5.1): a driver that read across the change reads
        again, and one that read in its middle is told by the interrupt that follows.
        """
        config = config[: PAGE - Register.CONFIG]
        if config == self._config:
            return False
        self._move_generation()
        space = config.ljust(len(self._config), b"\0")
        self.memory[Register.CONFIG : Register.CONFIG + len(space)] = space
        self._config = config
        self._move_generation()
        return True

    def _move_generation(self) -> None:
        self._generation += 1
        self.show(Register.CONFIG_GENERATION, self._generation)
