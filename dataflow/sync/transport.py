"""dulwich's clients with what they lack: a way to stop one from another thread.

A transfer blocks in its own thread.  A `Token` counts the octets that come and go, so that whoever
waits can tell a slow peer from a dead one, and stops the transfer: the socket is shut down, ssh is
killed, and everything that dulwich calls back raises.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import threading
from collections.abc import Callable
from typing import IO, Any
from urllib.parse import urlsplit, urlunsplit

from dulwich.client import (
    GitClient,
    LocalGitClient,
    SSHGitClient,
    SubprocessSSHVendor,
    SubprocessWrapper,
    TCPGitClient,
    check_transport_allowed,
    default_urllib3_manager,
    get_transport_and_path,
)
from dulwich.config import StackedConfig
from dulwich.protocol import Protocol

from ..errors import PeerError


class TransferStoppedError(PeerError):
    """A transfer was cancelled or the other side fell silent."""


class Token:
    """The handle on one transfer: progress, activity, and its end."""

    def __init__(self, progress: Callable[[str], object] | None = None) -> None:
        self.octets = 0  # rises while something happens
        self.timed = True  # False: silence means nothing (a local repository)
        self._progress = progress
        self.reason: str | None = None  # why it was stopped
        self._finished = False
        self._closers: list[Callable[[], object]] = []
        self._lock = threading.Lock()

    def stop(self, reason: str) -> None:
        """End the transfer, from any thread; the first reason counts."""
        with self._lock:
            if self._finished:
                return
            if self.reason is None:
                self.reason = reason
        self._close()

    def finish(self) -> None:
        """Release what `on_stop` was given; the transfer is over."""
        with self._lock:
            self._finished = True
        self._close()

    def _close(self) -> None:
        with self._lock:
            closers, self._closers = self._closers, []
        for close in closers:
            close()

    def on_stop(self, close: Callable[[], object]) -> None:
        """Call `close` when the transfer is stopped; at once if it has been."""
        with self._lock:
            if self.reason is None and not self._finished:
                self._closers.append(close)
                return
        close()

    def check(self) -> None:
        """Raise if the transfer was stopped."""
        if self.reason is not None:
            raise TransferStoppedError(self.reason)

    def activity(self, count: int, kind: str) -> None:
        """Take note of octets that moved (dulwich's `report_activity`)."""
        self.octets += count
        self.check()

    def progress(self, message: bytes) -> None:
        """Pass on a message of the other side or of dulwich."""
        self.octets += 1
        self.check()
        if self._progress is not None:
            text = message.decode("utf-8", "replace")
            self._progress("".join(c if c.isprintable() else " " for c in text).strip())


class _TCPClient(TCPGitClient):
    """git:// whose socket a token can shut down."""

    def __init__(self, made: TCPGitClient, token: Token) -> None:
        super().__init__(
            made._host,
            made._port,
            report_activity=token.activity,
            proxy_command=made._proxy_command,
        )
        self._token = token

    def _connect(
        self, cmd: bytes, path: str | bytes, protocol_version: int | None = None
    ) -> tuple[Protocol, Callable[[], bool], IO[bytes] | None]:
        self._token.check()
        made = super()._connect(cmd, path, protocol_version)
        fd: Any = getattr(made[0].read, "__self__", None)  # the reader that dulwich made
        if fd is not None:
            twin = socket.socket(fileno=os.dup(fd.fileno()))
            self._token.on_stop(lambda: _shut(twin))
        return made


def _shut(twin: socket.socket) -> None:
    with contextlib.suppress(OSError), twin:
        twin.shutdown(socket.SHUT_RDWR)


class _SSHVendor(SubprocessSSHVendor):
    """The `ssh` command without questions, which a token can kill."""

    def __init__(self, token: Token) -> None:
        self._token = token

    def run_command(
        self,
        host: str,
        command: bytes,
        username: str | None = None,
        port: int | None = None,
        password: str | None = None,
        key_filename: str | None = None,
        ssh_command: str | None = None,
        protocol_version: int | None = None,
    ) -> SubprocessWrapper:
        self._token.check()
        words = shlex.split(ssh_command) if ssh_command else ["ssh"]
        quiet = shlex.join([*words, "-o", "BatchMode=yes"])
        made = super().run_command(
            host, command, username, port, None, key_filename, quiet, protocol_version
        )
        self._token.on_stop(made.proc.kill)
        return made


def open_client(
    url: str, config: StackedConfig, operation: str, token: Token, timeout: float
) -> tuple[GitClient, str]:
    """Return dulwich's client for `url` and the path to ask it for; `operation`: pull or push.

    The configuration's `insteadOf`, proxies, `core.sshCommand` and `protocol.*.allow` hold.
    """
    http = url.startswith(("http://", "https://"))
    manager = default_urllib3_manager(config, base_url=url, timeout=timeout) if http else None
    client, path = get_transport_and_path(
        url,
        config=config,
        operation=operation,
        report_activity=token.activity,
        pool_manager=manager,  # type: ignore[arg-type]
    )
    check_transport_allowed(client, config)
    if isinstance(client, TCPGitClient):
        return _TCPClient(client, token), path
    if isinstance(client, SSHGitClient):
        client.ssh_vendor = _SSHVendor(token)
    token.timed = not isinstance(client, LocalGitClient)
    return client, path


def shown(url: str) -> str:
    """Return a URL without the password in it, for messages."""
    try:
        parts = urlsplit(url)
        secret = parts.password
    except ValueError:
        return url
    if secret is None:
        return url
    user = parts.username or ""
    return urlunsplit(parts._replace(netloc=f"{user}:***@{parts.netloc.rpartition('@')[2]}"))
