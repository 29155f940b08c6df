"""The keyboard controller (ports 0x60 and 0x64) without a keyboard: there for its reset line."""

from __future__ import annotations

from collections.abc import Callable

from ..pc import layout


class KeyboardController:
    """Calls `reset` when the guest pulses the processor's reset line."""

    def __init__(self, reset: Callable[[], None]) -> None:
        self._reset = reset

    def read(self, port: int, size: int) -> int:
        """Return 0: nothing to read, and commands are taken at once."""
        return 0

    def write(self, port: int, size: int, value: int) -> None:
        """Take a command; all but the pulse mean nothing."""
        if port == layout.I8042_COMMAND and value & 0xFF == layout.I8042_RESET:
            self._reset()
