"""The board's own I/O ports: real-time clock, keyboard controller, and ACPI power management.

Each is a small object with `read(port, size)` and `write(port, size, value)`; `Ports` finds the one
that answers.  What nobody answers reads as all ones, as an empty bus does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from ..pc import layout


class PortDevice(Protocol):
    """Something that answers I/O ports."""

    def read(self, port: int, size: int) -> int:
        """Return what the guest reads."""

    def write(self, port: int, size: int, value: int) -> None:
        """Take what the guest writes."""


class Rtc:
    """A MC146818's date and time, read-only, UTC, in BCD; no alarm and no periodic interrupt."""

    _FIELDS = {0: "%S", 2: "%M", 4: "%H", 6: "%w", 7: "%d", 8: "%m", 9: "%y"}
    _CENTURY = 0x32
    _FIXED = {0x0A: 0x26, 0x0B: 0x02, 0x0D: 0x80}  # 32 kHz divider; 24 hours; time is valid

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._index = 0

    def read(self, port: int, size: int) -> int:
        """Return the register that port 0x70 chose."""
        if port == layout.RTC_PORT:
            return self._index
        now = time.gmtime(self._clock())
        if self._index in self._FIELDS:
            day = self._index == 6  # 1 is Sunday
            return int(time.strftime(self._FIELDS[self._index], now), 16) + day
        if self._index == self._CENTURY:
            return int(str(now.tm_year // 100), 16)
        return self._FIXED.get(self._index, 0)

    def write(self, port: int, size: int, value: int) -> None:
        """Choose a register; the time itself is the host's."""
        if port == layout.RTC_PORT:
            self._index = value & 0x7F


class KeyboardController:
    """An i8042 without a keyboard, there for its reset line (command 0xFE)."""

    def __init__(self, reset: Callable[[], None]) -> None:
        self._reset = reset

    def read(self, port: int, size: int) -> int:
        """Nothing is to be read, and commands are taken at once."""
        return 0

    def write(self, port: int, size: int, value: int) -> None:
        """Pulse the reset line, or do nothing."""
        if port == layout.I8042_COMMAND and value & 0xFF == layout.I8042_RESET:
            self._reset()


class Power:
    """ACPI's registers of hardware-reduced boards (ACPI 6.4, 4.8.3.7), and the event of our GED."""

    def __init__(self, power_off: Callable[[], None], reset: Callable[[], None]) -> None:
        self._power_off = power_off
        self._reset = reset
        self._events = 0

    def press_button(self) -> None:
        """Set the event that the GED's method finds; the interrupt is the caller's to raise."""
        self._events |= layout.GED_POWER_BUTTON

    def read(self, port: int, size: int) -> int:
        """Return the events, once."""
        if port == layout.GED_EVENTS:
            events, self._events = self._events, 0
            return events
        return 0

    def write(self, port: int, size: int, value: int) -> None:
        """Enter S5, the one sleeping state there is, or reset."""
        if port == layout.SLEEP_CONTROL and value & layout.SLEEP_ENABLE:
            self._power_off()
        elif port == layout.RESET:
            self._reset()
