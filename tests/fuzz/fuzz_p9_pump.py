"""Fuzz target: the same messages, cut anywhere, through the pump in C and its twin in Python."""

import os
import random
import socket
import struct
import sys

from dataflow.core.outcome import Open, Outcome
from dataflow.core.pump import Pump
from dataflow.core.pure import PurePump

LIMIT = 8192
KINDS = (24, 24, 100, 104, 108, 110, 116, 116, 116, 118, 118, 120, 120, 12, 117, 255)


class Side:
    """One pump, its client's end, and its file."""

    def __init__(self, make, attr):
        self.pump = make(LIMIT, 1e6)
        self.ours, self.client = socket.socketpair()
        self.client.setblocking(False)
        self.file = os.memfd_create("fuzz")
        os.write(self.file, bytes(range(256)) * 40)
        for fid, may in ((0, 7), (1, 1), (2, 2), (3, 12), (17, 15)):
            self.pump.learn(fid, Open(may, self.file, attr, 0, 99))

    def serve(self, fast):
        """Serve until nothing comes; return all that happened."""
        seen = []
        while True:
            outcome = self.pump.serve(self.ours.fileno(), fast)
            seen += [("clunked", fid) for fid in self.pump.clunked()]
            if outcome in {Outcome.MESSAGE, Outcome.LARGE}:
                room, have = self.pump.message()
                while have < len(room):
                    try:
                        more = self.ours.recv(len(room) - have, socket.MSG_DONTWAIT)
                    except BlockingIOError:  # the test sends whole messages where it ends
                        return [*seen, "cut"]
                    if not more:
                        return [*seen, "end"]
                    room[have : have + len(more)] = more
                    have += len(more)
                seen.append(bytes(room))
            elif outcome is not Outcome.MORE:
                return [*seen, outcome, self.pump.size() if outcome is Outcome.BAD else 0]

    def answers(self):
        """Return what the client got."""
        try:
            return self.client.recv(1 << 20)
        except BlockingIOError:
            return b""

    def close(self):
        """Release all."""
        self.pump.close()
        self.ours.close()
        self.client.close()
        os.close(self.file)


def message(rng):
    """Make a message that may or may not be what its type says."""
    kind, fid = rng.choice(KINDS), rng.choice((0, 1, 2, 3, 17, 33, 1 << 31))
    offset = rng.choice((0, 5, 10239, 10240, 1 << 62, 1 << 63, (1 << 64) - 1))
    count = rng.choice((0, 1, 100, 5000, 9000, (1 << 32) - 1))
    body = struct.pack("<I", fid)
    if kind in {116, 118}:
        data = rng.randbytes(rng.choice((0, 1, 50, 5000))) if kind == 118 else b""
        body += (
            struct.pack("<QI", offset, len(data) if rng.random() < 0.8 and data else count) + data
        )
    elif kind == 24:
        body += bytes(8)
    body = body[: rng.randrange(len(body) + 1)] if rng.random() < 0.1 else body
    size = 7 + len(body)
    if rng.random() < 0.02:
        size = rng.choice((0, 6, LIMIT + 1, (1 << 32) - 1))
    return struct.pack("<IBH", size, kind, rng.randrange(3)) + body


def run(rng):
    """Compare both on one connection."""
    attr = os.memfd_create("attr")
    sides = [Side(make, attr) for make in (Pump, PurePump)]
    try:
        for _ in range(rng.randrange(1, 6)):
            data = b"".join(message(rng) for _ in range(rng.randrange(8)))
            fast = rng.random() < 0.8
            cut = rng.randrange(len(data) + 1) if len(data) < 4096 else len(data)
            for part in (data[:cut], data[cut:]):
                for side in sides:
                    side.client.send(part)
                seen = [side.serve(fast) for side in sides]
                assert seen[0] == seen[1], seen
                answers = [side.answers() for side in sides]
                assert answers[0] == answers[1], (data, answers)
            if (seen[0] and seen[0][-1] in {"cut", "end"}) or Outcome.BAD in seen[0]:
                break
        files = [os.pread(side.file, 1 << 16, 0) for side in sides]
        assert files[0] == files[1]
        assert sides[0].pump.counts() == sides[1].pump.counts()
    finally:
        for side in sides:
            side.close()
        os.close(attr)


def TestOneInput(data: bytes) -> None:
    """Seed the messages."""
    run(random.Random(data))


def main() -> None:
    """Run under atheris until stopped, or COUNT seeds without it."""
    if len(sys.argv) == 2 and sys.argv[1].isdigit():
        for seed in range(int(sys.argv[1])):
            run(random.Random(seed))
        return
    import atheris

    atheris.Setup(sys.argv, TestOneInput)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
