"""Network interfaces of a machine in another process: a vhost-user socket for each jack."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from vpnstack.link.port import Jack, Listener, Port

from .nic import Nic, Tap, VhostUser, mac_of
from .tap import open_tap

Listen = Callable[..., Listener]  # (address, *, mtu) -> Listener


class Nics:
    """Listens in `directory` for the front-ends of jacks and plugs in what connects.

    `wires` says in their order what each is for the front-end (`Wires.nics`), `fds` what it is to
    inherit.
    """

    def __init__(
        self,
        nics: Sequence[Nic],
        machine: str,
        directory: Path,
        listen: Listen,
        connected: Callable[[str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._connected = connected
        self._open: list[tuple[Jack, Listener]] = []
        self.ports: dict[str, Port] = {}  # the newest of each jack, by its name
        self.wires: list[tuple[str | int | Tap | VhostUser, bytes]] = []
        self.fds: list[int] = []
        try:
            for number, nic in enumerate(nics):
                if isinstance(nic, Tap | VhostUser):
                    self.wires.append((self._foreign(nic), mac_of(nic, machine)))
                else:
                    self._add(nic, str(directory / f"nic{number}"), listen)
        except BaseException:
            self.close()
            raise

    def _foreign(self, nic: Tap | VhostUser) -> int | Tap | VhostUser:
        """Open a TAP device of one queue here, for QEMU may lack the permission later."""
        if isinstance(nic, VhostUser) or nic.queues > 1:
            return nic
        self.fds.append(open_tap(nic)[0])
        return self.fds[-1]

    def _add(self, jack: Jack, path: str, listen: Listen) -> None:
        listener = listen(path, mtu=jack.mtu)
        self._open.append((jack, listener))
        self.wires.append((path, jack.mac))
        self._loop.add_reader(listener.fileno(), self._accept, jack, listener)

    def _accept(self, jack: Jack, listener: Listener) -> None:
        for port in listener.accept():
            jack.plug(port)
            self.ports[jack.name] = port
            self._connected(jack.name)

    def inherited(self) -> None:
        """Close what was for the front-end, which has it by now."""
        while self.fds:
            os.close(self.fds.pop())

    def close(self) -> None:
        """Unplug everything and remove the sockets."""
        self.inherited()
        while self._open:
            jack, listener = self._open.pop()
            self._loop.remove_reader(listener.fileno())
            listener.close()
            jack.unplug()
