"""Pings through `vpnstack run` with real ICMP sockets, on a host with routers behind it."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.compat]
CLI = [sys.executable, "-c", "from vpnstack.cli import main; main()"]
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
}  # fmt: skip
COUNT = itertools.count()
RANGE = "net.ipv4.ping_group_range"


@pytest.fixture
def host(require: Callable[..., None]) -> Iterator[str]:
    """A host behind a router: 198.51.100.1 and 2001:db8:2::1 are two hops away from it."""
    require("root", "/dev/net/tun", "ip", "ping")
    base = f"vp{os.getpid()}-{next(COUNT)}"
    names = [f"{base}{x}" for x in "hrt"]
    script = "set -e\n" + "".join(
        f"ip netns add {n}; ip -n {n} link set lo up\n"
        f"ip netns exec {n} sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1\n"
        for n in names
    )
    for i, (a, b) in enumerate(itertools.pairwise(names)):
        script += (
            f"ip -n {a} link add down{i} type veth peer name up{i} netns {b}\n"
            f"ip -n {a} link set down{i} up; ip -n {b} link set up{i} up\n"
            f"ip -n {a} addr add 203.0.11{i}.1/24 dev down{i}\n"
            f"ip -n {b} addr add 203.0.11{i}.2/24 dev up{i}\n"
            f"ip -n {a} addr add 2001:db8:f{i}::1/64 dev down{i} nodad\n"
            f"ip -n {b} addr add 2001:db8:f{i}::2/64 dev up{i} nodad\n"
        )
    h, r, t = names
    script += (
        f"ip -n {t} addr add 198.51.100.1/32 dev lo\n"
        f"ip -n {t} addr add 2001:db8:2::1/128 dev lo\n"
        f"ip -n {h} route add default via 203.0.110.2\n"
        f"ip -n {r} route add default via 203.0.111.2\n"
        f"ip -n {t} route add default via 203.0.111.1\n"
        f"ip -n {h} -6 route add default via 2001:db8:f0::2\n"
        f"ip -n {r} -6 route add default via 2001:db8:f1::2\n"
        f"ip -n {t} -6 route add default via 2001:db8:f1::1\n"
    )
    try:
        subprocess.run(["sh", "-c", script], check=True)
        yield h
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)


def allow(host: str, text: str) -> None:
    subprocess.run(["ip", "netns", "exec", host, "sysctl", "-qw", f"{RANGE}={text}"], check=True)


def run(host: str, *argv: str) -> str:
    line = ["ip", "netns", "exec", host, *CLI, "run", "--", *argv]
    done = subprocess.run(
        line, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout + done.stderr


FAMILIES = pytest.mark.parametrize(
    ("family", "target", "router", "gateway"),
    [
        ("-4", "198.51.100.1", "203.0.110.2", "192.168.127.1"),
        ("-6", "2001:db8:2::1", "2001:db8:f0::2", "fd00:127::1"),
    ],
)


@FAMILIES
def test_ping_and_hops(host: str, family: str, target: str, router: str, gateway: str) -> None:
    allow(host, "0 2147483647")
    ping = f"ping {family} -i 0.2 -W 2"
    script = (
        f"{ping} -c 3 {target}; {ping} -c 1 -s 3000 {target};"
        f"{ping} -c 1 -t 1 {target}; {ping} -c 1 -t 2 {target}; {ping} -c 1 -t 4 {target}"
    )
    out = run(host, "sh", "-c", script)
    assert "3 packets transmitted, 3 received, 0% packet loss" in out, out
    assert "3008 bytes from" in out, out
    said = ("ime to live", "ime exceeded", "Hop limit")
    first, second = (line for line in out.splitlines() if any(text in line for text in said))
    assert gateway in first, out
    assert router in second, out
    assert out.count("1 received") == 2, out  # the long one, and the one with four hops


@FAMILIES
def test_no_answer_where_the_host_has_none(
    host: str, family: str, target: str, router: str, gateway: str
) -> None:
    """Nobody has the address: no answer is made up, and the router's own error comes through."""
    allow(host, "0 2147483647")
    nobody = "203.0.110.99" if family == "-4" else "2001:db8:f0::99"
    out = run(host, "sh", "-c", f"ping {family} -c 2 -W 4 {nobody}; ping {family} -c 1 {gateway}")
    assert "2 packets transmitted, 0 received" in out, out
    assert "1 packets transmitted, 1 received" in out, out


@FAMILIES
def test_without_icmp_sockets(
    host: str, family: str, target: str, router: str, gateway: str
) -> None:
    allow(host, "1 0")
    out = run(host, "sh", "-c", f"ping {family} -c 1 -W 1 {target}; ping {family} -c 1 {gateway}")
    assert "1 packets transmitted, 0 received" in out, out
    assert "1 packets transmitted, 1 received" in out, out
    assert "Traceback" not in out
