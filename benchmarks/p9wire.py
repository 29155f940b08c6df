"""A 9P2000.L client that costs as little as Python can: one blocking socket, packed requests.

It knows nothing of the kit that is measured, so that both servers meet the same client.
"""

from __future__ import annotations

import os
import socket
import struct

NOTAG, NOFID = 0xFFFF, 0xFFFFFFFF
HEADER = struct.Struct("<IBH")
TLOPEN, TLCREATE, TGETATTR = 12, 14, 24
TVERSION, TATTACH, TWALK, TREAD, TWRITE, TCLUNK = 100, 104, 110, 116, 118, 120
READ = struct.Struct("<IBHIQI")
WRITE = struct.Struct("<IBHIQI")
IO_HEADER = 24


def string(text: str) -> bytes:
    """Return a string as it travels."""
    raw = text.encode()
    return struct.pack("<H", len(raw)) + raw


class Wire:
    """One connection, attached to `aname` with fid 0."""

    def __init__(self, address: str | tuple[str, int], aname: str, msize: int) -> None:
        self.sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        self.sock.connect(address)
        if self.sock.family == socket.AF_INET:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._room = memoryview(bytearray(msize + 4096))
        body = self.call(TVERSION, struct.pack("<I", msize) + string("9P2000.L"), NOTAG)
        self.msize: int = struct.unpack_from("<I", body)[0]
        user = struct.pack("<I", os.getuid())
        self.call(TATTACH, struct.pack("<II", 0, NOFID) + string("") + string(aname) + user)

    def call(self, kind: int, body: bytes, tag: int = 0) -> memoryview:
        """Send one request and return the answer's body, valid until the next call."""
        self.sock.sendall(HEADER.pack(7 + len(body), kind, tag) + body)
        return self.answer(kind)

    def answer(self, kind: int) -> memoryview:
        """Receive one answer to a request of `kind`."""
        room, got = self._room, 0
        while got < 4 or got < int.from_bytes(room[:4], "little"):
            n = self.sock.recv_into(room[got:])
            if not n:
                raise ConnectionError("the server closed the connection")
            got += n
        if room[4] != kind + 1:
            raise OSError(int.from_bytes(room[7:11], "little"), f"refused request {kind}")
        return room[7:got]

    def walk(self, fid: int, name: str) -> None:
        """Make `fid` stand for `name` below the root."""
        self.call(TWALK, struct.pack("<IIH", 0, fid, 1) + string(name))

    def open(self, fid: int, name: str) -> None:
        """Walk and open for reading."""
        self.walk(fid, name)
        self.call(TLOPEN, struct.pack("<II", fid, os.O_RDONLY))

    def create(self, fid: int, name: str) -> None:
        """Make or empty a file and open it for writing."""
        self.call(TWALK, struct.pack("<IIH", 0, fid, 0))
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        self.call(
            TLCREATE, struct.pack("<I", fid) + string(name) + struct.pack("<III", flags, 0o644, 0)
        )

    def clunk(self, fid: int) -> None:
        """Forget a fid."""
        self.call(TCLUNK, struct.pack("<I", fid))

    def getattr(self, fid: int) -> None:
        """Ask for the basic attributes."""
        self.call(TGETATTR, struct.pack("<IQ", fid, 0x7FF))

    def read(self, fid: int, offset: int, count: int) -> int:
        """Read once; return how many bytes came."""
        self.sock.sendall(READ.pack(READ.size, TREAD, 0, fid, offset, count))
        return len(self.answer(TREAD)) - 4

    def write(self, fid: int, offset: int, data: memoryview) -> int:
        """Write once; return how many bytes were taken."""
        head = WRITE.pack(WRITE.size + len(data), TWRITE, 0, fid, offset, len(data))
        sent = self.sock.sendmsg([head, data])
        whole = len(head) + len(data)
        while sent < whole:
            sent += self.sock.send(data[sent - len(head) :])
        return int.from_bytes(self.answer(TWRITE), "little")

    def close(self) -> None:
        """Hang up."""
        self.sock.close()
