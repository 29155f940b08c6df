"""Fuzz target: any text as a script; it parses or is refused with `ScriptError`.

Run under atheris with `python tests/fuzz/fuzz_packetdrill.py CORPUS`.
"""

from __future__ import annotations

import random
import re
import sys

from vpnstack.packetdrill import assertions, text
from vpnstack.packetdrill.errors import Mismatch, ScriptError
from vpnstack.packetdrill.parser import parse
from vpnstack.packetdrill.script import Code, Expect, Inject
from vpnstack.packetdrill.settings import settings

TOKENS = (b"...", b"%{", b"}%", b"`", b"<", b">", b"0:0(0)", b"[", b"]", b"{", b"ack", b"*", b"~",
          b"S.", b"udp", b"icmp", b"sack", b"--", b"99999999999", b"/*", b'"', b"\\", b"|", b"-",
          b"assert", b"0x", b"\n", b".")  # fmt: skip
NUMBER = re.compile(rb"(?<![.\d:(])\d+(?![.\d:])")
NUMBERS = (b"0", b"1", b"3", b"-1", b"100", b"1000", b"65500", b"65535", b"4294967295")


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


def shuffle(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Drop, repeat and exchange lines, and change numbers: most of what comes out still runs."""
    lines, more = data.split(b"\n"), other.split(b"\n")
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(lines))
        what = rng.randrange(4)
        if what == 0 and len(lines) > 1:
            del lines[at]
        elif what == 1:
            lines.insert(at, rng.choice(lines))
        elif what == 2:
            lines.insert(at, rng.choice(more))
        else:
            lines[at] = NUMBER.sub(lambda _: rng.choice(NUMBERS), lines[at])
    return b"\n".join(lines)


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
