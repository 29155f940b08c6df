"""What a guest's console said of a panic.

It gives the reason, which no device tells; and for a guest that resets without a driver for the
panic device (an early panic, another kernel) it is the one trace.
"""

from __future__ import annotations

import re

# As printk writes it, at the beginning of a line and with a time in front unless that is off.
_PANIC = re.compile(rb"^(?:\[ *\d+\.\d+\] )?Kernel panic - not syncing: ([^\r\n]*)", re.MULTILINE)
_RESTART = b"reboot: Restarting system"  # of a reboot that was asked for; a panic says it never


def reason(tail: bytes) -> str | None:
    """Return why the kernel panicked, None where the end of the console tells of no panic."""
    found = _PANIC.findall(tail[tail.rfind(_RESTART) + 1 :])
    return found[-1].decode("utf-8", "replace") if found else None
