"""Configuration, targets, messages and netlink requests: all that needs no namespace."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg

from vpnstack.errors import UsageError
from vpnstack.host import configure, resolver, spawn
from vpnstack.host.namespace import NamespaceConfig, NamespaceError, Target

CONFIG = NamespaceConfig(
    addresses=("192.168.127.2/24", "fd00:127::2/64"),
    gateways=("192.168.127.1", "fd00:127::1"),
    dns=("192.168.127.1", "fd00:127::1"),
    search=("internal",),
    mac=bytes.fromhex("525400010203"),
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ifname": ""}, "interface name"),
        ({"ifname": "x" * 16}, "interface name"),
        ({"ifname": "a/b"}, "interface name"),
        ({"ifname": ".."}, "interface name"),
        ({"ifname": "tap%d"}, "interface name"),
        ({"ifname": "a b"}, "interface name"),
        ({"mtu": 67}, "found 67"),
        ({"mtu": 65522}, "found 65522"),
        ({"mac": b"\x02"}, "MAC"),
        ({"mac": bytes.fromhex("010000000000")}, "unicast"),
        ({"addresses": ("10.0.0.256/8",)}, "10.0.0.256"),
        ({"gateways": ("nonsense",)}, "nonsense"),
        ({"dns": ("host.internal",)}, "host.internal"),
        ({"gateways": ("10.0.0.1", "10.0.0.2")}, "one of each family"),
        ({"mtu": 1279, "addresses": ("fd00::1/64",)}, "IPv6 needs 1280"),
        ({"mtu": 1279, "accept_ra": True}, "IPv6 needs 1280"),
    ],
)
def test_config_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        NamespaceConfig(**arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_config_limits_accepted() -> None:
    assert NamespaceConfig(ifname="x" * 15, mtu=68).mtu == 68
    assert NamespaceConfig(mtu=65521, accept_ra=True).mtu == 65521


def test_resolv_conf() -> None:
    assert CONFIG.resolv_conf == (
        "search internal\nnameserver 192.168.127.1\nnameserver fd00:127::1\n"
    )
    assert NamespaceConfig(search=("internal",)).resolv_conf == ""


def test_without_ipv6() -> None:
    plain = CONFIG.without_ipv6()
    assert (plain.addresses, plain.gateways) == (("192.168.127.2/24",), ("192.168.127.1",))


@pytest.mark.parametrize(
    ("text", "path", "name"),
    [
        ("123", "/proc/123/ns/net", None),
        ("blue", "/run/netns/blue", "blue"),
        ("/run/netns/blue", "/run/netns/blue", "blue"),
        ("/var/run/netns/blue", "/var/run/netns/blue", "blue"),
        ("/tmp/blue", "/tmp/blue", None),
    ],
)
def test_target(text: str, path: str, name: str | None) -> None:
    target = Target.parse(text)
    assert (str(target.path), target.name) == (path, name)


def test_target_refused() -> None:
    for arguments in ({}, {"pid": 1, "netns": "x"}, {"netns": ".."}):
        with pytest.raises(UsageError, match="target: expected"):
            Target(**arguments)  # type: ignore[arg-type]


def test_target_missing(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(NamespaceError, match="does not exist"):
        Target(netns=f"{tmp_path}/none").open()
    (tmp_path / "file").touch()
    with pytest.raises(NamespaceError, match="expected a network namespace, found"):
        Target(netns=f"{tmp_path}/file").open()
    assert set(os.listdir("/proc/self/fd")) <= before


def test_requests_order() -> None:
    assert [request.what for request in configure.requests(7, CONFIG)] == [
        "bringing up lo",
        "setting MTU, queue and MAC of tap0",
        "bringing up tap0",
        "adding 192.168.127.2/24 to tap0",
        "adding fd00:127::2/64 to tap0",
        "adding a default route via 192.168.127.1",
        "adding a default route via fd00:127::1",
    ]


def test_address_request_round_trip() -> None:
    (message,) = [
        r.message for r in configure.requests(7, CONFIG) if r.what.startswith("adding fd00:127::2")
    ]
    message.encode()
    parsed = ifaddrmsg(message.data)
    parsed.decode()
    assert (parsed["index"], parsed["prefixlen"], parsed["family"]) == (7, 64, socket.AF_INET6)
    assert parsed.get("IFA_ADDRESS") == "fd00:127::2"


def test_netlink_refusal_is_one_line() -> None:
    """Our own namespace refuses a device that does not exist (or us, without privilege)."""
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    config = NamespaceConfig(ifname="none0", addresses=("192.0.2.1/32",))
    requests = [r for r in configure.requests(2**31 - 1, config) if "192.0.2.1" in r.what]
    with netlink:
        netlink.settimeout(configure.TIMEOUT)
        code = configure._transact(netlink, requests[0], 1)
    assert code in {errno.ENODEV, errno.EPERM}


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        ("user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=10000"),
        ("user/max_user_namespaces", "63000", "seccomp"),
    ],
)
def test_userns_refusal_names_the_switch(tmp_path: Path, name: str, value: str, hint: str) -> None:
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text(value + "\n")
    message = spawn.userns_refusal(errno.EPERM, tmp_path)
    assert hint in message
    assert "\n" not in message


def test_userns_refusal_limit_reached(tmp_path: Path) -> None:
    assert "raise user.max_user_namespaces" in spawn.userns_refusal(errno.ENOSPC, tmp_path)


def test_resolver_written_and_removed(tmp_path: Path) -> None:
    done = resolver.install(Target(netns="blue"), CONFIG, tmp_path)
    path = tmp_path / "blue/resolv.conf"
    assert (done.path, done.note, path.read_text()) == (path, "", CONFIG.resolv_conf)
    done.remove()
    assert list(tmp_path.iterdir()) == []


def test_resolver_leaves_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "blue").mkdir()
    (tmp_path / "blue/resolv.conf").write_text("nameserver 9.9.9.9\n")
    done = resolver.install(Target(netns="blue"), CONFIG, tmp_path)
    assert done.path is None
    assert "exists and was left as it is" in done.note
    done.remove()
    assert (tmp_path / "blue/resolv.conf").read_text() == "nameserver 9.9.9.9\n"


def test_resolver_keeps_what_the_user_changed(tmp_path: Path) -> None:
    done = resolver.install(Target(netns="blue"), CONFIG, tmp_path)
    (tmp_path / "blue/resolv.conf").write_text("nameserver 9.9.9.9\n")
    done.remove()
    assert (tmp_path / "blue/resolv.conf").exists()


def test_resolver_of_a_process_is_told_only(tmp_path: Path) -> None:
    done = resolver.install(Target(pid=1), CONFIG, tmp_path)
    assert done.path is None
    assert "name 192.168.127.1 and fd00:127::1 in its resolv.conf" in done.note


def test_resolver_not_asked_for(tmp_path: Path) -> None:
    done = resolver.install(Target(netns="blue"), NamespaceConfig(), tmp_path)
    assert (done.path, done.note) == (None, "")
    assert list(tmp_path.iterdir()) == []
