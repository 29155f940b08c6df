"""Host sockets behind one descriptor: edges, and those that are not meant for whom they reach."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from vpnstack.aio.poller import HUP, IN, OUT, Poller


class Watch:
    """A poller on the running loop, and what it called."""

    def __init__(self) -> None:
        self.turns = 0
        self.got: list[tuple[str, int]] = []
        self.poller = Poller(asyncio.get_running_loop(), self.settled)
        self.socks: list[socket.socket] = []

    def settled(self) -> None:
        self.turns += 1

    def note(self, name: str) -> Any:
        return lambda mask: self.got.append((name, mask))

    def pair(self) -> tuple[socket.socket, socket.socket]:
        a, b = socket.socketpair()
        a.setblocking(False)
        self.socks += [a, b]
        return a, b

    async def turn(self) -> list[tuple[str, int]]:
        """Let the loop look at its descriptors once; return what was called."""
        self.got = []
        for _ in range(3):
            await asyncio.sleep(0)
        return self.got


@pytest.fixture
async def w() -> Any:
    watch = Watch()
    yield watch
    watch.poller.close()
    for sock in watch.socks:
        sock.close()


async def test_an_edge_comes_once(w: Watch) -> None:
    a, b = w.pair()
    w.poller.watch(a.fileno(), w.note("a"))
    assert await w.turn() == []
    b.send(b"x")
    assert await w.turn() == [("a", IN)]
    assert await w.turn() == []  # though nobody read
    b.send(b"y")
    assert await w.turn() == [("a", IN)]


async def test_watching_anew_tells_again(w: Watch) -> None:
    a, b = w.pair()
    w.poller.watch(a.fileno(), w.note("a"))
    b.send(b"x")
    await w.turn()
    w.poller.watch(a.fileno(), w.note("again"), writing=True)
    assert await w.turn() == [("again", IN | OUT)]
    w.poller.watch(a.fileno(), w.note("again"))
    assert await w.turn() == [("again", IN)]


async def test_all_of_a_turn_settle_together(w: Watch) -> None:
    pairs = [w.pair() for _ in range(5)]
    for i, (a, b) in enumerate(pairs):
        w.poller.watch(a.fileno(), w.note(str(i)))
        b.send(b"x")
    turns = w.turns
    assert sorted(await w.turn()) == [(str(i), IN) for i in range(5)]
    assert w.turns == turns + 1


async def test_more_than_a_batch(w: Watch) -> None:
    for i in range(150):
        a, b = w.pair()
        w.poller.watch(a.fileno(), w.note(str(i)))
        b.send(b"x")
    got: set[str] = set()
    for _ in range(3):
        got |= {name for name, _ in await w.turn()}
    assert len(got) == 150


async def test_ends(w: Watch) -> None:
    a, b = w.pair()
    w.poller.watch(a.fileno(), w.note("a"))
    b.shutdown(socket.SHUT_WR)
    [(_, mask)] = await w.turn()
    assert mask & HUP
    assert mask & IN


async def test_forgotten_in_the_same_turn(w: Watch) -> None:
    """Of two that are ready, the first to be called closes the other."""
    pairs = [w.pair(), w.pair()]
    called = []

    def ready(me: int, mask: int) -> None:
        called.append(me)
        other = pairs[1 - me][0]
        w.poller.forget(other.fileno())
        other.close()

    for i, (a, b) in enumerate(pairs):
        w.poller.watch(a.fileno(), lambda mask, i=i: ready(i, mask))  # type: ignore[misc]
        b.send(b"x")
    await w.turn()
    assert len(called) == 1
    assert len(w.poller) == 1


async def test_a_number_used_again_in_the_same_turn(w: Watch) -> None:
    """What was polled was about the old socket: the new one under its number hears nothing."""
    pairs = [w.pair(), w.pair()]
    fresh = w.pair()

    def ready(me: int) -> None:
        other = pairs[1 - me][0]
        w.poller.forget(other.fileno())
        os.dup2(fresh[0].fileno(), other.fileno())
        w.poller.watch(other.fileno(), w.note("new"))

    for i, (a, b) in enumerate(pairs):
        w.poller.watch(a.fileno(), lambda mask, i=i: ready(i))  # type: ignore[misc]
        b.send(b"x")
    assert await w.turn() == []
    fresh[1].send(b"y")
    assert await w.turn() == [("new", IN)]


async def test_release(w: Watch) -> None:
    a, b = w.pair()
    w.poller.watch(a.fileno(), w.note("a"))
    w.poller.release(a.fileno())
    w.poller.release(a.fileno())
    b.send(b"x")
    assert await w.turn() == []
    w.poller.watch(a.fileno(), w.note("a"))
    assert await w.turn() == [("a", IN)]


async def test_a_callback_that_fails(w: Watch) -> None:
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    def fail(mask: int) -> None:
        raise ValueError("x")

    (a, b), (c, d) = w.pair(), w.pair()
    w.poller.watch(a.fileno(), fail)
    w.poller.watch(c.fileno(), w.note("c"))
    b.send(b"x")
    d.send(b"x")
    assert await w.turn() == [("c", IN)]
    assert [type(one["exception"]) for one in told] == [ValueError]
    asyncio.get_running_loop().set_exception_handler(None)


@pytest.fixture
def tcp() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    near.setblocking(False)
    yield near, far
    near.close()
    far.close()


async def test_urgent_data_says_read_on(w: Watch, tcp: tuple[socket.socket, socket.socket]) -> None:
    """A read stops at the mark, with more behind it of which no edge tells."""
    near, far = tcp
    far.sendall(b"abc")
    far.send(b"!", socket.MSG_OOB)
    far.sendall(b"def")
    w.poller.watch(near.fileno(), w.note("a"))
    [(_, mask)] = await w.turn()
    assert mask & HUP
    assert near.recv(100) == b"abc"
    assert near.recv(100) == b"def"


async def test_reset(w: Watch, tcp: tuple[socket.socket, socket.socket]) -> None:
    near, far = tcp
    w.poller.watch(near.fileno(), w.note("a"))
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    far.close()
    [(_, mask)] = await w.turn()
    assert mask & HUP
    with pytest.raises(ConnectionResetError):
        near.recv(1)


async def test_close_twice(w: Watch) -> None:
    a, _ = w.pair()
    w.poller.watch(a.fileno(), w.note("a"))
    w.poller.close()
    w.poller.close()
    assert len(w.poller) == 0
