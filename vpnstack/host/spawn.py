"""Starts the namespace helper and hands back what it opened: `open_tap` and `Child`.

The helper (`nshelper`) enters or makes the namespaces; the descriptors that it sends, of a TAP
device and of a netlink socket, belong to them while we stay in the host's.  Everything here runs
on the caller's loop and blocks it only for the start of a process, about a millisecond.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from . import configure
from .namespace import CommandError, NamespaceConfig, NamespaceError, OpenTarget, Target

log = logging.getLogger(__name__)

HELPER = Path(__file__).with_name("nshelper.py")
TIMEOUT = 30.0  # seconds for the helper to answer; it takes milliseconds
SYSCTL = Path("/proc/sys")
FORWARDED = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP)
FROM_TERMINAL = {signal.SIGINT, signal.SIGQUIT}  # a terminal sends these to the whole job


class _Helper:
    """A helper process and our end of the socket to it."""

    def __init__(self, argv: Sequence[str]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, contextlib.ExitStack() as undo:
            undo.callback(ours.close)
            ours.setblocking(False)
            fd = theirs.fileno()
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(HELPER), str(fd), *argv],
                pass_fds=[fd],
                stdin=None if argv else subprocess.DEVNULL,
                stdout=None if argv else subprocess.DEVNULL,
            )
            undo.pop_all()
        self.socket = ours

    async def prepare(self, config: NamespaceConfig, fds: Sequence[int]) -> tuple[int, list[str]]:
        """Send the request, wait for the answer, configure; returns the TAP device and notes."""
        socket.send_fds(self.socket, [json.dumps(_request(config)).encode()], fds)
        answer, given = await self.answer()
        if answer is None or len(given) != 2:
            for fd in given:
                os.close(fd)
            raise _failure(answer, config)
        tap, netlink = given[0], socket.socket(fileno=given[1])
        try:
            if not answer["ipv6"]:
                config = config.without_ipv6()
            if config.configure:
                await asyncio.to_thread(configure.apply, netlink, answer["index"], config)
            netlink.close()
        except BaseException:
            os.close(tap)
            raise
        return tap, answer["notes"]

    async def answer(self) -> tuple[dict[str, Any] | None, list[int]]:
        """Wait for one message of the helper; returns None when it closed the socket instead."""
        try:
            await asyncio.wait_for(_readable(self.socket.fileno()), TIMEOUT)
        except TimeoutError:
            raise NamespaceError(
                f"the namespace helper did not answer in {TIMEOUT:.0f} s"
            ) from None
        try:
            data, fds = _receive(self.socket)
        except ConnectionResetError:  # it ended without reading all that we sent
            return None, []
        return (json.loads(data) if data else None), fds

    async def wait(self) -> int:
        """Wait for the end of the process; returns its exit code, 128 + n for signal n."""
        pidfd = os.pidfd_open(self.process.pid) if self.process.returncode is None else -1
        if pidfd >= 0:
            try:
                await _readable(pidfd)
            finally:
                os.close(pidfd)
        code = self.process.wait()
        return 128 - code if code < 0 else code

    def close(self) -> None:
        """Let go of the socket, end the process if it still runs, and collect it."""
        self.socket.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


async def open_tap(target: Target, config: NamespaceConfig) -> int:
    """Create and configure a TAP device inside `target`; returns its descriptor, non-blocking.

    The descriptor speaks virtio-net frames (12 octets of header) and is the caller's; closing it
    removes the device.  Raises `NamespaceError`.
    """
    where: OpenTarget = target.open()
    try:
        helper = _Helper(())
        try:
            tap, notes = await helper.prepare(config, where.fds)
        finally:
            helper.close()
    finally:
        where.close()
    for note in notes:
        log.warning("%s: %s", target, note)
    return tap


class Child:
    """A command in network and mount namespaces of its own, held until `release`.

    Without the privilege for that it runs in a user namespace as well, where it is root and has
    the one user and group of the caller.  It shares terminal, job, directory and environment with
    us.  `tap_fd` is the caller's to close, `notes` are remarks worth a line on standard error.
    """

    def __init__(self, helper: _Helper, argv: Sequence[str], tap_fd: int, notes: list[str]) -> None:
        self.tap_fd = tap_fd
        self.notes = notes
        self._helper = helper
        self._argv = argv

    @classmethod
    async def start(cls, argv: Sequence[str], config: NamespaceConfig) -> Self:
        """Make the namespaces and the TAP device and configure it; the command waits."""
        if not argv:
            raise NamespaceError("run: expected a command, found none")
        helper = _Helper(argv)
        try:
            tap, notes = await helper.prepare(config, ())
        except BaseException:
            helper.close()
            raise
        return cls(helper, argv, tap, notes)

    @property
    def pid(self) -> int:
        """The process ID of the command, in our namespace."""
        return self._helper.process.pid

    async def release(self) -> None:
        """Let the command start; raises `CommandError` when it cannot be executed."""
        with contextlib.suppress(BrokenPipeError):  # ended by a signal; `wait` tells
            self._helper.socket.send(b"!")
        answer, _ = await self._helper.answer()  # end of file: exec closed the other end
        self._helper.socket.close()
        if answer is not None:
            await self._helper.wait()
            code = 127 if answer["errno"] == errno.ENOENT else 126
            raise CommandError(f"{self._argv[0]}: {os.strerror(answer['errno'])}", code)

    async def wait(self) -> int:
        """Wait for the command to end; returns its exit code, 128 + n after signal n."""
        return await self._helper.wait()

    def send_signal(self, number: int) -> None:
        """Send a signal to the command, unless it has ended."""
        self._helper.process.send_signal(number)

    @contextlib.contextmanager
    def forwarding(self) -> Iterator[None]:
        """Pass SIGINT, SIGQUIT, SIGTERM and SIGHUP on to the command meanwhile.

        What the terminal sends to the foreground job reaches the command by itself: then SIGINT
        and SIGQUIT are not sent a second time.
        """
        loop = asyncio.get_running_loop()
        for number in FORWARDED:
            loop.add_signal_handler(number, self._forward, number)
        try:
            yield
        finally:
            for number in FORWARDED:
                loop.remove_signal_handler(number)

    def _forward(self, number: int) -> None:
        if not (number in FROM_TERMINAL and _in_foreground()):
            self.send_signal(number)

    def close(self) -> None:
        """End the command, if it still runs, with SIGKILL; the TAP device stays the caller's."""
        self._helper.close()


