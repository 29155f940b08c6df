"""Power management of a hardware-reduced board: sleep and reset registers (ACPI 6.5, 4.8.3.7), and
the register in which our Generic Event Device (5.6.9) finds what happened."""

from __future__ import annotations

from collections.abc import Callable

from ..pc import layout

SLEEP_TYPE = 7 << 2  # SLP_TYPx of the sleep control register
WAKE_STATUS = 0  # nothing ever woke us


class Power:
    """Calls `power_off` for S5, the one sleeping state that there is, and `reset` for a reset."""

    def __init__(self, power_off: Callable[[], None], reset: Callable[[], None]) -> None:
        self._power_off = power_off
        self._reset = reset
        self._events = 0

    def press_button(self) -> None:
        """Set the event that the GED's method finds; the interrupt is the caller's to raise."""
        self._events |= layout.GED_POWER_BUTTON

    def read(self, port: int, size: int) -> int:
        """Return the events, once; the other registers read as 0."""
        if port != layout.GED_EVENTS:
            return WAKE_STATUS
        events, self._events = self._events, 0
        return events

    def write(self, port: int, size: int, value: int) -> None:
        """Sleep or reset; a type of sleep other than S5 is ignored."""
        if port == layout.SLEEP_CONTROL:
            if value & (layout.SLEEP_ENABLE | SLEEP_TYPE) == layout.SLEEP_S5:
                self._power_off()
        elif port == layout.RESET and value & 0xFF == layout.RESET_VALUE:
            self._reset()
