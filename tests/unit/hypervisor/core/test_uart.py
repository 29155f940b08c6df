"""The 16550 in C, register by register through a guest, and with interrupts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kvm_guest import SLEEP, TELL, Guest, Ports, pic, wait_readable

from hypervisor.core.kvm import Uart, why_not

REASON = why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"no KVM machine here: {REASON}")

BASE = 0x3F8
DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR = range(BASE, BASE + 8)
EMPTY = 0x60  # LSR: THRE and TEMT
OUT2 = 8
LOOP = 16


class Serial(Ports):
    """A guest with a serial port."""

    def __init__(self) -> None:
        super().__init__()
        self.uart: Uart = self.vm.uart()
        self.vm.resume()


@pytest.fixture
def serial() -> Iterator[Serial]:
    """A running guest that accesses its serial port as told."""
    with Serial() as guest:
        yield guest


def test_output_reaches_the_loop() -> None:
    text = b"hello, world"
    code = bytes.fromhex("be0020 baf803 b90c00 fc ac ee e2fc e699 f4")  # lodsb; out; loop; out 99
    with Guest(code) as guest:
        uart = guest.vm.uart()
        guest.ram.write(0x2000, text)
        guest.vm.resume()
        guest.expect(0x99)
        wait_readable(uart.fd)
        assert uart.read() == text
        assert uart.read() == b""
        assert guest.vcpu.statistics().serial == len(text)
        assert guest.vcpu.statistics().python == 1


def test_string_output_reaches_the_loop() -> None:
    code = bytes.fromhex("be0020 baf803 b90500 fc f36e e699 f4")  # rep outsb
    with Guest(code) as guest:
        uart = guest.vm.uart()
        guest.ram.write(0x2000, b"12345")
        guest.vm.resume()
        guest.expect(0x99)
        assert uart.read() == b"12345"


def test_input_interrupts_a_halted_guest() -> None:
    setup = bytes.fromhex("baf903 b001 ee bafc03 b008 ee")  # IER = receive; MCR = OUT2
    # Handler: read until LSR says that there is no more, telling each byte.
    handler = bytes.fromhex("bafd03 ec a801 7408 baf803 ec e699 ebf0") + b"\xb0\x20\xe6\x20\xcf"
    with Guest(pic(4, 0x1800) + setup + SLEEP) as guest:
        uart = guest.vm.uart()
        guest.ram.write(0x1800, handler)
        guest.vm.resume()
        guest.expect(0x98)
        for text in (b"a", b"bcd"):
            assert uart.write(text) == len(text)
            assert bytes(guest.expect(0x99) for _ in text) == text


def test_an_empty_transmitter_interrupts() -> None:
    setup = bytes.fromhex("baf903 b002 ee bafc03 b008 ee bb0200")  # IER = transmit; MCR = OUT2
    with Guest(pic(4, 0x1800) + setup + SLEEP) as guest:
        guest.vm.uart()
        guest.ram.write(0x1800, TELL)
        guest.vm.resume()
        guest.expect(0x98)
        assert guest.expect(0x99) == 2


def test_registers_hold_what_is_written(serial: Serial) -> None:
    for port, value, kept in (
        (SCR, 0xA5, 0xA5),
        (LCR, 0x1B, 0x1B),
        (MCR, 0xFF, 0x1F),
        (IER, 0xFF, 15),
    ):
        serial.write(port, value)
        assert serial.read(port) == kept


def test_divisor_latch(serial: Serial) -> None:
    serial.write(IER, 1)
    serial.write(LCR, 0x83)
    serial.write(DATA, 0x0C)
    serial.write(IER, 0x34)
    assert (serial.read(DATA), serial.read(IER)) == (0x0C, 0x34)
    serial.write(LCR, 0x03)
    assert serial.read(IER) == 1
    assert serial.uart.read() == b""


def test_fifo_is_announced(serial: Serial) -> None:
    assert serial.read(IIR) == 0x01
    serial.write(IIR, 0x01)
    assert serial.read(IIR) == 0xC1


def test_transmit_interrupt_is_told_once(serial: Serial) -> None:
    serial.write(IER, 2)
    assert serial.read(IIR) == 0x02
    assert serial.read(IIR) == 0x01
    serial.write(DATA, 0x41)
    assert serial.read(IIR) == 0x02
    assert serial.uart.read() == b"A"


def test_receive_interrupt_lasts_until_all_is_read(serial: Serial) -> None:
    serial.uart.write(b"xy")
    serial.write(IER, 1)
    assert serial.read(IIR) == 0x04
    assert serial.read(LSR) == EMPTY | 1
    assert (serial.read(DATA), serial.read(DATA)) == (ord("x"), ord("y"))
    assert serial.read(IIR) == 0x01
    assert serial.read(LSR) == EMPTY


def test_fifo_reset_drops_at_most_a_fifo(serial: Serial) -> None:
    serial.uart.write(b"0123456789abcdefZ")
    serial.write(IIR, 0x03)
    assert serial.read(DATA) == ord("Z")


def test_loopback_returns_data_and_modem_lines(serial: Serial) -> None:
    assert serial.read(MSR) == 0xB0
    serial.write(MCR, LOOP | OUT2 | 2)
    assert serial.read(MSR) == 0x90
    for value in range(17):
        serial.write(DATA, value)
    assert serial.read(LSR) == EMPTY | 3  # the 17th overran the FIFO
    assert [serial.read(DATA) for _ in range(16)] == list(range(16))
    serial.write(MCR, 0)
    assert serial.uart.read() == b""


def test_wide_access_is_bytes() -> None:
    code = bytes.fromhex("baf803 b84142 ef e699 f4")  # out dx, ax: 'A' to THR, 0x42 to IER
    with Guest(code) as guest:
        uart = guest.vm.uart()
        guest.vm.resume()
        guest.expect(0x99)
        assert uart.read() == b"A"


def test_a_full_ring_holds_a_driver_that_looks_and_drops_from_one_that_does_not() -> None:
    # 65,536 bytes by rep outsb over and over, 5 more, then LSR to port 0x99; then LSR again.
    flood = bytes.fromhex("baf803 fc be0020 b9ff7f f36e be0020 b90680 f36e")
    code = flood + bytes.fromhex("bafd03 ec e699 ec e699 f4")
    with Guest(code) as guest:
        uart = guest.vm.uart()
        guest.vm.resume()
        full = guest.exit()
        assert (full.address, full.value) == (0x99, 0)
        assert len(uart.read()) == 65536
        assert uart.dropped == 5
        guest.vm.answer(full)
        assert guest.expect(0x99) == EMPTY


def test_room_for_input_is_told() -> None:
    # Reads 32,768 bytes by rep insb, then tells.
    code = bytes.fromhex("baf803 fc bf0020 b90080 f36c e699 f4")
    with Guest(code) as guest:
        uart = guest.vm.uart()
        assert uart.write(bytes(70000)) == 65536
        assert uart.write(b"x") == 0
        guest.vm.resume()
        wait_readable(uart.fd)
        guest.expect(0x99)
        assert uart.read() == b""
        assert uart.write(bytes(40000)) == 32768
