"""Fuzz target: bytes into every parser of the 9P wire."""

import contextlib
import sys

from dataflow.p9 import dirent, wire
from dataflow.p9.client import ClientSession
from dataflow.p9.const import Dialect
from dataflow.p9.errors import NineError
from dataflow.p9.server import Session


def TestOneInput(data: bytes) -> None:
    """Whatever parses must emit to the same bytes; nothing else may be raised."""
    for dialect in Dialect:
        with contextlib.suppress(wire.WireError):
            kind = data[0] if data else 0
            message = wire.parse(kind, memoryview(data)[1:], dialect)
            raw = b"".join(wire.emit(0, message, dialect))[7:]
            if kind != 50:  # Tfsync has a short form
                assert raw == data[1:]
        with contextlib.suppress(wire.WireError):
            wire.parse_stat(memoryview(data), 0, dialect)
    with contextlib.suppress(wire.WireError):
        dirent.parse(memoryview(data))
    for machine in (Session(), ClientSession()):
        with contextlib.suppress(NineError):
            machine.receive(data)


def main() -> None:
    """Run under atheris until stopped."""
    import atheris

    atheris.Setup(sys.argv, TestOneInput)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
