"""A 9P client that is a virtio driver, and a server that does as the test says."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence

from mmio_driver import ALL, Bench
from vhost_driver import Buffer

from hypervisor.devices.p9 import P9
from hypervisor.devices.p9exchange import Client, Conversation

HEADER = struct.Struct("<IBH")
TVERSION, RVERSION, TFLUSH, RFLUSH, TREAD, RREAD, RLERROR = 100, 101, 108, 109, 116, 117, 7
NOTAG = 0xFFFF


def message(kind: int, tag: int, body: bytes = b"") -> bytes:
    return HEADER.pack(HEADER.size + len(body), kind, tag) + body


def string(text: str) -> bytes:
    return struct.pack("<H", len(text)) + text.encode()


def tversion(version: str = "9P2000.L", msize: int = 65536) -> bytes:
    return message(TVERSION, NOTAG, struct.pack("<I", msize) + string(version))


def rversion(version: str = "9P2000.L", msize: int = 65536) -> bytes:
    return message(RVERSION, NOTAG, struct.pack("<I", msize) + string(version))


def rlerror(tag: int, errno: int) -> bytes:
    return message(RLERROR, tag, struct.pack("<I", errno))


class Talk:
    """One conversation of `Script`."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.got: list[bytes] = []
        self.closed = False

    def request(self, message: bytes) -> None:
        self.got.append(message)
        if message[4] == TVERSION:
            self.client.answered([rversion()])

    async def close(self) -> None:
        self.closed = True


class Script:
    """A server that answers Tversion and nothing else by itself."""

    def __init__(self) -> None:
        self.talks: list[Talk] = []

    def converse(self, client: Client) -> Conversation:
        self.talks.append(Talk(client))
        return self.talks[-1]

    @property
    def client(self) -> Client:
        return self.talks[-1].client

    @property
    def got(self) -> list[bytes]:
        return self.talks[-1].got

    def answer(self, *pieces: bytes) -> None:
        self.client.answered(pieces)


class Mount:
    """A driver of the device; `call` waits for an answer, `post` and `take` do not."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.rooms: dict[int, Sequence[Buffer]] = {}

    @classmethod
    def start(cls, bench: Bench, features: int = ALL) -> Mount:
        return cls(bench.start(features, size=64))

    @property
    def device(self) -> P9:
        assert isinstance(self.bench.device, P9)
        return self.bench.device

    def post(self, data: bytes, *rooms: int, cuts: Sequence[int] = ()) -> int:
        """Send a request, cut into buffers at `cuts`, with rooms of those sizes for its answer."""
        bounds = [0, *cuts, len(data)]
        parts = [data[a:b] for a, b in itertools.pairwise(bounds)]
        out = [self.bench.readable(part) for part in parts if part]
        into = [self.bench.writable(room) for room in rooms or (256,)]
        (ring,) = self.bench.rings
        ring.set_used_event(ring.used_seen)  # interrupt for the next one
        head = ring.add(*out, *into)
        self.rooms[head] = into
        self.bench.kick(0)
        return head

    def take(self) -> list[tuple[int, bytes]]:
        """Return what came back: heads and the octets written."""
        return [
            (head, b"".join(map(self.bench.octets, self.rooms.pop(head)))[:written])
            for head, written in self.bench.rings[0].used_elements()
        ]

    def call(self, data: bytes, *rooms: int) -> bytes:
        """Send a request and turn the loop until its answer is there."""
        head = self.post(data, *rooms)
        loop = self.bench.loop
        late = loop.call_later(20, loop.stop)
        loop.add_reader(self.bench.call, loop.stop)  # the interrupt
        try:
            while not (taken := self.take()):
                assert loop.time() < late.when(), "no answer"
                loop.run_forever()
                self.bench.interrupts()
                self.bench.rings[0].set_used_event(self.bench.rings[0].used_seen)
        finally:
            loop.remove_reader(self.bench.call)
            late.cancel()
        ((found, answer),) = taken
        assert found == head
        return answer


def mount(bench: Bench) -> Mount:
    """Start the device and agree on a version."""
    made = Mount.start(bench)
    assert made.call(tversion())[4] == RVERSION
    return made
