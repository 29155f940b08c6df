"""Addresses of 9P servers: "unix:PATH" and "tcp:HOST:PORT" (an IPv6 host in brackets)."""

from __future__ import annotations

from typing import NamedTuple

from ..p9.errors import UsageError

PORT = 564  # IANA: 9pfs


class Address(NamedTuple):
    """A parsed address: `path` for unix sockets, else `host` and `port`."""

    path: str
    host: str
    port: int


def parse(text: str) -> Address:
    """Read an address; raises `UsageError`."""
    kind, _, rest = text.partition(":")
    if kind == "unix" and rest:
        return Address(rest, "", 0)
    host, colon, port = rest.rpartition(":")
    if rest.endswith("]") or not colon:
        host, port = rest, str(PORT)
    if kind != "tcp" or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise UsageError(f"address: expected unix:PATH or tcp:HOST:PORT, found {text!r}")
    return Address("", host.strip("[]"), int(port))
