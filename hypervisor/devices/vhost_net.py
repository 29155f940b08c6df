"""virtio-net whose frames another process moves (vhost-user): address, status and MTU are ours,
and the control queue (virtio 1.2, 5.1.6.5) with its one command, how many queue pairs are in use.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct

from ..errors import UsageError
from ..queue.layout import Feature
from ..vhost.frontend import Known
from .base import Line
from .net import CONFIG, DEVICE_ID, FEATURES, MTU_MAX, MTU_MIN, Status
from .queue import Chain
from .vhost_user import WAIT, VhostUserDevice

QUEUE_SIZE = 1024
CONTROL_SIZE = 64
PAIRS_MAX = 8
_OURS = Feature.NET_MAC | Feature.NET_MTU | Feature.NET_STATUS  # whatever the back-end says
_MANY = Feature.NET_MQ | Feature.NET_CTRL_VQ
_PAIRS_SET = struct.Struct("<BBH")  # class, command, pairs (5.1.6.5.5)
_MQ = (4, 0)
_OK, _ERR = b"\0", b"\1"


class VhostUserNet(VhostUserDevice):
    """A network interface with address `mac` and up to `pairs` queue pairs."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        mac: bytes,
        mtu: int = 1500,
        *,
        pairs: int = 1,
        listen: bool = False,
        wait: float = WAIT,
    ) -> None:
        if len(mac) != 6 or mac[0] & 1:
            raise UsageError(f"MAC address {mac.hex(':')}, expected 6 bytes, not a group's")
        if not MTU_MIN <= mtu <= MTU_MAX:
            raise UsageError(f"MTU {mtu}, expected {MTU_MIN} to {MTU_MAX}")
        if not 1 <= pairs <= PAIRS_MAX:
            raise UsageError(f"{pairs} queue pairs, expected 1 to {PAIRS_MAX}")
        control = (CONTROL_SIZE,) if pairs > 1 else ()
        super().__init__(
            path,
            device_id=DEVICE_ID,
            queue_sizes=(QUEUE_SIZE,) * 2 * pairs + control,
            listen=listen,
            wanted=int(FEATURES | (_MANY if pairs > 1 else 0)),
            survives=True,
            wait=wait,
        )
        self.mac = mac
        self.mtu = mtu
        self.pairs = pairs
        self._in_use = 1
        self._watched = -1  # the control queue's kick

    def bits(self, known: Known) -> int:
        """Return the back-end's bits and ours; for more than one queue pair, a control queue."""
        back = super().bits(known) & ~int(_MANY)
        return back | int(_OURS | (_MANY if self.pairs > 1 else 0))

    def config(self) -> bytes:
        """Return address, status, queue pairs and MTU; the link is up while a back-end is there."""
        status = Status.LINK_UP if self.online else Status.DOWN
        return CONFIG.pack(self.mac, status, self.pairs, self.mtu)

    def link_changed(self) -> None:
        """Show the driver whether there is a carrier."""
        self.config_changed()

    def check(self, known: Known) -> str:
        """Refuse a back-end of fewer queue pairs than the machine was made with."""
        if self.pairs > 1 and (known.queues < self.pairs or not known.features & Feature.NET_MQ):
            return f"back-end has {known.queues} queue pairs, expected {self.pairs}"
        return super().check(known)

    def mtu_told(self, line: Line) -> int:
        """Tell the MTU if the driver knows it."""
        return self.mtu if line.features & Feature.NET_MTU else 0

    def rings(self, line: Line) -> range:
        """Return all but the control queue, which stands behind what the driver can use."""
        return range(2 * self.pairs if line.features & Feature.NET_MQ else 2)

    def enabled(self, index: int) -> bool:
        """Only the first pair is, until the driver says otherwise (5.1.6.5.5)."""
        return index < 2 * self._in_use

    def activate(self, line: Line) -> None:
        """Hand the rings over, and watch the control queue."""
        self._in_use = 1
        super().activate(line)
        control = self.rings(line).stop
        if line.features & Feature.NET_CTRL_VQ and line.queues[control].attached:
            self._watched = line.kicks[control]
            line.loop.add_reader(self._watched, self._on_control, line, control)

    def _on_control(self, line: Line, index: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._watched)
        queue = line.queues[index]
        for chain in queue.chains():
            short = chain.readable_len == _PAIRS_SET.size
            data = b"".join(map(bytes, chain.readable)) if short else b""
            queue.done(chain, _write(chain, self._command(data, line)))

    def _command(self, data: bytes, line: Line) -> bytes:
        if not data or not line.features & Feature.NET_MQ:
            return _ERR
        *command, pairs = _PAIRS_SET.unpack(data)
        if tuple(command) != _MQ or not 1 <= pairs <= self.pairs:
            return _ERR
        before, self._in_use = self._in_use, pairs
        for index in range(2 * min(before, pairs), 2 * max(before, pairs)):
            self.set_enabled(index, index < 2 * pairs)
        return _OK

    def reset(self) -> asyncio.Future[None] | None:
        """Take the rings back."""
        if self._watched >= 0 and self._loop is not None:
            self._loop.remove_reader(self._watched)
        self._watched = -1
        return super().reset()


def _write(chain: Chain, answer: bytes) -> int:
    """Write the one byte of an answer; where there is no room for it, nothing is."""
    for piece in chain.writable:
        if len(piece):
            piece[:1] = answer
            return 1
    return 0
