"""TAP devices of the Linux kernel with virtio-net headers (Documentation/networking/tuntap)."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from ..core._core import ffi, lib
from ..core.burst import Burst
from ..errors import UsageError
from .backlog import Backlog
from .port import Offload, PortClosed, PortStatistics
from .soft import Softener

TUNSETIFF = 0x400454CA
TUNSETOFFLOAD = 0x400454D0
TUNSETVNETHDRSZ = 0x400454D8
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
TUN_F_CSUM = 1
TUN_F_TSO4 = 2
TUN_F_TSO6 = 4
TUN_F_TSO_ECN = 8
TUN_F_USO4 = 0x20
TUN_F_USO6 = 0x40
ALWAYS = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN

SLOT = 65664  # bytes for one frame: its virtio-net header and FRAME_LEN_MAX, aligned
SLOTS = 64

_allocate = ffi.new_allocator(should_clear_after_alloc=False)  # touched only as frames arrive


def open_tap(ifname: str) -> tuple[int, str]:
    """Open TAP `ifname` (may hold `%d`) in this namespace; return descriptor and real name.

    Raises `UsageError` where the kernel refuses; the caller needs CAP_NET_ADMIN there.
    """
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as e:
        raise UsageError(f"cannot open /dev/net/tun: {e.strerror}; load the tun module") from e
    try:
        request = struct.pack("16sH22x", ifname.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)
        reply = fcntl.ioctl(fd, TUNSETIFF, request)
        enable_offloads(fd)
    except OSError as e:
        os.close(fd)
        raise UsageError(f"cannot make TAP {ifname!r}: {e.strerror}; CAP_NET_ADMIN needed") from e
    return fd, reply[:16].rstrip(b"\0").decode()


def enable_offloads(fd: int) -> None:
    """Ask for 12-byte headers and for unsegmented, unsummed frames from the kernel's side."""
    fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", 12))
    fcntl.ioctl(fd, TUNSETOFFLOAD, ALWAYS)


def enable_uso(fd: int) -> bool:
    """Ask for unsegmented datagrams as well; False where the kernel is older than Linux 6.2."""
    try:
        fcntl.ioctl(fd, TUNSETOFFLOAD, ALWAYS | TUN_F_USO4 | TUN_F_USO6)
    except OSError:
        return False
    return True


class TapPort:
    """A TAP device as a port; owns the descriptor, which must have been set up by `open_tap`."""

    def __init__(self, fd: int, name: str = "tap0", mtu: int = 1500) -> None:
        self.name = name
        self.mtu = mtu
        self._fd = fd
        os.set_blocking(fd, False)
        self.offload = Offload.CSUM | Offload.TSO4 | Offload.TSO6
        if enable_uso(fd):
            self.offload |= Offload.USO
        self._slots = _allocate("uint8_t[]", SLOTS * SLOT)
        self._backlog = Backlog()
        self._scratch = Burst()
        self._soften = Softener()
        # Counters that C adds to; what it refused is among those that are done.
        self._refused = ffi.new("uint32_t *")
        self._rx_octets, self._tx_octets = ffi.new("uint64_t *"), ffi.new("uint64_t *")
        self._rx_frames = self._tx_done = self._tx_dropped = 0

    @property
    def stalled(self) -> bool:
        """True while frames wait for the device's queue."""
        return len(self._backlog) > 0

    def fileno(self) -> int:
        """The device's descriptor."""
        return self._fd

    def rx_burst(self, burst: Burst) -> int:
        """Read up to 64 frames; see `Port`."""
        room = burst.capacity if burst.capacity < SLOTS else SLOTS
        n = lib.tap_rx_burst(self._fd, burst.array, room, self._slots, SLOT, self._rx_octets)
        if n < 0:
            raise PortClosed(f"{self.name}: reading the TAP device failed: {os.strerror(-n)}")
        burst.count = n
        self._rx_frames += n
        return n  # type: ignore[no-any-return]

    def rx_done(self, burst: Burst) -> None:
        """Forget the burst; its slots are read into again by the next."""
        burst.clear()

    def tx_burst(self, burst: Burst) -> None:
        """Write all frames, or keep copies of what the device does not take now; see `Port`."""
        for part in self._soften(burst, self.offload):
            sent = 0 if self._backlog else self._write(part)
            if sent < part.count:
                self._tx_dropped += self._backlog.push(part, sent)

    def _write(self, burst: Burst) -> int:
        n = lib.tap_tx_burst(self._fd, burst.array, burst.count, self._refused, self._tx_octets)
        if n < 0:  # the device is gone: reading will say so
            self._tx_dropped += burst.count
            return burst.count
        self._tx_done += n
        return n  # type: ignore[no-any-return]

    def flush(self) -> None:
        """Write from the backlog until the device's queue is full again."""
        while self._backlog:
            self._scratch.clear()
            self._backlog.fill(self._scratch)
            n = self._write(self._scratch)
            self._backlog.drop_first(n)
            if n < self._scratch.count:
                break
        self._scratch.clear()

    def close(self) -> None:
        """Close the device; a TAP that nobody else holds disappears."""
        if self._fd >= 0:
            try:
                os.close(self._fd)
            except OSError as e:
                if e.errno != errno.EBADF:
                    raise
            self._fd = -1

    def statistics(self) -> PortStatistics:
        """Return counters since the port was opened."""
        return PortStatistics(
            rx_frames=self._rx_frames,
            rx_octets=self._rx_octets[0],
            tx_frames=self._tx_done - self._refused[0],
            tx_octets=self._tx_octets[0],
            tx_dropped=self._tx_dropped + self._refused[0] + self._soften.dropped,
        )
