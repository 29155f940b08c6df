"""The MC146818 real-time clock (ports 0x70 and 0x71): the host's time of day in UTC, read-only.

No alarm, no periodic interrupt and no CMOS memory besides; a guest that sets the clock is ignored.
An update is never in progress: a read of the seconds that comes before one of the minutes may
belong to the minute before, so registers are those of the moment at which seconds were read.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ..pc import layout

SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR = 0, 2, 4, 6, 7, 8, 9
STATUS_A, STATUS_B, STATUS_C, STATUS_D = 0x0A, 0x0B, 0x0C, 0x0D
CENTURY = 0x32
DIVIDER = 0x26  # status A: 32.768 kHz, 1024 Hz, no update in progress
HOURS_24 = 0x02  # status B: 24 hours, BCD
VALID = 0x80  # status D: the battery is good


class Rtc:
    """Answers with the time that `clock` returns, in seconds since 1970."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._index = 0
        self._now = time.gmtime(clock())

    def read(self, port: int, size: int) -> int:
        """Return the register that was chosen by a write to the first port."""
        if port == layout.RTC_PORT:
            return self._index
        if self._index in (SECONDS, STATUS_A):  # where drivers begin
            self._now = time.gmtime(self._clock())
        fixed = {STATUS_A: DIVIDER, STATUS_B: HOURS_24, STATUS_D: VALID}
        return fixed.get(self._index, 0) if self._index in fixed else self._date()

    def _date(self) -> int:
        now = self._now
        value = {
            SECONDS: min(now.tm_sec, 59),  # a leap second is none here
            MINUTES: now.tm_min,
            HOURS: now.tm_hour,
            WEEKDAY: (now.tm_wday + 1) % 7 + 1,  # 1 is Sunday
            DAY: now.tm_mday,
            MONTH: now.tm_mon,
            YEAR: now.tm_year % 100,
            CENTURY: now.tm_year // 100,
        }.get(self._index, 0)
        return value // 10 << 4 | value % 10

    def write(self, port: int, size: int, value: int) -> None:
        """Choose a register; bit 7 (no NMI) is not kept."""
        if port == layout.RTC_PORT:
            self._index = value & 0x7F
