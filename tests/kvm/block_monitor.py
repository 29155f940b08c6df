"""A monitor to be killed: boots a guest on a disk and lets it write and fsync files for ever.

    block_monitor.py KERNEL INITRD IMAGE

The guest says `@@ name checksum` for each file once it is durable, and so do we.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from hypervisor import Machine

LOOP = """modprobe ext4; mount -t ext4 /dev/vda /mnt && i=0; while :; do
head -c 150000 /dev/urandom | dd of=/mnt/f$i bs=64k conv=fsync 2>/dev/null &&
echo "@""@ f$i $(sha256sum </mnt/f$i)"
i=$((i + 1)); done
"""


async def main(kernel: str, initrd: str, image: str) -> None:
    """Show what the guest says until we are killed."""
    async with Machine(kernel, initrd, engine="kvm", cpus=2, disks=[Path(image)]) as vm:
        seen = b""
        while b"/ # " not in seen:
            seen += await vm.console.read()
        vm.console.write(LOOP.encode())
        while data := await vm.console.read():
            sys.stdout.buffer.write(data)
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
