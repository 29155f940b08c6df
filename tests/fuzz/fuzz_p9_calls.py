"""Fuzz target: random sequences of 9P calls against a server with live, static and bad nodes."""

import asyncio
import random
import sys
from typing import get_type_hints

from dataflow.aio.connection import Connection
from dataflow.p9 import wire
from dataflow.p9.const import NOFID, NOTAG, Dialect
from dataflow.p9.errors import ProtocolError
from dataflow.p9.locks import LockTable
from dataflow.p9.messages import TYPES, Stat, Tattach, Tversion
from dataflow.p9.nodes import ControlFile, StaticDir, StaticFile, StreamFile
from dataflow.p9.server import Session
from dataflow.p9.tree import Peer, Qid, Symlink

NAMES = ("", ".", "..", "f", "d", "live", "ctl", "l", "nope", "a/b", "x" * 256, "\udcff")
NUMBERS = (0, 1, 2, 3, 4, 0o1000, 4072, 65535, (1 << 31) - 1, (1 << 32) - 1, (1 << 64) - 1)


def _value(rng, kind):
    if kind in "BHIQ":
        bits = {"B": 8, "H": 16, "I": 32, "Q": 64}[kind]
        return rng.choice(NUMBERS if rng.random() < 0.3 else NUMBERS[:5]) & ((1 << bits) - 1)
    if kind == "names":
        return tuple(rng.choice(NAMES) for _ in range(rng.choice((0, 1, 1, 2, 3, 16, 17, 10000))))
    made = {
        "str": lambda: rng.choice(NAMES),
        "data": lambda: rng.randbytes(rng.choice((0, 1, 100))),
        "qid": lambda: Qid(0, 0, 1),
        "qids": tuple,
        "stat": lambda: Stat()._replace(name=rng.choice(NAMES), length=rng.choice(NUMBERS)),
    }
    return made[kind]()


def _message(rng, dialect):
    kind = rng.choice([k for k in TYPES if k in wire._CODECS[dialect] and not k & 1])
    hints = get_type_hints(TYPES[kind], include_extras=True)
    marks = {n: hints[n].__metadata__[0] for n in TYPES[kind]._fields}
    return TYPES[kind](**{n: _value(rng, m) for n, m in marks.items()})


async def _echo(command, ctx):
    return command


async def _live(ctx):
    yield b"one"
    await asyncio.Event().wait()


def _root():
    return StaticDir(
        {
            "f": StaticFile(b"data" * 1000),
            "d": StaticDir({"f": StaticFile(b"")}),
            "live": StreamFile(_live),
            "ctl": ControlFile(_echo),
            "l": Symlink("f"),
        }
    )


async def run(rng: random.Random) -> None:
    """Play one sequence; afterwards nothing may be left over."""
    root = _root()

    async def factory(ctx):
        return root

    sent = []
    session = Session(65536, tags_max=32)
    c = Connection(session, factory, Peer(), LockTable(), sent.extend, lambda stop: None)
    dialect = rng.choice(list(Dialect))

    def say(tag, message):
        c.receive(b"".join(wire.emit(tag, message, dialect)))

    say(NOTAG, Tversion(65536, dialect.value))
    say(1, Tattach(0, NOFID, "u", "", 0))
    try:
        for _ in range(rng.randrange(60)):
            if rng.random() < 0.5:
                await asyncio.sleep(0)
            message = _message(rng, dialect)
            say(rng.randrange(40), message)
            if isinstance(message, Tversion) and session.dialect is not dialect:
                break
    except (ProtocolError, wire.WireError):
        pass
    await asyncio.wait_for(c.close(), 10)
    assert not c._tasks
    assert len(asyncio.all_tasks()) == 1


def TestOneInput(data: bytes) -> None:
    """Seed a sequence with the input."""
    asyncio.run(run(random.Random(data)))


def main() -> None:
    """Run under atheris until stopped."""
    import atheris

    atheris.Setup(sys.argv, TestOneInput)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
