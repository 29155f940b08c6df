"""A guest whose kernel mounts what this process serves over 9P: boot, shells, mounts.

The guest's web server runs every script that is posted to it, so scripts of any length run side by
side, each with its output and its status, and nothing depends on a console.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from hypervisor import Machine
from hypervisor.image.build import Image, Spec, build
from hypervisor.image.cache import Cache, default_directory
from vpnstack import Gateway

PACKAGES = ("git", "zlib1g", "tcc", "libc6-dev", "make", "dbench", "rsync", "attr")
BOOT = 120.0  # seconds; ten on an idle machine
SCRIPT = 120.0  # seconds that a script may take; most take one
PROBE = Path(__file__).with_name("p9_probe.c")
_RUN = b"""#!/bin/sh
printf 'Content-Type: text/plain\\r\\n\\r\\n'
head -c "$CONTENT_LENGTH" >/run/script.$$
exec /bin/sh -e /run/script.$$ </dev/null 2>&1
"""
_INIT = b"""#!/bin/sh
. /lib/trikit/setup.sh
modprobe -a 9p 9pnet_fd
echo 'user:x:1000:1000::/tmp:/bin/sh' >>/etc/passwd
ip link set eth0 up && udhcpc -i eth0 -n -q -f -t 20 -T 1 -S
httpd -p 80 -h /www
echo guest' 'ready
while :; do sleep 1000; done
"""


def image() -> Image:
    """Return the guest's image; raises `UsageError` where it cannot be had."""
    spec = Spec(packages=PACKAGES, init=_INIT, files={"www/cgi-bin/run": _RUN})
    return build(spec, Cache(default_directory(os.environ)))


def probe(into: Path) -> Path:
    """Compile the probe so that it runs in any guest."""
    path = into / "probe"
    subprocess.run(["cc", "-static", "-O1", "-o", str(path), str(PROBE)], check=True)
    return path


class ScriptFailed(AssertionError):
    """A script in the guest ended with another status than 0."""


@dataclass(frozen=True, slots=True)
class Guest:
    """A running guest."""

    net: Gateway
    gateway: str
    host: str  # the address that stands for the host's loopback

    async def sh(self, script: str, *, deadline: float = SCRIPT) -> str:
        """Run a script; return what it printed.  It ends at the first command that fails."""
        text = f"trap 'echo =status=$?' EXIT\n{script}\n".encode(errors="surrogateescape")
        reader, writer = await self.net.open_connection("vm1", 80)
        try:
            writer.write(b"POST /cgi-bin/run HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(text))
            writer.write(text)
            async with asyncio.timeout(deadline):
                said = await reader.read()
        finally:
            writer.close()
        said = said.partition(b"\r\n\r\n")[2] or said
        out, _, status = said.decode(errors="surrogateescape").rpartition("=status=")
        if status.strip() != "0":
            raise ScriptFailed(f"status {status.strip() or 'unknown'}:\n{out or status}")
        return out

    async def mount(self, where: str, port: int, *, host: str = "", **options: str) -> None:
        """Mount what is served on a port of the gateway or of another host."""
        chosen = {"trans": "tcp", "port": str(port), "msize": "524288", "version": "9p2000.L"}
        chosen |= {"cache": "none", "access": "client"} | options
        flags = ",".join(f"{k}={v}" if v else k for k, v in chosen.items())
        await self.sh(f"mkdir -p {where}; mount -t 9p -o {flags} {host or self.gateway} {where}")


@contextlib.asynccontextmanager
async def boot(made: Image, log: Path) -> AsyncIterator[Guest]:
    """Boot a guest on QEMU on a network of its own."""
    async with Gateway() as net:
        with log.open("wb") as console:
            async with Machine(
                made.kernel, made.initrd, engine="qemu", memory="768M", cpus=2,
                nics=[net.port("vm1")], console_log=console, cmdline="quiet",
            ) as vm:  # fmt: skip
                await _ready(vm)
                v4, hosts = net.config.v4, net.config.host_addresses()
                assert v4 is not None
                yield Guest(net, str(v4.ip), str(hosts[0].ip))
                await vm.kill()


async def _ready(vm: Machine) -> None:
    seen = b""
    async with asyncio.timeout(BOOT):
        while b"guest ready" not in seen:
            data = await vm.console.read()
            assert data, f"the console ended: {seen[-500:]!r}"
            seen += data
