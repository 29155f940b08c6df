"""The network interfaces of a machine on KVM: a device for each, and where it is plugged in."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from vpnstack.link.port import Jack

from ..devices.base import Device
from ..devices.net import Net
from ..devices.vhost_net import VhostUserNet
from ..errors import UsageError
from .base import EventKind, Notify
from .nic import Nic, Tap, VhostUser, mac_of
from .tap import TapJack


class Links:
    """Makes the devices of `nics`, in their order; `plug` once a machine has them."""

    def __init__(self, nics: Sequence[Nic], machine: str, notify: Notify) -> None:
        self.devices: list[Device] = []
        self._notify = notify
        self._jacks: list[tuple[Jack, Net]] = []
        self._plugged: list[Jack] = []
        try:
            for nic in nics:
                self.devices.append(self._make(nic, machine))
        except BaseException:
            self.close()
            raise

    def _make(self, nic: Nic, machine: str) -> Device:
        if isinstance(nic, VhostUser):
            device = VhostUserNet(
                nic.path, mac_of(nic, machine), nic.mtu,
                pairs=nic.queues, listen=nic.listen, wait=nic.wait,
            )  # fmt: skip
            device.connected = partial(self._notify, EventKind.NIC_CONNECTED, str(nic))
            return device
        jack: Jack
        if isinstance(nic, Tap):
            if nic.queues > 1:
                raise UsageError(f"{nic}: {nic.queues} queues, expected 1 unless on engine qemu")
            jack = TapJack(nic, mac_of(nic, machine), partial(self._notify, EventKind.WARNING))
            self._plugged.append(jack)  # its descriptor is open already
        else:
            jack = nic
        net = Net(jack.mac, jack.mtu, name=jack.name)
        self._jacks.append((jack, net))
        return net

    def plug(self) -> None:
        """Plug every device in."""
        for jack, net in self._jacks:
            if jack not in self._plugged:
                self._plugged.append(jack)
            jack.plug(net.port)
            self._notify(EventKind.NIC_CONNECTED, jack.name)

    def close(self) -> None:
        """Unplug everything; may be called again."""
        while self._plugged:
            self._plugged.pop().unplug()
