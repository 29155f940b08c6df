"""The vhost-user port against QEMU: the boot ROM in the machine (iPXE) is the driver, so that no
kernel is needed.  It asks for a lease, is offered one, and requests what it was offered."""

from __future__ import annotations

import select
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dpkt
import pytest

from hypervisor.vhost.port import listen
from vpnstack.core.burst import Burst
from vpnstack.link.port import Port, PortClosed

MAC = bytes.fromhex("525400000001")
OURS = bytes.fromhex("020000000001")
SERVER, LEASE = (socket.inet_aton(ip) for ip in ("10.9.8.1", "10.9.8.7"))
QEMU = (
    "qemu-system-x86_64 -M pc,accel=tcg,memory-backend=m -m 128M "
    "-object memory-backend-memfd,id=m,size=128M,share=on -nographic -nodefaults -boot n "
    "-chardev socket,id=c,path={path} -netdev vhost-user,id=n,chardev=c "
    "-device virtio-net-pci,netdev=n,vectors=0,mac=52:54:00:00:00:01"
)

pytestmark = [
    pytest.mark.compat,
    pytest.mark.skipif(
        not shutil.which("qemu-system-x86_64"), reason="qemu-system-x86_64 is not installed"
    ),
    pytest.mark.skipif(
        not Path("/usr/lib/ipxe/qemu/pxe-virtio.rom").exists(), reason="ipxe-qemu is not installed"
    ),
]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Port]]:
    path = str(tmp_path / "s")
    listener = listen(path, mtu=1500)
    process = subprocess.Popen(QEMU.format(path=path).split(), stdin=subprocess.DEVNULL)
    try:
        assert select.select([listener], [], [], 20)[0]
        (port,) = listener.accept()
        yield process, port
        port.close()
    finally:
        process.kill()
        process.wait()
        listener.close()


def frames(port: Port, seconds: float = 40) -> Iterator[bytes]:
    """Yield what the machine transmits."""
    burst, deadline = Burst(), time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not select.select([port], [], [], 1)[0]:
            continue
        port.rx_burst(burst)
        received = [burst.octets(i) for i in range(burst.count)]
        port.rx_done(burst)
        yield from received


def dhcp_of(frame: bytes) -> tuple[int, Any]:
    """Return a frame's DHCP message type and message; type 0 for anything else."""
    udp = getattr(getattr(dpkt.ethernet.Ethernet(frame), "data", None), "data", None)
    if not isinstance(udp, dpkt.udp.UDP) or udp.dport != 67:
        return 0, None
    message = dpkt.dhcp.DHCP(udp.data)
    return dict(message.opts)[dpkt.dhcp.DHCP_OPT_MSGTYPE][0], message


def offer(xid: int) -> bytes:
    """Build the frame that offers the lease."""
    opts = (
        (dpkt.dhcp.DHCP_OPT_MSGTYPE, bytes([dpkt.dhcp.DHCPOFFER])),
        (dpkt.dhcp.DHCP_OPT_SERVER_ID, SERVER),
        (dpkt.dhcp.DHCP_OPT_LEASE_SEC, bytes((0, 0, 14, 16))),
        (dpkt.dhcp.DHCP_OPT_NETMASK, socket.inet_aton("255.255.255.0")),
    )
    message = dpkt.dhcp.DHCP(
        op=2, xid=xid, yiaddr=int.from_bytes(LEASE, "big"), chaddr=MAC, opts=opts
    )
    udp = dpkt.udp.UDP(sport=67, dport=68, data=bytes(message))
    udp.ulen = len(udp)
    ip = dpkt.ip.IP(src=SERVER, dst=b"\xff" * 4, p=17, ttl=64, data=udp)
    ip.len = len(ip)
    return bytes(dpkt.ethernet.Ethernet(src=OURS, dst=MAC, type=0x800, data=ip))


def test_boot_rom_gets_its_offer(machine: tuple[subprocess.Popen[bytes], Port]) -> None:
    process, port = machine
    out = Burst()
    wanted = None
    for frame in frames(port):
        assert frame[6:12] == MAC
        kind, message = dhcp_of(frame)
        if kind == dpkt.dhcp.DHCPDISCOVER:
            out.clear()
            out.append(offer(message.xid))
            port.tx_burst(out)
        elif kind == dpkt.dhcp.DHCPREQUEST:
            wanted = dict(message.opts)[dpkt.dhcp.DHCP_OPT_REQ_IP]
            break
    assert wanted == LEASE
    assert port.statistics().rx_dropped == port.statistics().tx_dropped == 0
    process.kill()
    with pytest.raises(PortClosed, match="closed the connection"):
        list(frames(port))
    assert "memory-backend-memfd" not in Path("/proc/self/maps").read_text()
