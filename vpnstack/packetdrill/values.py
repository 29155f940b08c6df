"""Arguments of socket calls: from expressions to numbers, octets and addresses."""

from __future__ import annotations

import ipaddress

from .errors import ScriptError
from .names import CONSTANTS
from .script import ANY, Alternatives, Expression, Function, Name, Struct
from .sockets import Endpoint

CONVERSIONS = ("htons", "htonl", "ntohs", "ntohl")
LENGTH_MAX = 1 << 24  # octets of one call


def number(e: Expression, default: int | None = None) -> int:
    """Return the value of an integer expression; `default` stands for `...`."""
    if e is ANY and default is not None:
        return default
    if isinstance(e, bool | int):
        return e
    if isinstance(e, Name):
        if e.text not in CONSTANTS:
            raise ScriptError(f"expected a known constant, found {e.text}")
        return CONSTANTS[e.text]
    if isinstance(e, Alternatives):
        total = 0
        for part in e.parts:
            total |= number(part)
        return total
    if isinstance(e, tuple) and len(e) == 1:
        return number(e[0], default)
    if isinstance(e, Function) and e.name in CONVERSIONS and len(e.args) == 1:
        return number(e.args[0])
    raise ScriptError(f"expected a number, found {e}")


def length(e: Expression) -> int:
    """Return a number of octets."""
    n = number(e)
    if not 0 <= n <= LENGTH_MAX:
        raise ScriptError(f"expected 0 to {LENGTH_MAX} octets, found {n}")
    return n


def octets(e: Expression, size: int) -> bytes:
    """Return the data of a call that sends: a string's, zeros behind it or for `...`."""
    data = e.encode("latin-1", "replace") if isinstance(e, str) else b""
    return data[:size].ljust(size, b"\0")


def vector(e: Expression) -> int:
    """Return how many octets an array of `{..., n}` has."""
    if not isinstance(e, tuple):
        raise ScriptError(f"expected [{{..., n}}, ...], found {e}")
    total = 0
    for part in e:
        if not isinstance(part, Struct):
            raise ScriptError(f"expected {{..., n}}, found {part}")
        size = part.items[-1] if part.items else part.members.get("iov_len", 0)
        total += length(size)
    return length(total)


def message(e: Expression) -> int:
    """Return how many octets the vector of a msghdr has."""
    if not isinstance(e, Struct) or "msg_iov" not in e.members:
        raise ScriptError("expected {msg_iov(n)=[{..., n}], ...} for a message")
    return vector(e.members["msg_iov"])


def address(e: Expression, default: Endpoint) -> Endpoint:
    """Return the end that a sockaddr names; `...` is `default`."""
    if e is ANY:
        return default
    if not isinstance(e, Struct):
        raise ScriptError(f"expected a sockaddr, found {e}")
    host, port = default
    for name, value in e.members.items():
        if name.endswith("_port"):
            port = number(value) & 0xFFFF
        elif name.endswith("_addr"):
            host = _host(value, len(default[0]))
    for item in e.items:  # inet_pton(AF_INET6, "...", &sin6_addr) stands alone in some scripts
        if isinstance(item, Function):
            host = _host(item, len(default[0]))
    return host, port


def _host(e: Expression, size: int) -> bytes:
    if isinstance(e, Function):
        texts = [arg for arg in e.args if isinstance(arg, str)]
        if texts:
            return _parse(texts[0], size)
    if isinstance(e, str):
        return _parse(e, size)
    return (number(e) & 0xFFFFFFFF).to_bytes(4, "big").rjust(size, b"\0")


def _parse(text: str, size: int) -> bytes:
    try:
        packed = ipaddress.ip_address(text).packed
    except ValueError as e:
        raise ScriptError(f"expected an address, found {text!r}") from e
    if len(packed) != size:
        raise ScriptError(f"expected an address of the script's --ip_version, found {text}")
    return packed
