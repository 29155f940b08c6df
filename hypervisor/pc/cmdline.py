"""The kernel's command line: sensible defaults, then the user's words, which have the last say."""

from __future__ import annotations

from . import layout
from .elf import KernelError

# An end at panic instead of a wait; no probing for the PCI bus that is not there; entropy from the
# processor; and no watchdog over the time stamp counter, which KVM keeps right.
DEFAULTS = "panic=-1 pci=off random.trust_cpu=on tsc=reliable"
# Reboot by ACPI's reset register or the keyboard controller: reboot=t would look like a crash.
WITH_ACPI = "reboot=a"
# With ACPI the FADT says that there is no keyboard, and i8042.nopnp would make Linux look for one.
WITHOUT_ACPI = "acpi=off reboot=k i8042.noaux i8042.nomux i8042.nopnp i8042.dumbkbd"


def default_cmdline(
    user: str = "",
    *,
    console: str = "ttyS0",
    quiet: bool = True,
    acpi: bool = True,
    devices: int = 0,
) -> str:
    """Return defaults and `user`'s words.

    `console` is ttyS0, hvc0, or empty for none.  Without `acpi`, the `devices` are named one by one
    for a kernel with CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES.
    """
    words = [f"console={console}"] if console else []
    words += [DEFAULTS, WITH_ACPI if acpi else WITHOUT_ACPI]
    words += ["quiet"] if quiet else []
    words += [] if acpi else [virtio_mmio(n) for n in range(devices)]
    return " ".join([*words, user]).rstrip()


def virtio_mmio(number: int) -> str:
    """Return the word that tells a kernel without ACPI of device `number`."""
    slot = layout.slot(number)
    return f"virtio_mmio.device=4K@{slot.address:#x}:{slot.gsi}"


def encode(cmdline: str, limit: int = layout.CMDLINE_SIZE - 1) -> bytes:
    """Return `cmdline` with a NUL behind it; `limit` is what the kernel takes without it."""
    data = cmdline.encode(errors="surrogateescape")
    limit = min(limit, layout.CMDLINE_SIZE - 1)
    if len(data) > limit:
        raise KernelError("command line is too long", f"at most {limit} bytes", f"{len(data)}")
    if b"\0" in data or b"\n" in data:
        raise KernelError("command line", "one line without NUL", ascii(cmdline))
    return data + b"\0"
