"""A console for many: each sees what the guest prints and what it printed last; one types.

The guest is never held back: a viewer that does not read in time loses what is beyond its buffer.
"""

from __future__ import annotations

import asyncio
import contextlib

from ..aio.console import Console
from ..errors import UsageError

SCROLLBACK = 64 << 10
_BEHIND_MAX = 1 << 20  # bytes that wait for a viewer
_CHUNK = 4096


class Hub:
    """The viewers of one console; the first that wants to type does, and the next after it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._scrollback = bytearray(console.unread[-SCROLLBACK:])
        self._viewers: dict[asyncio.StreamWriter, bool] = {}  # whether it wants to type
        self.dropped = 0  # bytes that slow viewers did not get
        console.taps.append(self._printed)

    def close(self) -> None:
        """See no more of the console; the viewers' streams are their owners' to close."""
        self._console.taps.remove(self._printed)
        self._viewers.clear()

    @property
    def writer_taken(self) -> bool:
        """Whether a viewer types already."""
        return any(self._viewers.values())

    def _printed(self, data: bytes) -> None:
        self._scrollback += data
        del self._scrollback[:-SCROLLBACK]
        for viewer in self._viewers:
            if viewer.transport.get_write_buffer_size() > _BEHIND_MAX:
                self.dropped += len(data)
            else:
                viewer.write(data)

    async def view(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, typing: bool
    ) -> None:
        """Be the console of one connection until it is closed from there."""
        writer.write(bytes(self._scrollback))
        self._viewers[writer] = typing
        try:
            while data := await reader.read(_CHUNK):
                if self._typist() is writer:
                    await self._type(data)
        except ConnectionError:
            pass
        finally:
            self._viewers.pop(writer, None)

    def _typist(self) -> asyncio.StreamWriter | None:
        return next((viewer for viewer, typing in self._viewers.items() if typing), None)

    async def _type(self, data: bytes) -> None:
        with contextlib.suppress(UsageError):  # the machine has ended: the viewer learns it soon
            self._console.write(data)
            await self._console.drain()
