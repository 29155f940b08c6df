"""Fuzz target: any text as a script; it parses or is refused with `ScriptError`.

Run under atheris with `python tests/fuzz/fuzz_packetdrill.py CORPUS`.
"""

from __future__ import annotations

import random
import sys

from vpnstack.packetdrill import assertions, text
from vpnstack.packetdrill.errors import Mismatch, ScriptError
from vpnstack.packetdrill.parser import parse
from vpnstack.packetdrill.script import Code, Expect, Inject
from vpnstack.packetdrill.settings import settings

TOKENS = (b"...", b"%{", b"}%", b"`", b"<", b">", b"0:0(0)", b"[", b"]", b"{", b"ack", b"*", b"~",
          b"S.", b"udp", b"icmp", b"sack", b"--", b"99999999999", b"/*", b'"', b"\\", b"|", b"-",
          b"assert", b"0x", b"\n", b".")  # fmt: skip


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Cut, double, swap or insert a few pieces."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at, end = sorted((rng.randint(0, len(out)), rng.randint(0, len(out))))
        end = min(end, at + 40)
        out[at:end] = rng.choice(
            (b"", bytes(out[at:end]) * 2, rng.choice(TOKENS), rng.randbytes(3))
        )
    return bytes(out)


def TestOneInput(data: bytes) -> None:
    """Parse `data`; write its packets; check its options and assertions."""
    source = data[:20_000].decode("latin-1")
    try:
        script = parse(source)
        settings(script.options)
    except ScriptError:
        return
    for event in script.events:
        if isinstance(event.action, Inject | Expect):
            assert text.line(event.action.packet, 4 if "v6" not in str(script.options) else 6)
        elif isinstance(event.action, Code):
            try:
                assertions.run(event.action.text, {"tcpi_rtt": 1})
            except (ScriptError, Mismatch):
                pass


if __name__ == "__main__":
    import atheris

    atheris.Setup(sys.argv, TestOneInput)
    atheris.Fuzz()
