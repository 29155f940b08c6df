"""Programs of hostile guests, in 64-bit mode, and a guest beside them that must go on.

They are data for `machine(...)`: position-independent code, entered with the first 4 GiB mapped.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable

from hypervisor import Machine

DEADLINE = 60.0  # seconds; only a test that fails comes near it
OFF = bytes.fromhex("ba00060000 b034 ee f4")  # sleep control: S5
FOR_EVER = b"\xeb\xfe"
# Counts the bytes that it gets, and answers each with the count.
WITNESS = bytes.fromhex("bafd030000 ec a801 74fb baf8030000 ec fec3 88d8 ee ebe9")
# mov [rbx], al, ax, eax, rax
STORES = {1: "8803", 2: "668903", 4: "8903", 8: "488903"}
LOADS = {1: "8a03", 2: "668b03", 4: "8b03", 8: "488b03"}


def stores(writes: Iterable[tuple[int, int]], size: int = 4) -> bytes:
    """Write each value to its address, `size` bytes of it."""
    return _each(writes, STORES[size])


def loads(addresses: Iterable[int], size: int = 4) -> bytes:
    """Read from each address."""
    return _each(((address, 0) for address in addresses), LOADS[size])


def _each(pairs: Iterable[tuple[int, int]], access: str) -> bytes:
    """lea rsi, table; mov ecx, count; each: lodsd; mov ebx, eax; lodsd; access; loop each"""
    table = b"".join(struct.pack("<II", address, value) for address, value in pairs)
    body = bytes.fromhex("ad 89c3 ad" + access)
    loop = body + b"\xe2" + struct.pack("<b", -len(body) - 2)
    setup = b"\xb9" + struct.pack("<I", len(table) // 8)
    over = b"\xe9" + struct.pack("<I", len(table))  # jmp over the table
    return (
        b"\x48\x8d\x35"
        + struct.pack("<I", len(setup) + len(loop) + len(over))
        + setup
        + loop
        + over
        + table
    )


def ports(first: int, last: int) -> bytes:
    """Read each port and write 0 to it: in al, dx; mov al, 0; out dx, al."""
    body = bytes.fromhex("ec b000 ee ffc2 81fa") + struct.pack("<I", last + 1)
    loop = body + b"\x75" + struct.pack("<b", -len(body) - 2)
    return b"\xba" + struct.pack("<I", first) + loop


def endless(code: bytes) -> bytes:
    """Do `code` again and again."""
    return code + b"\xe9" + struct.pack("<i", -len(code) - 5)


class Witness:
    """A guest that counts; each beat proves that it runs, and has missed none."""

    def __init__(self, vm: Machine) -> None:
        self._vm = vm
        self.count = 0

    async def beat(self) -> None:
        """Let it count once."""
        self._vm.console.write(b"x")
        self.count += 1
        async with asyncio.timeout(DEADLINE):
            assert await self._vm.console.read(1) == bytes([self.count & 0xFF])
