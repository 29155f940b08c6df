"""The program that runs inside a namespace; started by path, with the standard library only.

    python -I -S nshelper.py FD [COMMAND...]

FD is one end of a SOCK_SEQPACKET pair.  The request is one JSON object; with it come the
descriptors of the namespaces to enter (network, then user), unless a COMMAND is given, which gets
namespaces of its own.  The answer is {"index", "ipv6", "notes"} with the descriptors of a
TAP device and of a route netlink socket, both of the namespace, or {"step", "errno"}.  With a
COMMAND we then wait for the word to go, and become it; end of file instead means to give up.

A separate program, because a thread of ours cannot enter a user namespace and a fork of a process
with threads and a running loop is not safe.  Nothing but Python's start (about 15 ms) is paid: the
netlink socket lets the parent configure the namespace with pyroute2 from where it is.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import socket
import stat
import struct
import sys
from typing import Any

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
MS_BIND, MS_REC, MS_SLAVE = 0x1000, 0x4000, 0x80000
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
MNT_DETACH = 2

TUNSETIFF, TUNSETOFFLOAD, TUNSETVNETHDRSZ = 0x400454CA, 0x400454D0, 0x400454D8
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN = 1, 2, 4, 8
VNET_HDR_LEN = 12  # struct virtio_net_hdr_v1

RESOLV_CONF = "/etc/resolv.conf"
# Behind these sockets sit resolvers of the host, which the C library asks before resolv.conf.
RESOLVER_SOCKETS = ("/run/systemd/resolve/io.systemd.Resolve", "/run/nscd/socket")

libc = ctypes.CDLL(None, use_errno=True)


class StepError(Exception):
    """A step failed: its name and errno, as the parent wants to know them."""

    def __init__(self, step: str, errno: int) -> None:
        super().__init__(step, errno)
        self.answer = {"step": step, "errno": errno}


def call(step: str, name: str, *args: Any) -> None:
    """Call a function of the C library that returns 0, or raise `StepError`."""
    if getattr(libc, name)(*args) != 0:
        raise StepError(step, ctypes.get_errno())


def mount(step: str, source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """mount(2)."""
    args = [text.encode() or None for text in (source, target, kind)]
    call(step, "mount", *args, ctypes.c_ulong(flags), data.encode() or None)


def write(step: str, path: str, text: str) -> None:
    """Write a file of /proc in one go."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as e:
        raise StepError(step, e.errno or 0) from None


def enter(fds: list[int]) -> None:
    """Join the namespaces given: the user namespace first, it grants the right to the other."""
    for fd, kind, step in zip(
        reversed(fds),
        (CLONE_NEWUSER, CLONE_NEWNET)[-len(fds) :],
        ("user", "net")[-len(fds) :],
        strict=True,
    ):
        call(f"enter-{step}", "setns", fd, kind)
        os.close(fd)


def isolate() -> None:
    """Make namespaces of our own; where we may not, in a user namespace that makes us root."""
    own = CLONE_NEWNET | CLONE_NEWNS
    uid, gid = os.geteuid(), os.getegid()
    if libc.unshare(own) != 0:
        call("unshare", "unshare", own | CLONE_NEWUSER)
        write("map", "/proc/self/setgroups", "deny")  # user_namespaces(7): before gid_map
        write("map", "/proc/self/gid_map", f"0 {gid} 1\n")
        write("map", "/proc/self/uid_map", f"0 {uid} 1\n")
    # What we mount stays here; what the host mounts later still appears.
    mount("mount", "", "/", "", MS_REC | MS_SLAVE)


def open_tap(ifname: str) -> int:
    """Create a TAP device that takes and gives virtio-net frames with all TCP offloads."""
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as e:
        raise StepError("tun", e.errno or 0) from None
    try:
        flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", ifname.encode(), flags))
        fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", VNET_HDR_LEN))
        fcntl.ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN)
    except OSError as e:
        raise StepError("interface", e.errno or 0) from None
    return fd


def bind_resolv_conf(text: str) -> list[str]:
    """Cover resolv.conf with `text`, which lives in a tmpfs that nothing else can see.

    Returns notes for the user.  The file is on no disk: nothing stays behind, however we end.
    """
    target = os.path.realpath(RESOLV_CONF)
    if not os.path.isfile(target):
        return [f"{RESOLV_CONF} does not exist, so the command resolves no names"]
    step = "resolv"
    scratch = "/tmp" if os.path.isdir("/tmp") and not target.startswith("/tmp/") else "/mnt"
    mount(step, "tmpfs", scratch, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=64k,mode=755")
    try:
        with open(f"{scratch}/resolv.conf", "w", encoding="ascii") as f:
            f.write(text)
        mount(step, f"{scratch}/resolv.conf", target, "", MS_BIND)
    finally:
        call(step, "umount2", scratch.encode(), MNT_DETACH)
    for path in RESOLVER_SOCKETS:
        if os.path.exists(path) and stat.S_ISSOCK(os.stat(path).st_mode):
            mount(step, "/dev/null", path, "", MS_BIND)  # connecting is refused
    return []


def sysctls(ifname: str, values: dict[str, str]) -> bool:
    """Set IPv6's parameters of the new device; returns False where the kernel has no IPv6."""
    base = f"/proc/sys/net/ipv6/conf/{ifname}"
    if not os.path.isdir(base):
        return False
    for key, value in values.items():
        write("sysctl", f"{base}/{key}", value)
    return True


def prepare(request: dict[str, Any], fds: list[int], run: bool) -> tuple[dict[str, Any], list[int]]:
    """Do everything up to the answer; returns it and the descriptors that go with it."""
    isolate() if run else enter(fds)
    tap = open_tap(request["ifname"])
    ipv6 = sysctls(request["ifname"], request["sysctls"])
    notes = [] if ipv6 else ["this kernel has no IPv6, so the namespace has IPv4 only"]
    if run and request["resolv"]:
        notes += bind_resolv_conf(request["resolv"])
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    index = socket.if_nametoindex(request["ifname"])
    return {"index": index, "ipv6": ipv6, "notes": notes}, [tap, netlink.detach()]


def become(argv: list[str]) -> dict[str, Any]:
    """Replace this process by the command; returns only what went wrong."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these, and exec would keep it
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(argv[0], argv)
    except OSError as e:
        return {"step": "exec", "errno": e.errno}


def main() -> int:
    """Serve one request on the socket; see the module's text."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    fd, argv = int(sys.argv[1]), sys.argv[2:]
    os.set_inheritable(fd, False)
    with socket.socket(fileno=fd) as channel:
        data, fds, _, _ = socket.recv_fds(channel, 1 << 16, 2)
        if not data:
            return 1
        try:
            answer, given = prepare(json.loads(data), fds, bool(argv))
        except StepError as e:
            channel.send(json.dumps(e.answer).encode())
            return 1
        socket.send_fds(channel, [json.dumps(answer).encode()], given)
        for each in given:
            os.close(each)
        if argv and channel.recv(1):
            channel.send(json.dumps(become(argv)).encode())
    return 1 if argv else 0


if __name__ == "__main__":
    sys.exit(main())
