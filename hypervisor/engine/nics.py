"""Network interfaces of a machine in another process: a vhost-user socket for each jack."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from vpnstack.link.port import Jack, Listener, Port

Listen = Callable[..., Listener]  # (address, *, mtu) -> Listener


class Nics:
    """Listens in `directory` for the front-ends of `jacks` and plugs in what connects."""

    def __init__(
        self,
        jacks: Sequence[Jack],
        directory: Path,
        listen: Listen,
        connected: Callable[[str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._connected = connected
        self._open: list[tuple[Jack, Listener]] = []
        self.sockets: list[tuple[str, bytes]] = []
        self.ports: dict[str, Port] = {}  # the newest of each jack, by its name
        try:
            for number, jack in enumerate(jacks):
                self._add(jack, str(directory / f"nic{number}"), listen)
        except BaseException:
            self.close()
            raise

    def _add(self, jack: Jack, path: str, listen: Listen) -> None:
        listener = listen(path, mtu=jack.mtu)
        self._open.append((jack, listener))
        self.sockets.append((path, jack.mac))
        self._loop.add_reader(listener.fileno(), self._accept, jack, listener)

    def _accept(self, jack: Jack, listener: Listener) -> None:
        for port in listener.accept():
            jack.plug(port)
            self.ports[jack.name] = port
            self._connected(jack.name)

    def close(self) -> None:
        """Unplug everything and remove the sockets."""
        while self._open:
            jack, listener = self._open.pop()
            self._loop.remove_reader(listener.fileno())
            listener.close()
            jack.unplug()
