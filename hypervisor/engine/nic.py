"""Network interfaces that are not jacks of this process: their descriptions, as data.

Machine(..., nics=[net.port("vm1"), Tap("tap0"), VhostUser("/run/switch/vm1.sock")])
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

from vpnstack.link.port import Jack

from ..devices.net import MTU_MAX, MTU_MIN
from ..errors import UsageError

MTU = 1500
QUEUES_MAX = 8


@dataclass(frozen=True, slots=True)
class Tap:
    """A TAP device of the host's kernel, by name or as an open descriptor (which stays yours).

    One that exists is taken; else it is made (CAP_NET_ADMIN), and with `persist` it stays.  Give it
    addresses, a bridge and the state "up" with `ip`.  The MAC is the guest's.
    """

    name: str | int
    mac: str | bytes | None = None
    mtu: int | None = None  # the device's own, 1500 where that cannot be known
    queues: int = 1
    persist: bool = False

    def __post_init__(self) -> None:
        _check(self)
        if isinstance(self.name, str) and not 0 < len(os.fsencode(self.name)) < 16:
            raise UsageError(f"TAP device {self.name!r}, expected a name of 1 to 15 bytes")

    def __str__(self) -> str:
        return f"tap:{self.name}"


@dataclass(frozen=True, slots=True)
class VhostUser:
    """A vhost-user back-end, a switch say, to which we connect at `path`, or for which we `listen`
    there.  A machine waits `wait` seconds for it when it starts, and survives its restarts."""

    path: str | os.PathLike[str]
    mac: str | bytes | None = None
    mtu: int = MTU
    queues: int = 1
    listen: bool = False
    wait: float = 10.0

    def __post_init__(self) -> None:
        _check(self)

    def __str__(self) -> str:
        return f"vhost-user:{os.fspath(self.path)}"


Nic = Jack | Tap | VhostUser


def _check(nic: Tap | VhostUser) -> None:
    parse_mac(nic.mac)
    if nic.mtu is not None and not MTU_MIN <= nic.mtu <= MTU_MAX:
        raise UsageError(f"MTU {nic.mtu}, expected {MTU_MIN} to {MTU_MAX}")
    if not 1 <= nic.queues <= QUEUES_MAX:
        raise UsageError(f"{nic.queues} queues, expected 1 to {QUEUES_MAX}")


def parse_mac(mac: str | bytes | None) -> bytes | None:
    """Return the six bytes of an address; UsageError where it is none or a group's."""
    if mac is None:
        return None
    try:
        data = bytes.fromhex(mac.replace(":", "").replace("-", "")) if isinstance(mac, str) else mac
    except ValueError:
        data = b""
    if len(data) != 6 or data[0] & 1:
        raise UsageError(f"MAC address {mac!r}, expected 6 bytes, not a group's")
    return data


def mac_of(nic: Tap | VhostUser, machine: str) -> bytes:
    """Return the address of a machine's interface: always the same one where none was given."""
    given = parse_mac(nic.mac)
    if given is not None:
        return given
    return b"\x02" + hashlib.blake2b(f"{machine} {nic}".encode(), digest_size=5).digest()


def parse_nic(text: str) -> Tap | VhostUser:
    """Read "tap:NAME" or "vhost-user:PATH", with ",mac=", ",mtu=", ",queues=" or ",listen"."""
    kind, _, rest = text.partition(":")
    where, *words = rest.split(",")
    options: dict[str, object] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if key == "mac" and equals:
            options[key] = value
        elif key in ("mtu", "queues") and value.isdecimal():
            options[key] = int(value)
        elif word == "listen" and kind == "vhost-user":
            options[key] = True
        else:
            raise UsageError(f"NIC option {word!r}, expected mac=, mtu=, queues= or listen")
    if where and kind == "tap":
        return Tap(where, **options)  # type: ignore[arg-type]
    if where and kind == "vhost-user":
        return VhostUser(where, **options)  # type: ignore[arg-type]
    raise UsageError(f"NIC {text!r}, expected tap:NAME or vhost-user:PATH")
