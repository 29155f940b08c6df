"""The board's own ports: time of day, reset line, ACPI registers."""

import calendar

import pytest

from hypervisor.engine.ports import KeyboardController, Power, Rtc
from hypervisor.pc import layout

SUNDAY = calendar.timegm((2026, 11, 29, 17, 8, 9))


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (0x00, 0x09),
        (0x02, 0x08),
        (0x04, 0x17),
        (0x06, 1),
        (0x07, 0x29),
        (0x08, 0x11),
        (0x09, 0x26),
        (0x32, 0x20),
        (0x0A, 0x26),  # no update in progress
        (0x0D, 0x80),
        (0x55, 0),
    ],
)
def test_rtc_registers(index: int, value: int) -> None:
    rtc = Rtc(lambda: SUNDAY)
    rtc.write(layout.RTC_PORT, 1, index | 0x80)  # the top bit masks NMIs
    assert rtc.read(layout.RTC_PORT, 1) == index
    assert rtc.read(layout.RTC_PORT + 1, 1) == value


def test_rtc_time_is_the_hosts() -> None:
    rtc = Rtc(lambda: SUNDAY)
    rtc.write(layout.RTC_PORT, 1, 0)
    rtc.write(layout.RTC_PORT + 1, 1, 0x30)
    assert rtc.read(layout.RTC_PORT + 1, 1) == 0x09


def test_keyboard_controller_resets_by_fe_alone() -> None:
    resets: list[int] = []
    keyboard = KeyboardController(lambda: resets.append(1))
    for port, value in ((layout.I8042_DATA, 0xFE), (layout.I8042_COMMAND, 0xD1)):
        keyboard.write(port, 1, value)
    assert not resets
    assert keyboard.read(layout.I8042_COMMAND, 1) == 0
    keyboard.write(layout.I8042_COMMAND, 1, 0xFE)
    assert resets == [1]


def test_power_registers() -> None:
    ends: list[str] = []
    power = Power(lambda: ends.append("off"), lambda: ends.append("reset"))
    power.write(layout.SLEEP_STATUS, 1, 0x80)
    power.write(layout.SLEEP_CONTROL, 1, layout.SLEEP_S5 & ~layout.SLEEP_ENABLE)
    assert not ends
    power.write(layout.SLEEP_CONTROL, 1, layout.SLEEP_S5)
    power.write(layout.RESET, 1, layout.RESET_VALUE)
    assert ends == ["off", "reset"]


def test_the_power_buttons_event_is_read_once() -> None:
    power = Power(lambda: None, lambda: None)
    assert power.read(layout.GED_EVENTS, 4) == 0
    power.press_button()
    assert power.read(layout.GED_EVENTS, 4) == layout.GED_POWER_BUTTON
    assert power.read(layout.GED_EVENTS, 4) == 0
