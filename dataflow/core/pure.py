"""The pump in Python: what `p9.c` does, to compare it with and to read first."""

from __future__ import annotations

import os
import socket
import struct
import time

from .host import in_memory
from .outcome import SLOW, SLOW_TURNS, Counts, May, Open, Outcome

_HEADER = struct.Struct("<IBH")
_READ = struct.Struct("<IBHIQI")
_COUNTED = struct.Struct("<IBHI")
_ATTR = struct.Struct("<QBIQIIIQQQQQQQQQQQ32x")
_TGETATTR, _TVERSION, _TREAD, _TWRITE, _TCLUNK = 24, 100, 116, 118, 120
_IO_HEADER, _TGETATTR_SIZE, _TCLUNK_SIZE, _SMALL = 24, 19, 11, 4096
_BUDGET, _OCTETS_MAX, _CLUNKED_MAX, _RECEIVE = 64, 4 << 20, 64, 1 << 16


class PurePump:
    """The same verbs as `pump.Pump`, without its speed."""

    def __init__(self, msize: int, slow: float = SLOW) -> None:
        self._limit = msize
        self._slow_time = slow
        self._open: dict[int, Open] = {}
        self._in = bytearray()
        self._out = memoryview(b"")
        self._message = bytearray()
        self._size = self._slow = 0
        self._clunked: list[int] = []
        self._counts = Counts(0, 0, 0)
        self._closed = False

    def limit(self, msize: int) -> None:
        """Set the largest message."""
        self._limit = msize

    def learn(self, fid: int, what: Open) -> None:
        """Serve a fid until its next message that is no read, write or getattr."""
        self._open[fid] = what

    def message(self) -> tuple[bytearray, int]:
        """Return room for the whole message, and how much of it came."""
        n = len(self._message)
        return self._message + bytes(self._size - n), n

    def size(self) -> int:
        """Return the size that the latest message claims."""
        return self._size

    def counts(self) -> Counts:
        """Return counters."""
        return self._counts

    def clunked(self) -> list[int]:
        """Return the fids that the pump clunked in the latest `serve`."""
        numbers, self._clunked = self._clunked, []
        return numbers

    def close(self) -> None:
        """Release everything; then `serve` and `flush` say END."""
        self._closed = True

    def flush(self, sock: int) -> Outcome:
        """Send what waits."""
        if self._closed:
            return Outcome.END
        while self._out:
            try:
                self._out = self._out[_send(sock, self._out) :]
            except (BlockingIOError, InterruptedError):
                return Outcome.FULL
            except OSError:
                return Outcome.END
        return Outcome.IDLE

    def serve(self, sock: int, fast: bool, spin: int = 0) -> Outcome:
        """Read from a socket and answer; `spin` is for those who are fast."""
        if self._closed:
            return Outcome.END
        if self._out:
            return Outcome.FULL
        before, served = self._counts, 0
        while True:
            have = len(self._in)
            size = self._size = int.from_bytes(self._in[:4], "little") if have >= 4 else 0
            if have >= 4 and not _HEADER.size <= size <= self._limit:
                return Outcome.BAD
            if size and have >= size:
                if served == _BUDGET or self._moved(before) > _OCTETS_MAX:
                    return Outcome.MORE
                done = self._one(sock, size, fast)
                if done is not Outcome.IDLE:
                    return done
                served += 1
                continue
            if size > _SMALL and have >= _HEADER.size + 4 and not self._ours(fast):
                self._forget_by(self._in)
                self._message, self._in = self._in, bytearray()
                return Outcome.LARGE
            try:
                data = _receive(sock)
            except (BlockingIOError, InterruptedError):
                return Outcome.IDLE
            except OSError:
                return Outcome.END
            if not data:
                return Outcome.END
            self._in += data

    def _moved(self, before: Counts) -> int:
        return sum(self._counts[1:]) - sum(before[1:])

    def _ours(self, fast: bool) -> bool:
        fid = int.from_bytes(self._in[7:11], "little")
        return fast and self._in[4] == _TWRITE and not self._slow and self._may(fid, May.WRITE)

    def _may(self, fid: int, what: May) -> bool:
        return fid in self._open and bool(self._open[fid].may & what)

    def _one(self, sock: int, size: int, fast: bool) -> Outcome:
        m = self._in[:size]
        del self._in[:size]
        answer = self._answer(m) if fast else None
        if answer is None:
            if m[4] == _TWRITE and self._slow:
                self._slow -= 1
            if not _is_hot(m):
                self._forget_by(m)
            self._message = m
            return Outcome.MESSAGE
        c = self._counts
        self._counts = Counts(c.requests + 1, c.octets_in + size, c.octets_out + len(answer))
        self._out = memoryview(answer)
        return self.flush(sock)

    def _forget_by(self, m: bytearray) -> None:
        """A message may change what its fid stands for, and all begin with their fid."""
        if m[4] == _TVERSION:
            self._open.clear()
        elif len(m) >= _HEADER.size + 4:
            self._open.pop(int.from_bytes(m[7:11], "little"), None)

    def _answer(self, m: bytearray) -> bytes | None:
        """Return the answer, or None for what is Python's to do or to refuse."""
        kind, size = m[4], len(m)
        if kind == _TREAD and size == _READ.size:
            return self._read(*_READ.unpack(m)[2:])
        if kind == _TWRITE and size >= _READ.size:
            return self._write(m, *_READ.unpack_from(m)[2:])
        if kind == _TGETATTR and size == _TGETATTR_SIZE:
            return self._getattr(*struct.unpack_from("<HI", m, 5))
        if kind == _TCLUNK and size == _TCLUNK_SIZE:
            return self._clunk(*struct.unpack_from("<HI", m, 5))
        return None

    def _read(self, tag: int, fid: int, offset: int, count: int) -> bytes | None:
        if not self._may(fid, May.READ) or offset >= 1 << 63:
            return None
        fd = self._open[fid].io
        data = bytearray(min(count, self._limit - _IO_HEADER))
        try:
            n = os.preadv(fd, [data], offset, 0 if in_memory(fd) else os.RWF_NOWAIT)
            if n < len(data) and offset + n < os.fstat(fd).st_size:
                return None
        except OSError:
            return None
        return _COUNTED.pack(_COUNTED.size + n, _TREAD + 1, tag, n) + data[:n]

    def _write(self, m: bytearray, tag: int, fid: int, offset: int, count: int) -> bytes | None:
        fits = count == len(m) - _READ.size and offset < 1 << 63
        if not self._may(fid, May.WRITE) or self._slow or not fits:
            return None
        before = time.monotonic()
        try:
            n = os.pwrite(self._open[fid].io, memoryview(m)[_READ.size :], offset)
        except OSError:
            return None
        if time.monotonic() - before > self._slow_time:
            self._slow = SLOW_TURNS
        return _COUNTED.pack(_COUNTED.size, _TWRITE + 1, tag, n)

    def _getattr(self, tag: int, fid: int) -> bytes | None:
        if not self._may(fid, May.ATTR):
            return None
        what = self._open[fid]
        try:
            st = os.fstat(what.path)
        except OSError:
            return None
        version = (st.st_mtime_ns ^ st.st_size) & 0xFFFFFFFF
        owner = (st.st_mode, st.st_uid, st.st_gid, st.st_nlink, st.st_rdev)
        sizes = (st.st_size, st.st_blksize, st.st_blocks)
        all_ns = (st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns)
        times = [n for ns in all_ns for n in divmod(ns, 10**9)]
        body = _ATTR.pack(0x7FF, what.qid_type, version, what.qid_path, *owner, *sizes, *times)
        return _HEADER.pack(_HEADER.size + len(body), _TGETATTR + 1, tag) + body

    def _clunk(self, tag: int, fid: int) -> bytes | None:
        if not self._may(fid, May.CLUNK) or len(self._clunked) == _CLUNKED_MAX:
            return None
        del self._open[fid]
        self._clunked.append(fid)
        return _HEADER.pack(_HEADER.size, _TCLUNK + 1, tag)


def _is_hot(m: bytearray) -> bool:
    """Tell reads, writes and getattr, which change nothing of their fid."""
    whole = {_TREAD: _READ.size, _TGETATTR: _TGETATTR_SIZE}
    return len(m) >= _READ.size if m[4] == _TWRITE else whole.get(m[4]) == len(m)


def _send(fd: int, data: memoryview) -> int:
    with socket.socket(fileno=os.dup(fd)) as sock:
        return sock.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def _receive(fd: int) -> bytes:
    with socket.socket(fileno=os.dup(fd)) as sock:
        return sock.recv(_RECEIVE, socket.MSG_DONTWAIT)
