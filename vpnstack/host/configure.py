"""Sets up links, addresses and routes through a netlink socket of the namespace they are in.

A netlink socket belongs to the namespace it was opened in, whoever uses it, so that this runs in
our own process: pyroute2 encodes the messages, one request and its acknowledgement at a time.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Any, NamedTuple

from pyroute2.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NLMSG_ERROR
from pyroute2.netlink.rtnl import RTM_NEWADDR, RTM_NEWLINK, RTM_NEWROUTE
from pyroute2.netlink.rtnl.ifaddrmsg import IFA_F_NODAD, ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import IFF_UP, ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from .namespace import NamespaceConfig, NamespaceError

LOOPBACK_INDEX = 1  # the kernel's LOOPBACK_IFINDEX, in every network namespace
TIMEOUT = 5.0  # seconds for one request; the kernel answers in microseconds
QUEUE_FRAMES = 4096  # the kernel's 1,000 are soon full of somebody's one-byte segments
RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_UNIVERSE, RTN_UNICAST = 254, 4, 0, 1  # rtnetlink(7)


class Request(NamedTuple):
    """One netlink request: what it does in words, its type, flags and message."""

    what: str
    kind: int
    flags: int
    message: Any


def requests(index: int, config: NamespaceConfig) -> Iterator[Request]:
    """Yield what makes the device `index` look as `config` says, in order."""
    name = config.ifname
    yield Request("bringing up lo", RTM_NEWLINK, 0, _link(LOOPBACK_INDEX, up=True))
    attrs: list[tuple[str, Any]] = [("IFLA_MTU", config.mtu), ("IFLA_TXQLEN", QUEUE_FRAMES)]
    if config.mac:
        attrs.append(("IFLA_ADDRESS", config.mac.hex(":")))
    yield Request(f"setting MTU, queue and MAC of {name}", RTM_NEWLINK, 0, _link(index, attrs))
    yield Request(f"bringing up {name}", RTM_NEWLINK, 0, _link(index, up=True))
    create = NLM_F_CREATE | NLM_F_EXCL
    for each in config.interfaces:
        message = _address(index, each.ip, each.network.prefixlen)
        yield Request(f"adding {each} to {name}", RTM_NEWADDR, create, message)
    for router in config.routers:
        message = _default_route(index, router)
        yield Request(f"adding a default route via {router}", RTM_NEWROUTE, create, message)


def apply(netlink: socket.socket, index: int, config: NamespaceConfig) -> None:
    """Send all requests through `netlink`, which is closed.  Raises `NamespaceError`."""
    with netlink:
        netlink.settimeout(TIMEOUT)
        for sequence, request in enumerate(requests(index, config), 1):
            code = _transact(netlink, request, sequence)
            if code:
                raise NamespaceError(f"{request.what}: {_reason(request, code)}")


def _reason(request: Request, code: int) -> str:
    if code == errno.EEXIST and request.kind == RTM_NEWROUTE:
        return "the namespace has a default route already; use --no-configure to leave it"
    if code == errno.ENETUNREACH:
        return "no address of the interface reaches that gateway"
    return os.strerror(code)


def _transact(netlink: socket.socket, request: Request, sequence: int) -> int:
    """Send one request and wait for its acknowledgement; returns its errno, 0 for success."""
    message = request.message
    message["header"]["type"] = request.kind
    message["header"]["flags"] = NLM_F_REQUEST | NLM_F_ACK | request.flags
    message["header"]["sequence_number"] = sequence
    message.encode()
    netlink.send(message.data)
    while True:
        data = netlink.recv(1 << 16)
        # struct nlmsghdr, and behind it the negative errno of struct nlmsgerr (netlink(7))
        _, kind, _, number, _, code = struct.unpack_from("=IHHIIi", data)
        if kind == NLMSG_ERROR and number == sequence:
            return -int(code)


def _link(index: int, attrs: list[tuple[str, Any]] | None = None, *, up: bool = False) -> Any:
    message = ifinfmsg()
    message["index"] = index
    message["attrs"] = attrs or []
    if up:
        message["flags"] = message["change"] = IFF_UP
    return message


def _address(index: int, ip: IPv4Address | IPv6Address, prefix: int) -> Any:
    message = ifaddrmsg()
    message["family"] = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    message["prefixlen"] = prefix
    message["index"] = index
    # We chose the address, so nobody else has it (RFC 4862 5.4 would cost a second).
    message["flags"] = IFA_F_NODAD if ip.version == 6 else 0
    message["attrs"] = [("IFA_LOCAL", str(ip)), ("IFA_ADDRESS", str(ip))]
    return message


def _default_route(index: int, router: IPv4Address | IPv6Address) -> Any:
    message = rtmsg()
    message["family"] = socket.AF_INET if router.version == 4 else socket.AF_INET6
    message["table"] = RT_TABLE_MAIN
    message["proto"] = RTPROT_STATIC
    message["scope"] = RT_SCOPE_UNIVERSE
    message["type"] = RTN_UNICAST
    message["attrs"] = [("RTA_GATEWAY", str(router)), ("RTA_OIF", index)]
    return message
