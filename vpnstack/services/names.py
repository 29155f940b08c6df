"""Names that are answered here: our own, the host's file of hosts, and those of RFC 6761.

Our own names come first, so that nobody outside decides what `host.internal` is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.reversename
import dns.rrset

from .resolver import Watched

TTL = 5  # seconds; machines come and go
HOSTS_MAX = 4096

LOOPBACK: tuple[bytes, ...] = (b"\x7f\0\0\x01", bytes(15) + b"\x01")
_LOCALHOST = dns.name.from_text("localhost")
_NOWHERE = tuple(map(dns.name.from_text, ("invalid", "test", "onion")))  # RFC 6761, RFC 7686


@dataclass(frozen=True, slots=True)
class Found:
    """A local answer; no rrset with NOERROR says that the name has other types only."""

    rcode: dns.rcode.Rcode = dns.rcode.NOERROR
    answer: tuple[dns.rrset.RRset, ...] = field(default=())


NXDOMAIN = Found(dns.rcode.NXDOMAIN)


class Names:
    """A live view of `own` (name without the final dot -> addresses of 4 or 16 octets) and a
    file in the format of hosts(5), whose loopback entries are left out: they mean the host."""

    def __init__(self, own: Mapping[str, Sequence[bytes]], hosts: str | None) -> None:
        self.own = own
        self._file = Watched(hosts) if hosts else None
        self._hosts: dict[dns.name.Name, list[bytes]] = {}

    def find(self, name: dns.name.Name, rdtype: int) -> Found | None:
        """Return our answer for class IN, None where somebody else has to be asked."""
        own = self._own(name)
        if own is not None:
            return addresses(name, rdtype, own)
        special = self._special(name, rdtype)
        if special is not None:
            return special
        if rdtype == dns.rdatatype.PTR:
            return self._reverse(name)
        listed = self._listed().get(name)
        wanted = rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA)
        return addresses(name, rdtype, listed) if listed and wanted else None

    def _own(self, name: dns.name.Name) -> Sequence[bytes] | None:
        text = name.to_text(omit_final_dot=True)
        found = self.own.get(text)
        return found if found is not None else self.own.get(text.lower())

    def _special(self, name: dns.name.Name, rdtype: int) -> Found | None:
        """RFC 6761 6.2 to 6.4, and nothing that exists below a name of ours."""
        if name.is_subdomain(_LOCALHOST):
            return addresses(name, rdtype, LOOPBACK)
        if any(name.is_subdomain(zone) for zone in _NOWHERE):
            return NXDOMAIN
        parents = (name.split(depth)[1] for depth in range(2, len(name)))
        return NXDOMAIN if any(self._own(parent) is not None for parent in parents) else None

    def _reverse(self, name: dns.name.Name) -> Found | None:
        try:
            addr = ip_address(dns.reversename.to_address(name)).packed
        except (dns.exception.DNSException, ValueError):
            return None
        if addr in LOOPBACK:
            return _pointer(name, [_LOCALHOST])
        listed = self._listed().items()
        owners = [dns.name.from_text(own) for own, addrs in self.own.items() if addr in addrs]
        owners = owners or [owner for owner, addrs in listed if addr in addrs]
        return _pointer(name, owners) if owners else None

    def _listed(self) -> dict[dns.name.Name, list[bytes]]:
        if self._file is not None:
            lines, changed = self._file.read()
            if changed:
                self._hosts = dict[dns.name.Name, list[bytes]]()
                for name, addr in parse_hosts(lines):
                    self._hosts.setdefault(name, []).append(addr)
        return self._hosts


def parse_hosts(lines: Sequence[str]) -> Iterator[tuple[dns.name.Name, bytes]]:
    """Read hosts(5) line by line; what cannot be read is skipped."""
    for line in lines[:HOSTS_MAX]:
        words = line.partition("#")[0].split()
        try:
            addr = ip_address(words[0]) if words else None
            if addr is None or addr.is_loopback or addr.is_multicast or addr.is_unspecified:
                continue
            yield from ((dns.name.from_text(word), addr.packed) for word in words[1:])
        except (dns.exception.DNSException, ValueError, UnicodeError):
            continue


def addresses(name: dns.name.Name, rdtype: int, found: Sequence[bytes]) -> Found:
    """Answer a question of type A, AAAA or ANY from `found`; others get NOERROR and nothing."""
    rrsets = list[dns.rrset.RRset]()
    for kind, length in ((dns.rdatatype.A, 4), (dns.rdatatype.AAAA, 16)):
        texts = [str(ip_address(addr)) for addr in found if len(addr) == length]
        if texts and rdtype in (kind, dns.rdatatype.ANY):
            rrsets.append(dns.rrset.from_text_list(name, TTL, dns.rdataclass.IN, kind, texts))
    return Found(answer=tuple(rrsets))


def _pointer(name: dns.name.Name, owners: list[dns.name.Name]) -> Found:
    texts = [owner.to_text() for owner in owners]
    rrset = dns.rrset.from_text_list(name, TTL, dns.rdataclass.IN, dns.rdatatype.PTR, texts)
    return Found(answer=(rrset,))
