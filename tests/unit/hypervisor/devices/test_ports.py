"""The plain port devices: clock, reset line, power management."""

from __future__ import annotations

import calendar

import pytest

from hypervisor.devices.i8042 import KeyboardController
from hypervisor.devices.pm import Power
from hypervisor.devices.rtc import Rtc
from hypervisor.pc import layout


class Clock:
    def __init__(self, *date: int) -> None:
        self.now = float(calendar.timegm(date))

    def __call__(self) -> float:
        return self.now


def register(rtc: Rtc, index: int) -> int:
    rtc.write(layout.RTC_PORT, 1, index)
    return rtc.read(layout.RTC_PORT + 1, 1)


@pytest.mark.parametrize(
    ("date", "expected"),
    [
        ((1999, 12, 31, 23, 59, 58), "58 59 23 06 31 12 99 19"),
        ((2026, 11, 22, 7, 5, 9), "09 05 07 01 22 11 26 20"),
        ((2000, 2, 29, 0, 0, 0), "00 00 00 03 29 02 00 20"),
    ],
)
def test_rtc_reads_bcd_in_utc(date: tuple[int, ...], expected: str) -> None:
    rtc = Rtc(Clock(*date))
    found = [register(rtc, i) for i in (0, 2, 4, 6, 7, 8, 9, 0x32)]
    assert " ".join(f"{value:02x}" for value in found) == expected
    assert [register(rtc, i) for i in (0x0A, 0x0B, 0x0C, 0x0D, 0x40)] == [0x26, 2, 0, 0x80, 0]


def test_rtc_is_not_read_across_a_minute() -> None:
    clock = Clock(2026, 1, 1, 0, 0, 59)
    rtc = Rtc(clock)
    assert register(rtc, 0) == 0x59
    clock.now += 1
    assert register(rtc, 2) == 0
    assert register(rtc, 0) == 0
    assert register(rtc, 2) == 1


def test_rtc_ignores_a_guest_that_sets_it() -> None:
    rtc = Rtc(Clock(2026, 1, 1, 0, 0, 0))
    rtc.write(layout.RTC_PORT, 1, 0x80 | 9)  # without NMI
    rtc.write(layout.RTC_PORT + 1, 1, 0x70)
    assert rtc.read(layout.RTC_PORT, 1) == 9
    assert rtc.read(layout.RTC_PORT + 1, 1) == 0x26


def test_i8042_resets_by_its_command_alone() -> None:
    called: list[str] = []
    device = KeyboardController(lambda: called.append("reset"))
    assert device.read(layout.I8042_COMMAND, 1) == 0
    for port, value in ((layout.I8042_COMMAND, 0xD1), (layout.I8042_DATA, 0xFE)):
        device.write(port, 1, value)
    assert called == []
    device.write(layout.I8042_COMMAND, 1, 0xFE)
    assert called == ["reset"]


@pytest.mark.parametrize(
    ("port", "value", "expected"),
    [
        (layout.SLEEP_CONTROL, layout.SLEEP_S5, ["off"]),
        (layout.SLEEP_CONTROL, layout.SLEEP_S5 | 0x80, ["off"]),
        (layout.SLEEP_CONTROL, layout.SLEEP_TYPE_S5 << 2, []),  # not enabled
        (layout.SLEEP_CONTROL, layout.SLEEP_ENABLE | 3 << 2, []),  # S3
        (layout.RESET, layout.RESET_VALUE, ["reset"]),
        (layout.RESET, 0, []),
        (layout.SLEEP_STATUS, 0x80, []),
        (layout.GED_EVENTS, 0xFFFFFFFF, []),
    ],
)
def test_power_registers(port: int, value: int, expected: list[str]) -> None:
    called: list[str] = []
    power = Power(lambda: called.append("off"), lambda: called.append("reset"))
    power.write(port, 1, value)
    assert called == expected
    assert power.read(port, 1) == 0


def test_the_power_button_is_read_once() -> None:
    power = Power(lambda: None, lambda: None)
    power.press_button()
    assert power.read(layout.SLEEP_STATUS, 1) == 0
    assert power.read(layout.GED_EVENTS, 4) == layout.GED_POWER_BUTTON
    assert power.read(layout.GED_EVENTS, 4) == 0
