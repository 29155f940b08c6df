"""Runs a command in a namespace as another user, with a gateway of a few lines on its TAP device.

    python namespace_driver.py UID CONFIG COMMAND...

CONFIG is a JSON object of `NamespaceConfig`'s arguments.  Imports are done before privileges are
dropped, so that the checkout and its interpreter may be where that user cannot read.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures.thread  # noqa: F401  (otherwise loaded when it is too late)
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import dpkt

from vpnstack.errors import VpnstackError
from vpnstack.host import spawn
from vpnstack.host.namespace import CommandError, NamespaceConfig

MAC = bytes.fromhex("020000000001")
VNET_LEN = 12


def reply(frame: bytes) -> bytes | None:
    """Answer ARP for any address and ICMP echo; None for everything else."""
    ether = dpkt.ethernet.Ethernet(frame)
    inner = ether.data
    if isinstance(inner, dpkt.arp.ARP) and inner.op == dpkt.arp.ARP_OP_REQUEST:
        answer = dpkt.arp.ARP(
            op=dpkt.arp.ARP_OP_REPLY, sha=MAC, spa=inner.tpa, tha=inner.sha, tpa=inner.spa
        )
    elif isinstance(inner, dpkt.ip.IP) and isinstance(inner.data, dpkt.icmp.ICMP):
        icmp = dpkt.icmp.ICMP(type=dpkt.icmp.ICMP_ECHOREPLY, data=inner.data.data)
        answer = dpkt.ip.IP(src=inner.dst, dst=inner.src, p=inner.p, data=icmp)
        answer.len = len(answer)
    else:
        return None
    return bytes(
        dpkt.ethernet.Ethernet(dst=ether.src, src=MAC, type=ether.type, data=bytes(answer))
    )


def serve(tap: int) -> None:
    """Answer all frames that wait on `tap`."""
    while True:
        try:
            frame = os.read(tap, 1 << 17)[VNET_LEN:]
        except BlockingIOError:
            return
        answer = reply(frame)
        if answer is not None:
            os.write(tap, bytes(VNET_LEN) + answer)


def become(uid: int) -> None:
    """Drop to `uid`, and let the helper run where that user may read it."""
    directory = Path(tempfile.mkdtemp())
    os.chown(directory, uid, uid)
    directory.chmod(0o755)
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    spawn.HELPER = Path(shutil.copy(spawn.HELPER, directory))
    spawn.HELPER.chmod(0o644)
    sys.executable = "/usr/bin/python3"
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


async def run(config: NamespaceConfig, argv: list[str]) -> int:
    """Do what `vpnstack run` does."""
    child = await spawn.Child.start(argv, config)
    for note in child.notes:
        print("note:", note, file=sys.stderr)
    loop = asyncio.get_running_loop()
    loop.add_reader(child.tap_fd, serve, child.tap_fd)
    try:
        with child.forwarding():
            await child.release()
            return await child.wait()
    finally:
        loop.remove_reader(child.tap_fd)
        os.close(child.tap_fd)
        child.close()


def main() -> int:
    """Returns the exit code of the command, or 125 with the error on standard error."""
    uid, config = int(sys.argv[1]), json.loads(sys.argv[2])
    if uid:
        become(uid)
    try:
        return asyncio.run(run(NamespaceConfig(**config), sys.argv[3:]))
    except VpnstackError as e:
        print("error:", e, file=sys.stderr)
        return e.exit_code if isinstance(e, CommandError) else 125


if __name__ == "__main__":
    sys.exit(main())
