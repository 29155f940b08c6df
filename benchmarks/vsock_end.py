"""The host's end of a vsock connection, a process of its own: moves octets and prints seconds.

    vsock_end.py send|receive OCTETS PORT (CID | PATH)

PATH is a socket as Firecracker's, where the port is asked for; a CID is the host kernel's to find.
It needs nothing but Python's library, so that it starts quickly.
"""

import os
import socket
import sys
import time

CHUNK = 256 << 10
PATIENCE = 60.0  # seconds until somebody listens in the guest


def connect(place: str, port: int) -> socket.socket:
    """Connect as soon as somebody listens in the guest."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return attempt(place, port)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def attempt(place: str, port: int) -> socket.socket:
    """Connect once."""
    if place.isdecimal():
        sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        sock.connect((int(place), port))
        return sock
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(place)
    sock.sendall(b"CONNECT %d\n" % port)
    answer = b""
    while not answer.endswith(b"\n"):
        data = sock.recv(1)
        if not data:
            raise ConnectionRefusedError(f"nobody listens at port {port}")
        answer += data
    return sock


def send(sock: socket.socket, size: int) -> int:
    """Send `size` octets and wait for the end that the guest makes when it has them all."""
    chunk = os.urandom(CHUNK)
    for _ in range(size // CHUNK):
        sock.sendall(chunk)
    sock.shutdown(socket.SHUT_WR)
    return size + len(sock.recv(1))


def receive(sock: socket.socket, size: int) -> int:
    """Receive to the end."""
    got = 0
    while data := sock.recv(CHUNK):
        got += len(data)
    return got


def main(way: str, size: int, port: int, place: str) -> None:
    """Move and print."""
    with connect(place, port) as sock:
        begin = time.monotonic()
        moved = send(sock, size) if way == "send" else receive(sock, size)
        took = time.monotonic() - begin
    if moved != size:
        sys.exit(f"{moved} octets were moved, expected {size}")
    print(took)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
