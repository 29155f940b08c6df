"""Fuzz targets of the parsers that read files, command lines and lists; none raises but its own.

`TestOneInput` takes the first octet as the choice of target.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

from dataflow.aio import address
from dataflow.branch.steps import Cursor
from dataflow.errors import DataflowError
from dataflow.p9 import dirent
from dataflow.p9.errors import NineError
from dataflow.store import loose
from dataflow.tree import paths
from hypervisor.errors import HypervisorError
from hypervisor.image import apt, cpio, vmlinux
from hypervisor.machine import parse_memory
from vpnstack.errors import VpnstackError
from vpnstack.host.namespace import Target
from vpnstack.programs import Forward
from vpnstack.proto.tcp.options import parse_options
from vpnstack.services.dnstcp import read_message
from vpnstack.wire.ethernet import parse_mac

OWN = (VpnstackError, HypervisorError, DataflowError, NineError)


def text(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    """Give a parser of text the octets as a command line has them."""
    return lambda data: parse(data.decode("utf-8", "surrogateescape"))


def stream(data: bytes) -> object:
    """Read DNS messages from a TCP stream until it ends."""

    async def run() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        while True:
            await read_message(reader)

    try:
        asyncio.run(run())
    except EOFError:
        pass
    return None


def mac(words: str) -> object:
    """Read a MAC address, which is refused as Python's own conversions refuse."""
    try:
        return parse_mac(words)
    except ValueError:
        return None


TARGETS: tuple[Callable[[bytes], object], ...] = (
    parse_options,
    stream,
    text(mac),
    text(lambda words: Forward.parse(words, "guest")),
    text(Target.parse),
    lambda data: list(cpio.parse(data)),
    text(apt.parse_record),
    vmlinux.unpack,
    text(parse_memory),
    lambda data: dirent.parse(memoryview(data)),
    paths.parse,
    text(Cursor.parse),
    lambda data: loose.decode(b"0" * 40, data),
    text(address.parse),
)


def TestOneInput(data: bytes) -> None:
    """Run one case."""
    if data:
        try:
            TARGETS[data[0] % len(TARGETS)](data[1:])
        except OWN:
            pass


TestOneInput.__test__ = False  # type: ignore[attr-defined]

if __name__ == "__main__":
    import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

    atheris.Setup(sys.argv, TestOneInput)
    atheris.Fuzz()
