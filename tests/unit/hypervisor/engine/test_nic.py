"""Descriptions of network interfaces: what they say, and what cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from hypervisor import Tap, UsageError, VhostUser
from hypervisor.engine.nic import mac_of, parse_mac, parse_nic
from hypervisor.engine.qemu_args import nic

MAC = bytes.fromhex("020000000001")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tap:tap0", Tap("tap0")),
        ("tap:t,mac=02:00:00:00:00:01,mtu=9000", Tap("t", mac="02:00:00:00:00:01", mtu=9000)),
        ("vhost-user:/run/a", VhostUser("/run/a")),
        ("vhost-user:a,queues=4,listen", VhostUser("a", queues=4, listen=True)),
    ],
)
def test_parse(text: str, expected: object) -> None:
    assert parse_nic(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tap", "expected tap:NAME"),
        ("tap:", "expected tap:NAME"),
        ("bridge:br0", "expected tap:NAME"),
        ("tap:a,listen", "option 'listen'"),
        ("tap:a,mtu=big", "option 'mtu=big'"),
        ("tap:a,mtu=1", "expected 68"),
        ("tap:a,mac=1", "expected 6 bytes"),
        ("tap:a,mac=01:00:00:00:00:00", "not a group's"),
        ("vhost-user:a,queues=99", "expected 1 to 8"),
        ("tap:a-name-that-is-long", "1 to 15 bytes"),
    ],
)
def test_parse_what_is_none(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_nic(text)


def test_addresses_are_stable_and_ones_own() -> None:
    tap, user = Tap("tap0"), VhostUser(Path("/run/a"))
    assert mac_of(tap, "vm") == mac_of(Tap("tap0"), "vm")
    assert len({mac_of(tap, "vm"), mac_of(user, "vm"), mac_of(tap, "vm2")}) == 3
    assert mac_of(tap, "vm")[0] & 3 == 2
    assert mac_of(Tap("tap0", mac=MAC), "vm") == parse_mac("02-00-00-00-00-01") == MAC


def test_arguments_for_qemu() -> None:
    """The last pair is the device; a TAP of one queue is inherited, the rest is QEMU's to open."""
    device = "virtio-net-device,netdev=net1,mac=02:00:00:00:00:01"
    assert nic(1, 7, MAC) == ["-netdev", "tap,id=net1,fd=7", "-device", device]
    assert nic(1, Tap("t", queues=2), MAC) == [
        "-netdev", "tap,id=net1,ifname=t,script=no,downscript=no,queues=2",
        "-device", f"{device},mq=on",
    ]  # fmt: skip
    assert nic(1, VhostUser("/a", queues=2), MAC) == [
        "-chardev", "socket,id=nic1,path=/a,reconnect=1",
        "-netdev", "vhost-user,id=net1,chardev=nic1,queues=2",
        "-device", f"{device},host_mtu=1500,mq=on",
    ]  # fmt: skip
    assert "server=on" in nic(1, VhostUser("/a", listen=True), MAC)[1]
