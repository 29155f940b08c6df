"""/dev/fuse and fusermount3, which mounts for any user and hands the descriptor over."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess

from ..errors import PeerError, UsageError

HELPER = "fusermount3"


def check_directory(path: str) -> str:
    """Return the absolute path of a directory that can be mounted on; `UsageError` says what to do.

    A mount whose program died answers ENOTCONN to everything.
    """
    where = os.path.abspath(path)
    try:
        names = os.listdir(where)
    except OSError as err:
        if err.errno == errno.ENOTCONN:
            bad = f"{path}: a mount whose program is gone is in the way: {HELPER} -u {where}"
            raise UsageError(bad) from err
        raise UsageError(f"{path}: expected a directory, found: {err.strerror}") from err
    if names:
        raise UsageError(f"{path}: expected an empty directory, found {len(names)} names in it")
    return where


class Device:
    """A mounted directory and the descriptor that the kernel's requests come from."""

    def __init__(self, where: str, options: list[str]) -> None:
        """Mount on a directory; fusermount3 stays beside us and unmounts it when we are gone."""
        helper = shutil.which(HELPER)
        if helper is None:
            raise UsageError(f"{HELPER} is not installed: it is in the package fuse3")
        if not os.path.exists("/dev/fuse"):
            raise UsageError(
                "/dev/fuse does not exist: expected a kernel with FUSE (modprobe fuse)"
            )
        self.where = where
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            self._helper = subprocess.Popen(
                [helper, "-o", ",".join(["auto_unmount", *options]), "--", where],
                env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        self.fd = self._receive()

    def _receive(self) -> int:
        descriptors = socket.recv_fds(self._ours, 1, 1)[1]
        assert self._helper.stderr is not None
        with self._helper.stderr as stderr:
            if descriptors:
                os.set_blocking(descriptors[0], False)
                return descriptors[0]
            said = stderr.read().decode(errors="replace").strip()
        self._ours.close()
        self._helper.wait()
        raise PeerError(f"mount: {said.splitlines()[-1] if said else 'refused'}")

    def detach(self) -> bool:
        """Unmount; if somebody uses it, detach it all the same and say so (False)."""
        words = [HELPER, "-u", "--", self.where]
        return subprocess.run(words, capture_output=True, check=False).returncode == 0

    def close(self) -> None:
        """Close the descriptor, upon which all that is under way fails; after `detach`."""
        self._ours.close()  # upon which the helper detaches what is still mounted
        os.close(self.fd)
        self._helper.wait()
