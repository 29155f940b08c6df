"""The contestants: each gives a guest namespace a way to the loopback of a host namespace.

A `Setup` has namespaces, servers and a process of its own, so that all may be up at once and be
measured in turns.  The host's namespace has a default route to nowhere, which pasta wants to see.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from .harness import LOAD, BenchmarkError, Lab, Namespace, Process, output, wait_for

PORT = 7000  # echo; bulk is the next one
IPERF = 5201
OURS = [sys.executable, "-c", "from vpnstack.cli import main; main()"]


@dataclass(slots=True)
class Setup:
    """A tool that is up: `guest` reaches the servers of `host` at `address`."""

    tool: str
    mtu: int
    host: Namespace
    guest: Namespace
    address: str
    process: Process | None = None  # None: the kernel does it


def loopback(lab: Lab, host: Namespace, mtu: int) -> Setup:
    """Client and server on one loopback device, whose MTU is as large as may be."""
    return Setup("loopback", 65536, host, host, "127.0.0.1")


def veth(lab: Lab, host: Namespace, mtu: int) -> Setup:
    """The kernel's own pair of Ethernet devices: the limit."""
    guest = lab.namespace("veth")
    host.ip("link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", guest.name)
    for where, name, address in ((host, "up0", "10.9.0.1/24"), (guest, "eth0", "10.9.0.2/24")):
        where.ip("addr", "add", address, "dev", name)
        where.ip("link", "set", name, "mtu", str(mtu), "up")
    return Setup("veth", mtu, host, guest, "10.9.0.1")


def slirp4netns(lab: Lab, host: Namespace, mtu: int) -> Setup:
    """Slirp for namespaces, libslirp's heir, in C."""
    guest = lab.namespace("slirp")
    with lab.ready() as fd:
        line = f"slirp4netns -c -m {mtu} -r {fd} --netns-type=path {guest.path} tap0"
        process = lab.process(host.argv(*line.split()), pass_fds=[fd])
    return Setup("slirp4netns", mtu, host, guest, "10.0.2.2", process)


def pasta(lab: Lab, host: Namespace, mtu: int) -> Setup:
    """passt's sibling for namespaces, in C; without its ports of the loopback's short cut."""
    guest = lab.namespace("pasta")
    line = (
        f"pasta --runas 0 -f -q -e -m {mtu} -a 10.9.1.2 -n 255.255.255.0 -g 10.9.1.1 -I tap0 "
        f"--config-net -t none -u none -T none -U none --netns {guest.path}"
    )
    process = lab.process(host.argv(*line.split()))

    def configured() -> bool:
        if process.popen.poll() is not None:
            raise BenchmarkError(f"pasta ended: {process.said()}")
        return "default" in output(["ip", "-n", guest.name, "route"])

    wait_for(configured, "pasta's route")
    guest.ip("link", "set", "tap0", "mtu", str(mtu))  # this is what -m leaves to DHCP
    return Setup("pasta", mtu, host, guest, "10.9.1.1", process)


def ours(lab: Lab, host: Namespace, mtu: int) -> Setup:
    """`vpnstack attach`, one Python process."""
    guest = lab.namespace("ours")
    with lab.ready() as fd:
        line = [*OURS, "attach", "--netns", guest.name, "--mtu", str(mtu), "--ready-fd", str(fd)]
        process = lab.process(host.argv(*line), pass_fds=[fd])
    return Setup("ours", mtu, host, guest, "192.168.127.254", process)


TOOLS: dict[str, Callable[[Lab, Namespace, int], Setup]] = {
    "loopback": loopback, "veth": veth, "slirp4netns": slirp4netns, "pasta": pasta, "ours": ours,
}  # fmt: skip


def host_namespace(lab: Lab) -> Namespace:
    """Make a host with a device and a default route that lead nowhere, and servers."""
    host = lab.namespace("host")
    host.ip("link", "add", "ext0", "type", "veth", "peer", "name", "ext1")
    host.ip("addr", "add", "10.77.0.1/24", "dev", "ext0")
    for name in ("ext0", "ext1"):
        host.ip("link", "set", name, "up")
    host.ip("route", "add", "default", "via", "10.77.0.2")
    lab.process(host.argv("iperf3", "-s", "-p", str(IPERF)))
    lab.process(host.argv(sys.executable, "-S", str(LOAD), "serve", str(PORT)))
    wait_for(lambda: _listening(host), "servers")
    return host


def _listening(host: Namespace) -> bool:
    table = subprocess.run(
        host.argv("cat", "/proc/net/tcp", "/proc/net/tcp6"), capture_output=True, text=True,
        check=False,
    ).stdout  # fmt: skip
    return all(f":{port:04X} " in table for port in (IPERF, PORT, PORT + 1))


def start(lab: Lab, tool: str, mtu: int) -> Setup:
    """Bring a tool up between namespaces of its own."""
    return TOOLS[tool](lab, host_namespace(lab), mtu)
