"""The vhost-user-net back-end as a port of vpnstack.

A virtual machine monitor (or DPDK's virtio-user) connects to the socket, shares its memory by
descriptor, and from then on frames move through virtqueues without a system call a frame.  A port
is one connection; when its front-end goes, `rx_burst` raises `PortClosed`.
"""

from __future__ import annotations

import logging
import select
import socket

from vpnstack.link.port import Port

from ..errors import PeerError, UsageError
from .actions import Action, Reply, SetFeatures, SetMtu, Stop, fds_of
from .backend import Backend
from .channel import Channel, Incoming, close_fds
from .offer import PAIRS_MAX
from .ringport import RingPort, Soften, offload_of
from .unix import BACKLOG, UnixListener

log = logging.getLogger(__name__)

MESSAGES_A_BURST = 64  # control messages served before frames get their turn


class VhostUserPort(RingPort):
    """A link to one front-end over `sock`, which it takes over; see `vpnstack.link.port.Port`."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        name: str = "vhost-user",
        mtu: int = 1500,
        pairs: int = PAIRS_MAX,
        soften: Soften | None = None,
    ) -> None:
        super().__init__(name, mtu, pairs, soften)
        self._backend = Backend(pairs=pairs, mtu=mtu)
        self._channel = Channel(sock)
        self._epoll.register(self._channel.fileno(), select.EPOLLIN)

    def _control(self, fd: int) -> None:
        for _ in range(MESSAGES_A_BURST):
            message = self._channel.receive()
            if message is None:
                return
            self._message(message)

    def _message(self, message: Incoming) -> None:
        try:
            actions = self._backend.receive(*message)
        except PeerError:
            close_fds(message.fds)
            raise
        log.debug("%s: %s", self.name, message.header)
        self._execute(actions, message.fds)

    def _execute(self, actions: list[Action], fds: tuple[int, ...]) -> None:
        """Do `actions`; descriptors among `fds` that none of them took over are closed."""
        unclaimed = set(fds)
        try:
            for action in actions:
                unclaimed.difference_update(fds_of(action))
                self._act(action)
        finally:
            close_fds(tuple(unclaimed))
            self._device.refresh()

    def _act(self, action: Action) -> None:
        if isinstance(action, Reply):
            self._channel.send(action.data)
        elif isinstance(action, Stop):
            last_avail = self._device.rings[action.index].detach()
            self._channel.send(self._backend.base_reply(action.index, last_avail))
        elif isinstance(action, SetFeatures):
            self.offload = offload_of(action.features)
        elif isinstance(action, SetMtu):
            self.mtu = action.mtu
        else:
            self._device.execute(action)

    def _broken(self, index: int) -> None:
        """Tell the front-end; the rest of the connection lives on."""
        self._device.fail(index)
        self._execute(self._backend.broken(index), ())

    def _release(self) -> None:
        self._channel.close()


class VhostUserListener:
    """A unix socket at which front-ends arrive; see `vpnstack.link.port.Listener`."""

    def __init__(self, path: str, *, mtu: int) -> None:
        self._listener = UnixListener(path, BACKLOG)
        self._sock = self._listener.sock
        self.path = path
        self._mtu = mtu
        self._count = 0

    def fileno(self) -> int:
        """Return the listening socket's descriptor."""
        return self._sock.fileno()

    def accept(self) -> list[Port]:
        """Return ports for the front-ends that arrived."""
        ports: list[Port] = []
        while len(ports) < BACKLOG:
            try:
                sock, _ = self._sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                break
            except OSError as exc:  # out of descriptors: the next call tries again
                log.warning("%s: %s", self.path, exc.strerror)
                break
            self._count += 1
            name = f"{self.path}#{self._count}"
            try:
                ports.append(VhostUserPort(sock, name=name, mtu=self._mtu))
            except OSError as exc:
                sock.close()
                log.warning("%s: %s", name, exc.strerror)
        return ports

    def close(self) -> None:
        """Stop listening and remove the socket file, unless somebody else's stands there now."""
        self._listener.close()


def listen(address: str, *, mtu: int) -> VhostUserListener:
    """Listen at the path `address` for front-ends (entry point of `vpnstack.ports`)."""
    return VhostUserListener(address, mtu=mtu)


def connect(address: str, *, mtu: int) -> VhostUserPort:
    """Connect to a front-end that listens itself (QEMU's `server=on`); UsageError if none does."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.connect(address)
    except OSError as exc:
        sock.close()
        raise UsageError(f"{address}: {exc.strerror or exc}") from exc
    return VhostUserPort(sock, name=address, mtu=mtu)
