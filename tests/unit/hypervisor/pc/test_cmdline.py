"""Defaults of the kernel's command line."""

from hypervisor.pc import layout
from hypervisor.pc.cmdline import default_cmdline, encode


def test_defaults() -> None:
    assert default_cmdline() == (
        "console=ttyS0 panic=-1 pci=off random.trust_cpu=on tsc=reliable reboot=a quiet"
    )


def test_user_has_the_last_word() -> None:
    assert default_cmdline("panic=5", console="hvc0", quiet=False).endswith(" reboot=a panic=5")


def test_no_console() -> None:
    assert "console" not in default_cmdline(console="")


def test_without_acpi_devices_are_named() -> None:
    words = default_cmdline(acpi=False, devices=4).split()
    assert words[-2:] == [
        "virtio_mmio.device=4K@0xd0002000:7",
        "virtio_mmio.device=4K@0xd0003000:10",
    ]
    assert {"acpi=off", "reboot=k", "i8042.noaux", "i8042.nomux", "i8042.nopnp"} < set(words)


def test_with_acpi_nothing_makes_linux_look_for_a_keyboard() -> None:
    assert "i8042" not in default_cmdline(devices=4)
    assert "virtio_mmio" not in default_cmdline(devices=4)


def test_all_devices_fit() -> None:
    line = default_cmdline(acpi=False, devices=layout.MAX_DEVICES)
    assert len(encode(line)) < layout.CMDLINE_SIZE - 512


def test_bytes_that_are_no_text_pass() -> None:
    assert encode("a=\udcff") == b"a=\xff\0"