def _request(config: NamespaceConfig) -> dict[str, Any]:
    sysctls: dict[str, str] = {}
    if config.configure:
        ipv6 = config.accept_ra or any(i.version == 6 for i in config.interfaces)
        sysctls = {
            "accept_ra": "2" if config.accept_ra else "0",  # 2: even where packets are forwarded
            "autoconf": str(int(config.accept_ra)),
            "accept_dad": "0",  # else the link-local address is unusable for a second
        }
        if ipv6:
            sysctls["disable_ipv6"] = "0"  # container engines turn it off for want of a network
    resolv = config.resolv_conf if config.configure else ""
    return {"ifname": config.ifname, "sysctls": sysctls, "resolv": resolv}


def _receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    """Receive a message with its descriptors; Python 3.11's recv_fds() ignores CLOEXEC."""
    room = socket.CMSG_SPACE(2 * struct.calcsize("i"))
    data, parts, _, _ = sock.recvmsg(1 << 16, room, socket.MSG_CMSG_CLOEXEC)
    return data, [fd for _, _, raw in parts for (fd,) in struct.iter_unpack("i", raw)]


async def _readable(fd: int) -> None:
    """Wait until `fd` is readable."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not future.done():
            future.set_result(None)

    loop.add_reader(fd, wake)
    try:
        await future
    finally:
        loop.remove_reader(fd)


def _in_foreground() -> bool:
    """Say whether our process group is the foreground job of our terminal."""
    try:
        tty = os.open("/dev/tty", os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(tty) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(tty)


def _failure(answer: dict[str, Any] | None, config: NamespaceConfig) -> NamespaceError:
    """Turn the helper's step and errno into one line that says what to do."""
    if answer is None or "step" not in answer:
        return NamespaceError("the namespace helper ended early")
    step, code = answer["step"], answer["errno"]
    reason = os.strerror(code)
    texts = {
        "enter-user": f"cannot enter the user namespace: {reason}; run as its owner or as root",
        "enter-net": f"cannot enter the network namespace: {reason}; run as its owner or as root",
        "mount": f"cannot make the mount namespace private: {reason}",
        "resolv": f"cannot cover /etc/resolv.conf: {reason}",
        "sysctl": f"cannot set IPv6's parameters of {config.ifname}: {reason}",
        "tun": f"cannot open /dev/net/tun: {reason}; try `modprobe tun` as root",
        "interface": f"cannot create {config.ifname}: {reason}",
    }
    if step == "interface" and code in {errno.EBUSY, errno.EINVAL}:
        texts[step] = f"cannot create {config.ifname}: the namespace has that interface already"
    if step in {"unshare", "map"}:
        return NamespaceError(userns_refusal(code))
    return NamespaceError(texts[step])


def userns_refusal(code: int, sysctl: Path = SYSCTL) -> str:
    """Say in one line why no user namespace was given (errno `code`), naming the switch if any."""
    head = f"not allowed to create user and network namespaces ({os.strerror(code)})"
    switches = (
        ("kernel/unprivileged_userns_clone", "0", "1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
        ("user/max_user_namespaces", "0", "10000"),
        ("user/max_net_namespaces", "0", "10000"),
    )
    for name, refuses, allows in switches:
        with contextlib.suppress(OSError):
            if (sysctl / name).read_text().strip() == refuses:
                return f"{head}: run as root, or `sysctl -w {name.replace('/', '.')}={allows}`"
    if code == errno.ENOSPC:
        return f"{head}: run as root, or raise user.max_user_namespaces with sysctl"
    return f"{head}: run as root; a container's or a sandbox's seccomp filter may forbid it"
