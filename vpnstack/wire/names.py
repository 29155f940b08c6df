"""Domain names as DHCP option 119 (RFC 3397) and the DNSSL option (RFC 8106 5.2) carry them.

Both are sequences of uncompressed names in the encoding of RFC 1035 3.1; whole DNS messages are
dnspython's.
"""

from __future__ import annotations

from collections.abc import Iterable

from .malformed import Malformed

LABEL_MAX = 63
NAME_MAX = 255  # octets of an encoded name


def emit(names: Iterable[str]) -> bytes:
    """Encode names such as `lab.example`; raises ValueError on one that is not a name."""
    return b"".join(map(_emit_name, names))


def _emit_name(name: str) -> bytes:
    labels = name.rstrip(".").encode("idna").split(b".")
    if not all(0 < len(label) <= LABEL_MAX for label in labels):
        raise ValueError(f"expected labels of 1 to {LABEL_MAX} octets, found {name!r}")
    encoded = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    if len(encoded) > NAME_MAX:
        raise ValueError(f"expected a name of at most {NAME_MAX} octets, found {len(encoded)}")
    return encoded


def parse(data: bytes, protocol: str) -> tuple[str, ...]:
    """Decode names up to the end or the padding of zeros; compression pointers are refused."""
    names, labels, at, used = [], list[str](), 0, 0
    while at < len(data):
        length = data[at]
        if length == 0:
            if not labels:
                break  # padding
            names.append(".".join(labels))
            labels, used = [], 0
        else:
            label = data[at + 1 : at + 1 + length]
            used += 1 + length
            if length > LABEL_MAX or len(label) < length or used >= NAME_MAX:
                raise Malformed(protocol, "a label of 1 to 63 octets", data[at : at + 8].hex())
            labels.append(_label(label, protocol))
        at += 1 + length
    if labels:
        raise Malformed(protocol, "a name that ends", data[-8:].hex())
    return tuple(names)


def _label(label: bytes, protocol: str) -> str:
    text = label.decode("ascii", "replace")
    if not all(c.isascii() and (c.isalnum() or c in "-_") for c in text):
        raise Malformed(protocol, "a label of letters, digits and hyphens", label.hex())
    return text
