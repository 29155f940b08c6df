"""Clients and servers that put load on a network; run in a namespace, print JSON, import little.

    load.py serve PORT                       the server: echo, on PORT + 1 bulk, PORT + 2 dead
    load.py rtt HOST PORT SECONDS            one byte there and back over one connection
    load.py connect HOST PORT SECONDS        connect, one byte there and back, close
    load.py flows HOST PORT COUNT SECONDS up|down [bulk|tiny]
    load.py stuck HOST PORT COUNT up|down     fill connections that nobody reads any more, hold
    load.py half-open HOST PORT COUNT        send SYNs to the dead port, hold
    load.py idle HOST PORT COUNT             connect, print the rate, hold until standard input ends

A connection's first byte says what it wants: `e` echo, `d` data without end, anything else is
read and thrown away.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import select
import socket
import sys
import time

CHUNK = 1 << 18
BLOCK = memoryview(bytes(1 << 16))
SCRATCH = bytearray(CHUNK)


def emit(**facts: object) -> None:
    """Print the result."""
    print(json.dumps(facts), flush=True)


def raise_limit() -> None:
    """Allow as many descriptors as may be."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def client(host: str, port: int) -> socket.socket:
    """Connect, without Nagle's algorithm."""
    sock = socket.create_connection((host, port), timeout=10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.settimeout(None)
    return sock


# The server: a process for echoes on PORT, one for bulk on PORT + 1.


def serve(port: int) -> None:
    """Serve until killed."""
    raise_limit()
    echo, bulk = (socket.create_server(("", p), backlog=16384) for p in (port, port + 1))
    dead = socket.create_server(("", port + 2), backlog=0)  # its queue is full: SYNs are dropped
    fill = [socket.socket() for _ in range(2)]
    for sock in fill:
        sock.setblocking(False)
        sock.connect_ex(dead.getsockname())
    if os.fork():
        Echo(echo).run()
    else:
        Bulk(bulk).run()


class Echo:
    """Gives every byte back, in one thread, without more calls than it takes."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.listener.setblocking(False)
        self.epoll = select.epoll()
        self.epoll.register(listener, select.EPOLLIN)
        self.socks: dict[int, socket.socket] = {}

    def run(self) -> None:
        while True:
            for fd, _ in self.epoll.poll():
                sock = self.socks.get(fd)
                if sock is None:
                    self.accept()
                else:
                    self.answer(fd, sock)

    def accept(self) -> None:
        try:
            sock, _ = self.listener.accept()
        except OSError:
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socks[sock.fileno()] = sock
        self.epoll.register(sock.fileno(), select.EPOLLIN)

    def answer(self, fd: int, sock: socket.socket) -> None:
        try:
            data = sock.recv(4096, socket.MSG_DONTWAIT)
            if data:
                sock.send(data, socket.MSG_DONTWAIT)
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self.epoll.unregister(fd)
        del self.socks[fd]
        sock.close()


class Bulk(Echo):
    """Reads and throws away, or sends without end, as the first byte of a connection says."""

    def accept(self) -> None:
        try:
            while True:
                sock, _ = self.listener.accept()
                sock.setblocking(False)
                self.socks[sock.fileno()] = sock
                self.epoll.register(sock.fileno(), select.EPOLLIN)
        except OSError:
            return

    def answer(self, fd: int, sock: socket.socket) -> None:
        try:
            if sock in SENDING:
                sock.send(BLOCK)
                return
            n = sock.recv_into(SCRATCH)
            if n == 1 and SCRATCH[0] == 0x64:
                SENDING.add(sock)
                self.epoll.modify(fd, select.EPOLLOUT)
            elif n == 1 and SCRATCH[0] == 0x73:  # "s": stops reading for good
                self.epoll.modify(fd, 0)
            if n:
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        SENDING.discard(sock)
        self.epoll.unregister(fd)
        del self.socks[fd]
        sock.close()


SENDING: set[socket.socket] = set()


# Clients.


def rtt(host: str, port: int, seconds: float) -> None:
    """Print percentiles of a round trip in microseconds."""
    sock = client(host, port)
    clock = time.perf_counter_ns
    taken = []
    end = clock() + int(seconds * 1e9)
    before = clock()
    while before < end:
        sock.send(b"x")
        sock.recv(1)
        after = clock()
        taken.append(after - before)
        before = after
    taken = sorted(taken[len(taken) // 20 :])  # the first ones warm up
    n = len(taken)
    emit(p50=taken[n // 2] / 1e3, p99=taken[n * 99 // 100] / 1e3, count=n)


def connect(host: str, port: int, seconds: float) -> None:
    """Print how many connections a second were opened, used for one byte, and closed."""
    address = (host, port)
    count, failed = 0, 0
    began = time.perf_counter()
    end = began + seconds
    while time.perf_counter() < end:
        with socket.socket() as sock:
            sock.settimeout(2)
            try:
                sock.connect(address)
                sock.send(b"x")
                sock.recv(1)
                count += 1
            except OSError:
                failed += 1
    emit(rate=count / (time.perf_counter() - began), failed=failed)


def open_all(host: str, port: int, count: int) -> tuple[list[socket.socket], float]:
    """Open `count` connections, up to 128 at a time; return those that came about, and the rate."""
    raise_limit()
    poll = select.epoll()
    waiting: dict[int, socket.socket] = {}
    made: list[socket.socket] = []
    began = time.perf_counter()
    left = count
    while (left or waiting) and time.perf_counter() - began < 60:
        while left and len(waiting) < 128:
            left -= 1
            sock = socket.socket()
            sock.setblocking(False)
            code = sock.connect_ex((host, port))
            if code in (0, errno.EINPROGRESS):
                waiting[sock.fileno()] = sock
                poll.register(sock.fileno(), select.EPOLLOUT)
        for fd, _ in poll.poll(0.1):
            poll.unregister(fd)
            sock = waiting.pop(fd)
            if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                made.append(sock)
    return made, len(made) / (time.perf_counter() - began)


def idle(host: str, port: int, count: int) -> None:
    """Hold `count` connections open; their first byte was sent and answered by nothing."""
    made, rate = open_all(host, port, count)
    emit(opened=len(made), rate=rate)
    sys.stdin.read()


def flows(host: str, port: int, count: int, seconds: float, way: str, kind: str = "bulk") -> None:
    """Move data over `count` connections at once; print each one's octets."""
    made, rate = open_all(host, port + 1, count)
    poll = select.epoll()
    socks = {sock.fileno(): sock for sock in made}
    octets = dict.fromkeys(socks, 0)
    block = BLOCK[:1] if kind == "tiny" else BLOCK
    for fd, sock in socks.items():
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.send(b"d" if way == "down" else b"u")
        poll.register(fd, select.EPOLLIN if way == "down" else select.EPOLLOUT)
    warm, began = time.perf_counter() + seconds / 4, 0.0
    while (now := time.perf_counter()) < (began + seconds if began else warm + seconds):
        if not began and now >= warm:
            began = now
            octets = dict.fromkeys(socks, 0)
        for fd, _ in poll.poll(0.1):
            try:
                octets[fd] += (
                    socks[fd].recv_into(SCRATCH) if way == "down" else socks[fd].send(block)
                )
            except BlockingIOError:
                pass
            except OSError:
                poll.unregister(fd)
    emit(seconds=now - began, octets=list(octets.values()), rate=rate, opened=len(made))


def stuck(host: str, port: int, count: int, way: str) -> None:
    """Fill connections and never read: `up`, the server stops reading; `down`, we do."""
    made, _ = open_all(host, port + 1, count)
    for sock in made:
        sock.setblocking(True)
        if way == "down":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.send(b"d")
        else:
            sock.send(b"s")
    time.sleep(0.1)
    end = time.monotonic() + 1
    for sock in made if way == "up" else ():
        sock.setblocking(False)
    while way == "up" and time.monotonic() < end:
        for sock in made:
            try:
                sock.send(BLOCK)
            except OSError:
                time.sleep(0.001)
    emit(opened=len(made))
    sys.stdin.read()


def half_open(host: str, port: int, count: int) -> None:
    """Send `count` SYNs from as many ports, each to be forgotten at once; then wait."""
    raise_limit()
    held = []
    for _ in range(count):
        sock = socket.socket()
        sock.setblocking(False)
        try:
            sock.connect_ex((host, port + 2))
            held.append(sock)
        except OSError:
            break
    emit(opened=len(held))
    sys.stdin.read()


def number(text: str) -> object:
    """Return an argument as the number that it is, if any."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def main() -> None:
    """Dispatch by the first argument."""
    kinds = {
        "serve": serve, "rtt": rtt, "connect": connect, "flows": flows, "idle": idle,
        "half-open": half_open, "stuck": stuck,
    }  # fmt: skip
    kinds[sys.argv[1]](*map(number, sys.argv[2:]))  # type: ignore[operator]


if __name__ == "__main__":
    main()
