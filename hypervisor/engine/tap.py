"""TAP devices of the host's kernel as jacks: what a machine of ours plugs its port into."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable

from vpnstack.link.port import Port
from vpnstack.link.tap import (
    IFF_NO_PI,
    IFF_TAP,
    IFF_VNET_HDR,
    TUNSETIFF,
    TapPort,
    enable_offloads,
)

from ..aio.cable import Cable
from ..errors import UsageError
from .nic import MTU, Tap

TUNSETPERSIST = 0x400454CB
TUNGETIFF = 0x800454D2
IFF_MULTI_QUEUE = 0x0100
SIOCGIFMTU = 0x8921
_IFREQ = struct.Struct("16sH22x")
_FLAGS = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
_HELP = {
    errno.EPERM: "run as root or let its owner do it (ip tuntap add NAME mode tap user YOU)",
    errno.EBUSY: "another program has it open",
    errno.EINVAL: "it exists and is no TAP device of one queue",
    errno.ENOENT: "load the module tun",
}


def open_tap(tap: Tap) -> tuple[int, str]:
    """Return a descriptor of the device with virtio-net headers, and the device's real name."""
    fd = -1
    try:
        if isinstance(tap.name, int):
            fd = fcntl.fcntl(tap.name, fcntl.F_DUPFD_CLOEXEC, 0)
            name, flags = _IFREQ.unpack(fcntl.ioctl(fd, TUNGETIFF, bytes(_IFREQ.size)))
            if flags & _FLAGS != _FLAGS:
                raise OSError(errno.EINVAL, f"made with flags {flags:#x}, expected {_FLAGS:#x}")
        else:
            fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            request = _IFREQ.pack(tap.name.encode(), _FLAGS)
            name, _ = _IFREQ.unpack(fcntl.ioctl(fd, TUNSETIFF, request))
        enable_offloads(fd)
        if tap.persist:
            fcntl.ioctl(fd, TUNSETPERSIST, 1)
    except OSError as error:
        if fd >= 0:
            os.close(fd)
        advice = _HELP.get(error.errno or 0, "see dmesg")
        raise UsageError(f"cannot open TAP {tap.name!r}: {error.strerror}; {advice}") from None
    return fd, name.rstrip(b"\0").decode()


def mtu_of(tap: Tap, name: str) -> int:
    """Return the MTU that was asked for, or that the device `name` has."""
    if tap.mtu is not None:
        return tap.mtu
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            reply = fcntl.ioctl(sock, SIOCGIFMTU, struct.pack("16si20x", name.encode(), 0))
        except OSError:  # it lies in another network namespace
            return MTU
    return int(struct.unpack("16si20x", reply)[1])


class TapJack:
    """A TAP device as a place for a machine's port; see `vpnstack.link.port.Jack`.

    When the device goes, the guest loses its carrier and `lost` is told.
    """

    def __init__(self, tap: Tap, mac: bytes, lost: Callable[[str], None]) -> None:
        fd, self.name = open_tap(tap)
        self.mac = mac
        self.mtu = mtu_of(tap, self.name)
        self.cable: Cable | None = None
        self._line = TapPort(fd, self.name, self.mtu)
        self._lost = lost

    def plug(self, port: Port) -> None:
        """Join `port` to the device; once."""
        loop = asyncio.get_running_loop()
        self.cable = Cable(loop, self._line, port, self._lost)

    def unplug(self) -> None:
        """Close the port and the device's descriptor; a persistent device stays."""
        if self.cable is not None:
            self.cable.close()
        self._line.close()
