"""AML encodings, against examples that are worked out by hand from ACPI 6.5, chapter 20."""

import pytest

from hypervisor.pc import aml


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (1, "01"),
        (2, "0a02"),
        (0x100, "0b0001"),
        (0x10000, "0c00000100"),
        (1 << 32, "0e0000000001000000"),
    ],
)
def test_integer(value: int, encoded: str) -> None:
    assert aml.integer(value).hex() == encoded


def test_integer_too_large() -> None:
    with pytest.raises(ValueError, match="64 bits"):
        aml.integer(1 << 64)


@pytest.mark.parametrize(
    ("name", "encoded"),
    [
        ("_CRS", b"_CRS"),
        ("RTC", b"RTC_"),
        ("\\_SB", b"\\_SB_"),
        ("\\_SB.PWRB", b"\\\x2e_SB_PWRB"),
        ("\\_SB.A.B", b"\\\x2f\x03_SB_A___B___"),
    ],
)
def test_path(name: str, encoded: bytes) -> None:
    assert aml.path(name) == encoded


def test_path_segment_too_long() -> None:
    with pytest.raises(ValueError, match="four characters, found 'ABCDE'"):
        aml.path("ABCDE")


@pytest.mark.parametrize(
    ("size", "encoded"),
    [
        (62 - 4, "3f"),  # the longest in one byte: 62 of body and itself
        (63 - 4, "4104"),
        (0xFFF - 2 - 4, "4fff"),
        (0xFFF - 2 - 3, "810001"),
    ],
)
def test_package_length(size: int, encoded: str) -> None:
    term = aml.scope("_SB", bytes(size))
    assert term[1 : 1 + len(encoded) // 2].hex() == encoded
    assert len(term) == 1 + len(encoded) // 2 + 4 + size


def test_eisa_id() -> None:
    assert aml.eisa_id("PNP0501").hex() == "0c41d00501"
    assert aml.eisa_id("PNP0C0C").hex() == "0c41d00c0c"


def test_resources() -> None:
    assert aml.memory32_fixed(0xD0001000, 0x1000).hex() == "86090001001000d000100000"
    assert aml.interrupt(23).hex() == "890600030117000000"
    assert aml.io(0x3F8, 8).hex() == "4701f803f8030108"
    assert aml.resources(aml.io(0x3F8, 8)).hex() == "110d0a0a" + "4701f803f8030108" + "7900"


def test_method_of_one_argument_is_serialized() -> None:
    term = aml.method("_EVT", 1, aml.store(aml.path("ESEL"), aml.LOCAL0))
    assert term == b"\x14\x0c_EVT\x09\x70ESEL\x60"


def test_if_and_notify() -> None:
    condition = aml.bitwise_and(aml.LOCAL0, aml.integer(1))
    assert aml.if_true(condition, aml.notify("PWRB", 0x80)) == (
        b"\xa0\x0c\x7b\x60\x01\x00\x86PWRB\x0a\x80"
    )


def test_region_and_fields() -> None:
    assert aml.io_region("EREG", 0x604, 4) == b"\x5b\x80EREG\x01\x0b\x04\x06\x0a\x04"
    assert aml.field("EREG", ("ESEL", 32)) == b"\x5b\x81\x0bEREG\x03ESEL\x20"
    assert aml.field("EREG", ("ESEL", 64)).endswith(b"ESEL\x40\x04")
