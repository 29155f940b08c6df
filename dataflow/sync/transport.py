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
    TraditionalGitClient,
    check_transport_allowed,
    default_urllib3_manager,
    get_transport_and_path,
)
from dulwich.config import StackedConfig
from dulwich.errors import GitProtocolError
from dulwich.protocol import Protocol

from ..errors import PeerError


class TransferStoppedError(PeerError):
    """A transfer was cancelled or the other side fell silent."""


class Token:
    """The handle on one transfer: progress, activity, and its end."""

    def __init__(self, progress: Callable[[str], object] | None = None) -> None:
        self.octets = 0  # rises while something happens
        self.connecting = False  # dulwich leaks the connection if a call from there raises
        self.timed = True  # False: silence means nothing (a local repository)
        self._progress = progress
        self.reason: str | None = None  # why it was stopped
        self._finished = False
        self._stops: list[Callable[[], object]] = []
        self._finishes: list[Callable[[], object]] = []
        self._lock = threading.Lock()

    def stop(self, reason: str) -> None:
        """End the transfer, from any thread; the first reason counts."""
        with self._lock:
            if self.reason is None and not self._finished:
                self.reason = reason
            stops, self._stops = self._stops, []
            for stop in stops:  # under the lock: `finish` must not release them meanwhile
                stop()

    def on_stop(self, stop: Callable[[], object]) -> None:
        """Call `stop`, which must not wait, when the transfer is stopped; at once if it was."""
        with self._lock:
            if self.reason is None:
                self._stops.append(stop)
                return
        stop()

    def on_finish(self, close: Callable[[], object]) -> None:
        """Call `close` in the transfer's thread when it is over."""
        self._finishes.append(close)

    def finish(self) -> None:
        """Release everything; the transfer is over."""
        with self._lock:
            self._finished = True
            self._stops.clear()
        while self._finishes:
            with contextlib.suppress(OSError, GitProtocolError):
                self._finishes.pop()()

    def check(self) -> None:
        """Raise if the transfer was stopped."""
        if self.reason is not None:
            raise TransferStoppedError(self.reason)

    def activity(self, count: int, kind: str) -> None:
        """Take note of octets that moved (dulwich's `report_activity`)."""
        self.octets += count
        if not self.connecting:
            self.check()

    def progress(self, message: bytes) -> None:
        """Pass on a message of the other side or of dulwich."""
        self.octets += 1
        self.check()
        if self._progress is not None:
            text = message.decode("utf-8", "replace")
            self._progress("".join(c if c.isprintable() else " " for c in text).strip())


def _watched(client: TraditionalGitClient, token: Token) -> None:
    """Let `token` end the client's connection, and close it where dulwich forgets to."""
    connect = client._connect

    def watched(
        cmd: bytes, path: str | bytes, protocol_version: int | None = None
    ) -> tuple[Protocol, Callable[[], bool], IO[bytes] | None]:
        token.check()
        token.connecting = True
        made = connect(cmd, path, protocol_version)
        token.connecting = False
        token.on_finish(made[0].close)
        reader: Any = getattr(made[0].read, "__self__", None)
        if isinstance(client, TCPGitClient) and reader is not None:
            twin = socket.socket(fileno=os.dup(reader.fileno()))
            token.on_stop(lambda: _shut(twin))
            token.on_finish(twin.close)
        return made

    client._connect = watched  # type: ignore[method-assign]


def _shut(twin: socket.socket) -> None:
    with contextlib.suppress(OSError):
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
    if isinstance(client, SSHGitClient):
        client.ssh_vendor = _SSHVendor(token)
    if isinstance(client, TraditionalGitClient):
        _watched(client, token)
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
