"""virtio-console (virtio 1.2, 5.3): one port, with the terminal's size and emergency output.

What the guest prints is always taken at once and handed to `output`, so that it is never held
back; what is typed waits here, bounded, until the driver has buffers for it.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable

from .base import Device, Line

DEVICE_ID = 3
QUEUE_SIZE = 64
RECEIVE, TRANSMIT = 0, 1
CONFIG = struct.Struct("<HHII")  # cols, rows, max_nr_ports, emerg_wr (5.3.4)
EMERG_WR = 8  # its offset
INPUT_MAX = 64 << 10
OUTPUT_MAX = 64 << 10  # of one chain


class Feature(enum.IntFlag):
    """Feature bits (5.3.3)."""

    SIZE = 1 << 0
    MULTIPORT = 1 << 1
    EMERG_WRITE = 1 << 2


class VirtioConsole(Device):
    """A terminal of the guest's (hvc0); `output` takes what it prints.

    `drained` is called when typed bytes left and there is room for more.
    """

    device_id = DEVICE_ID
    queue_sizes = (QUEUE_SIZE, QUEUE_SIZE)
    features = int(Feature.SIZE | Feature.EMERG_WRITE)

    def __init__(
        self,
        output: Callable[[bytes], None],
        drained: Callable[[], None] | None = None,
        *,
        cols: int = 80,
        rows: int = 25,
    ) -> None:
        super().__init__()
        self.truncated = 0  # bytes of chains that were longer than OUTPUT_MAX
        self._output = output
        self._drained = drained
        self._size = (cols, rows)
        self._input = bytearray()
        self._line: Line | None = None

    def config(self) -> bytes:
        """Return the terminal's size and one port."""
        return CONFIG.pack(*self._size, 1, 0)

    def config_written(self, offset: int, data: bytes) -> None:
        """Print the character of an emergency write, which needs no queue (5.3.4)."""
        if offset == EMERG_WR:
            self._output(data[:1])

    def resize(self, cols: int, rows: int) -> None:
        """Tell the guest the terminal's size."""
        self._size = (cols & 0xFFFF, rows & 0xFFFF)
        self.config_changed()

    def write(self, data: bytes) -> int:
        """Type `data`; returns how many bytes of it found room."""
        taken = data[: INPUT_MAX - len(self._input)]
        self._input += taken
        self._feed()
        return len(taken)

    @property
    def waiting(self) -> int:
        """Typed bytes for which the driver has no buffers yet."""
        return len(self._input)

    def activate(self, line: Line) -> None:
        """Serve the queues of `line`."""
        self._line = line
        self._feed_and_ask()
        line.look()  # Linux reads the size when told of a change, not when it probes

    def notified(self, index: int) -> None:
        """Take output, or give input to new buffers."""
        if index == RECEIVE:
            self._feed_and_ask()
        elif self._line is not None:
            self._print(self._line)

    def _print(self, line: Line) -> None:
        queue = line.queues[TRANSMIT]
        for chain in queue.chains():
            data = chain.read(OUTPUT_MAX)
            self.truncated += chain.readable_len - len(data)
            queue.push(chain)
            self._output(data)
        queue.publish()

    def _feed(self) -> None:
        if not self._input or self._line is None:
            return
        queue = self._line.queues[RECEIVE]
        for chain in queue.chains():
            written = chain.write(self._input[: chain.writable_len])
            del self._input[:written]
            queue.push(chain, written)
            if not self._input:
                break
        queue.publish()

    def _feed_and_ask(self) -> None:
        """Give the guest its input; not inside `write`, whose caller counts what it took."""
        waited = bool(self._input)
        self._feed()
        if waited and not self._input and self._drained is not None:
            self._drained()

    def reset(self) -> None:
        """Keep what is typed for the next line."""
        self._line = None
