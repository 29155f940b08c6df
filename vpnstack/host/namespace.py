"""What to do in which Linux namespace: the target, how its interface is set up, and the errors.

Nothing here does I/O but `Target.open`; `spawn` acts on these values, `nshelper` is the program
that does so inside the namespace.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv6Address,
    IPv6Interface,
    ip_address,
    ip_interface,
)
from pathlib import Path
from typing import Self

from ..errors import UsageError

NETNS_DIR = Path("/run/netns")  # where iproute2 keeps named network namespaces
IFNAMSIZ = 16
MTU_MIN, MTU_MAX = 68, 65521  # RFC 791; the kernel's limit for a TAP device
MTU_MIN_IPV6 = 1280  # RFC 8200, 5
NS_GET_USERNS = 0xB701  # ioctl_ns(2)


class NamespaceError(UsageError):
    """A namespace cannot be made, entered or configured; the message says which and why."""


class CommandError(NamespaceError):
    """The command cannot be executed; `exit_code` is the shell's convention, 126 or 127."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class NamespaceConfig:
    """How our TAP device looks inside a namespace.

    `addresses` are interfaces such as "192.168.127.2/24" and "fd00:127::2/64", at most a few;
    `gateways` at most one address of each family.  With `configure` unset the device is created,
    left down and without addresses, and nothing else is touched.
    """

    ifname: str = "tap0"
    mtu: int = 1500  # bytes of an IP packet
    mac: bytes = b""  # 6 bytes; empty: the kernel makes one up
    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()  # name servers; empty: leave the resolver as it is
    search: tuple[str, ...] = ()
    accept_ra: bool = False  # take addresses and routes from router advertisements too
    configure: bool = True

    def __post_init__(self) -> None:
        _check_ifname(self.ifname)
        if not MTU_MIN <= self.mtu <= MTU_MAX:
            raise UsageError(f"MTU: expected {MTU_MIN} to {MTU_MAX}, found {self.mtu}")
        if len(self.mac) not in {0, 6} or (self.mac and self.mac[0] & 1):
            raise UsageError(f"MAC: expected 6 bytes, unicast, found {self.mac.hex(':')!r}")
        try:
            versions = {i.version for i in self.interfaces} | {g.version for g in self.routers}
            _ = [ip_address(text) for text in self.dns]
        except ValueError as e:
            raise UsageError(f"address: {e}") from None
        if len({g.version for g in self.routers}) < len(self.gateways):
            raise UsageError("gateways: expected at most one of each family")
        if (6 in versions or self.accept_ra) and self.mtu < MTU_MIN_IPV6:
            raise UsageError(f"MTU: IPv6 needs {MTU_MIN_IPV6} (RFC 8200), found {self.mtu}")

    @property
    def interfaces(self) -> tuple[IPv4Interface | IPv6Interface, ...]:
        """The addresses with their prefixes, parsed."""
        return tuple(ip_interface(text) for text in self.addresses)

    @property
    def routers(self) -> tuple[IPv4Address | IPv6Address, ...]:
        """The gateways, parsed."""
        return tuple(ip_address(text) for text in self.gateways)

    def without_ipv6(self) -> NamespaceConfig:
        """Return the same for a kernel that has no IPv6."""
        addresses = tuple(a for a in self.addresses if ip_interface(a).version == 4)
        gateways = tuple(g for g in self.gateways if ip_address(g).version == 4)
        return replace(self, addresses=addresses, gateways=gateways, accept_ra=False)

    @property
    def resolv_conf(self) -> str:
        """The text of a resolv.conf(5) that names our servers; empty when there are none."""
        if not self.dns:
            return ""
        lines = [f"search {' '.join(self.search)}"] if self.search else []
        return "\n".join(lines + [f"nameserver {server}" for server in self.dns]) + "\n"


@dataclass(frozen=True, slots=True)
class OpenTarget:
    """Descriptors of a network namespace and of the user namespace to enter first, if any."""

    net: int
    user: int | None

    @property
    def fds(self) -> list[int]:
        """Both, the network namespace first."""
        return [self.net] if self.user is None else [self.net, self.user]

    def close(self) -> None:
        """Close both."""
        for fd in self.fds:
            os.close(fd)


@dataclass(frozen=True, slots=True)
class Target:
    """An existing network namespace: that of a process, or one kept under a name or a path."""

    pid: int | None = None
    netns: str | None = None  # a path if it holds a slash, else a name as `ip netns` knows it

    def __post_init__(self) -> None:
        if (self.pid is None) == (self.netns is None):
            raise UsageError("target: expected a process or a network namespace, one of them")
        if self.netns is not None and self.netns in {"", ".", ".."}:
            raise UsageError(f"target: expected a name or a path, found {self.netns!r}")

    @property
    def name(self) -> str | None:
        """The name that `ip netns` knows it by, if it has one."""
        if self.netns is None or "/" not in self.netns:
            return self.netns
        path = Path(self.netns)
        return path.name if path.parent in {NETNS_DIR, Path("/var/run/netns")} else None

    @property
    def path(self) -> Path:
        """The file that stands for the namespace."""
        if self.pid is not None:
            return Path(f"/proc/{self.pid}/ns/net")
        assert self.netns is not None
        return Path(self.netns) if "/" in self.netns else NETNS_DIR / self.netns

    def __str__(self) -> str:
        return f"process {self.pid}" if self.pid is not None else f"namespace {self.netns}"

    def open(self) -> OpenTarget:
        """Open the network namespace and, if it is not ours already, the user namespace it is in.

        From here on the target cannot be mistaken for another, even if a process ID is reused.
        Raises `NamespaceError`.
        """
        with ExitStack() as undo:
            net = self._open_net()
            undo.callback(os.close, net)
            try:
                user: int | None = fcntl.ioctl(net, NS_GET_USERNS)
            except PermissionError:
                raise NamespaceError(
                    f"{self}: belongs to a user namespace outside ours; run as its owner or root"
                ) from None
            except OSError:  # ENOTTY: some other file
                raise NamespaceError(
                    f"{self}: expected a network namespace, found {self.path}"
                ) from None
            if user is not None and os.path.samestat(os.fstat(user), os.stat("/proc/self/ns/user")):
                os.close(user)
                user = None
            undo.pop_all()
            return OpenTarget(net, user)

    def _open_net(self) -> int:
        try:
            return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except PermissionError:
            raise NamespaceError(
                f"{self}: not allowed to open {self.path}; run as its owner or as root"
            ) from None
        except FileNotFoundError:
            raise NamespaceError(f"{self}: {self.path} does not exist") from None
        except OSError as e:
            raise NamespaceError(f"{self}: cannot open {self.path}: {e.strerror}") from None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a process ID, a path (with a slash) or a name of a namespace."""
        return cls(pid=int(text)) if text.isascii() and text.isdigit() else cls(netns=text)


def _check_ifname(name: str) -> None:
    """Apply the kernel's own rules for a name (dev_valid_name in net/core/dev.c), and no `%`."""
    bad = not name or name in {".", ".."} or any(c in "/:%" or c.isspace() for c in name)
    if bad or len(os.fsencode(name)) >= IFNAMSIZ:
        raise UsageError(f"interface name: expected 1 to {IFNAMSIZ - 1} bytes, found {name!r}")
