"""A guest for tests: the driver's side of vsock queues, packet by packet."""

from __future__ import annotations

from mmio_driver import Bench
from vhost_driver import Buffer

from hypervisor.devices.vsock import HEADER_LEN, RECEIVE, TRANSMIT
from hypervisor.vsock import wire
from hypervisor.vsock.wire import HOST_CID, Op, Repr

CID = 3
BUFFER = 4096
WINDOW = 1 << 18


class VsockGuest:
    """Sends packets with `send`; gives receive buffers with `give` and reads them with `packets`.

    Buffers are reused in rounds, as the ring's slots are.
    """

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._given: dict[int, list[Buffer]] = {}
        self._free: list[list[Buffer]] = []
        self._out: list[Buffer] = []

    def give(self, count: int = 1, size: int = BUFFER) -> None:
        """Make `count` buffers of `size` bytes behind a header available, and kick."""
        for _ in range(count):
            pair = self._free.pop() if self._free and size == BUFFER else self._pair(size)
            self._given[self.bench.rings[RECEIVE].add(*pair)] = pair
        self.bench.kick(RECEIVE)

    def _pair(self, size: int) -> list[Buffer]:
        pair = [self.bench.writable(HEADER_LEN)]
        return [*pair, self.bench.writable(size)] if size else pair

    def packets(self) -> list[tuple[Repr, bytes]]:
        """Return headers and payload of what came since the last call."""
        out = []
        for head, written in self.bench.rings[RECEIVE].used_elements():
            pair = self._given.pop(head)
            data = b"".join(map(self.bench.octets, pair))[:written]
            if sum(buffer.size for buffer in pair) == HEADER_LEN + BUFFER:
                self._free.append(pair)
            out.append((wire.parse(data), data[HEADER_LEN:]))
        return out

    def ops(self) -> list[Op]:
        """Return only what the packets were for."""
        return [Op(packet.op) for packet, _ in self.packets()]

    def send(self, op: int, payload: bytes = b"", *, size: int | None = None, **fields: int) -> int:
        """Transmit a packet, from port 1024 to 80 if `fields` do not say otherwise, and kick;
        returns how many of the chains so far came back at once."""
        values = {"src_cid": CID, "dst_cid": HOST_CID, "src_port": 1024, "dst_port": 80}
        values |= {"buf_alloc": WINDOW, "len": len(payload) if size is None else size} | fields
        header = wire.emit(Repr(op=op, **values))
        return self.raw(header + payload)

    def raw(self, *parts: bytes) -> int:
        """Transmit a chain of these buffers."""
        buffers = []
        for number, part in enumerate(parts):
            if number == len(self._out) or self._out[number].size < len(part):
                self._out[number:] = [self.bench.readable(bytes(max(len(part), 256)))]
            self.bench.guest.write(self._out[number].gpa, part)
            buffers.append(Buffer(self._out[number].gpa, len(part)))
        self.bench.rings[TRANSMIT].add(*buffers)
        self.bench.kick(TRANSMIT)
        return len(self.bench.rings[TRANSMIT].used_elements())
