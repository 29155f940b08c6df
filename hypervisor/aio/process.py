"""A child process on the loop: it dies with us, its last words are kept, nothing of it is left.

The parent-death signal (prctl(2), PR_SET_PDEATHSIG) is set by setpriv(1), so no Python code runs
between fork and exec.  It fires when the thread that runs the loop ends, however it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence

from ..errors import UsageError

_LAST_WORDS = 4096


class Child:
    """A running program; `returncode` is a future, negative for a signal as in subprocess.

    `stdin` is borrowed; `death_signal` is what it gets when we die.
    """

    def __init__(
        self,
        command: Sequence[str],
        pass_fds: Sequence[int] = (),
        *,
        stdin: int = subprocess.DEVNULL,
        death_signal: str = "KILL",
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.returncode: asyncio.Future[int] = self._loop.create_future()
        self._words = bytearray()
        self._popen = self._spawn(command, pass_fds, stdin, death_signal)
        self.pid = self._popen.pid
        assert self._popen.stderr is not None
        self._stderr = self._popen.stderr
        os.set_blocking(self._stderr.fileno(), False)
        self._pidfd = os.pidfd_open(self.pid)
        self._loop.add_reader(self._stderr.fileno(), self._on_stderr)
        self._loop.add_reader(self._pidfd, self._on_exit)

    @staticmethod
    def _spawn(
        command: Sequence[str], pass_fds: Sequence[int], stdin: int, death_signal: str
    ) -> subprocess.Popen[bytes]:
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise UsageError("setpriv is not here: install util-linux")
        return subprocess.Popen(
            [setpriv, "--pdeathsig", death_signal, "--", *command],
            stdin=stdin,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=pass_fds,
            start_new_session=True,  # the terminal's Ctrl-C is ours to handle
        )

    @property
    def last_words(self) -> str:
        """The end of what it wrote to stderr, as one line."""
        lines = self._words.decode("utf-8", "replace").splitlines()
        return "; ".join(line.strip() for line in lines if line.strip())

    def kill(self) -> None:
        """Send SIGKILL; does nothing when it has ended already."""
        if not self.returncode.done():
            with contextlib.suppress(ProcessLookupError):
                self._popen.send_signal(signal.SIGKILL)

    def _on_stderr(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._stderr.fileno(), 65536)
            self._words += data
            del self._words[:-_LAST_WORDS]
            if not data:
                self._loop.remove_reader(self._stderr.fileno())

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._on_stderr()
        self._loop.remove_reader(self._stderr.fileno())
        self._stderr.close()
        self.returncode.set_result(self._popen.wait())
