"""The errors of the 9P library: an error answer, local misuse, and a peer that breaks protocol."""

from __future__ import annotations

import errno as _errno
from os import strerror


class NineError(Exception):
    """The root of what `dataflow.p9` and its asyncio front ends raise by design."""


class P9Error(NineError):
    """An operation failed; travels as Rlerror (`errno`) in .L and as Rerror (`text`) elsewhere.

    Trees raise it to refuse a request, clients raise it when the server refused one.  `errno` is
    a Linux error number, whatever the host is.
    """

    def __init__(self, errno: int, text: str | None = None) -> None:
        self.errno = errno
        self.text = strerror(errno) if text is None else text
        super().__init__(f"{self.text} ({_errno.errorcode.get(errno, str(errno))})")


class UsageError(NineError):
    """The caller asked for something that cannot be: a closed client, a wrong argument."""


class ProtocolError(NineError):
    """The peer sent what no 9P peer may send; the connection cannot go on."""
