"""Fuzz target: the whole receive path of a stack, from frames to users, in virtual time.

The input is a script: frames near to what the stack has under way (whole, changed, in fragments),
calls of its users, and time.  `stackworld` says what must hold after every step, `stackframes`
makes the frames.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent)] * (str(Path(__file__).parent) not in sys.path)

import stackframes as frames  # noqa: E402
import stackworld  # noqa: E402
from stackframes import Source  # noqa: E402
from stackworld import World  # noqa: E402

from vpnstack.stack import tcp  # noqa: E402
from vpnstack.wire import ip  # noqa: E402

PLAIN, TRUSTED = bytes(12), b"\2" + bytes(11)
PENDING = 8
STEPS_MAX = 400


def put(world: World, octets: bytes, vnet: bytes = PLAIN) -> None:
    """Queue one frame."""
    world.pending.append((bytearray(octets), vnet))


def changed(world: World, octets: bytes, src: Source) -> None:
    """Queue a frame after changing it, with right checksums most of the time."""
    made: bytearray | None = frames.mutate(octets, src)
    assert made is not None
    right = src.byte()
    sealed = frames.sealed(made, src)
    if sealed is not None:
        if right < 16 and len(sealed) > 24:
            sealed[24] ^= 0xFF  # somewhere in the IP header
        put(world, sealed, TRUSTED if right < 64 else PLAIN)


def segment(world: World, src: Source) -> None:
    """A segment of a flow as it could be."""
    made = frames.segment(world, src)
    if made is not None:
        put(world, *made)


def opening(world: World, src: Source) -> None:
    """A SYN."""
    put(world, *frames.opening(world, src))


def bent(world: World, src: Source) -> None:
    """A segment with changed headers."""
    made = frames.segment(world, src) if src.byte() & 3 else frames.opening(world, src)
    if made is not None and len(made[0]) < 1600:
        changed(world, made[0], src)


def packet(world: World, src: Source) -> bytes:
    """Make any packet but TCP."""
    return src.choose((frames.datagram, frames.control))(world, src)  # type: ignore[no-any-return]


def whole(world: World, src: Source) -> None:
    """A datagram or an ICMP message as it should be."""
    put(world, frames.ethernet(packet(world, src)), TRUSTED)


def odd(world: World, src: Source) -> None:
    """A changed packet, with options or extension headers."""
    changed(world, frames.ethernet(frames.extended(packet(world, src), src)), src)


def fragments(world: World, src: Source) -> None:
    """A packet in fragments; a changed one only of what is not TCP."""
    made = frames.segment(world, src) if src.byte() & 1 else None
    body = frames.sealed(bytearray(made[0]), src) if made else None
    if body is not None and len(body) < 9000:
        world.ident += 1
        for piece in frames.pieces(bytes(body[14:]), src, world.ident):
            put(world, piece)
        return
    cut = frames.pieces(packet(world, src), src, src.byte() & 3)
    for i, piece in enumerate(cut):
        if i == 1 and src.byte() & 1:
            changed(world, piece, src)
        else:
            put(world, piece)


def neighbours(world: World, src: Source) -> None:
    """ARP or neighbour discovery, half of it changed."""
    made = frames.neighbour(world, src)
    if src.byte() & 1:
        changed(world, made, src)
    else:
        put(world, made)


def connect(world: World, src: Source) -> None:
    """A user opens a flow."""
    guest, _ = frames.ends(src)
    local = (stackworld.HOST4 if len(guest) == 4 else stackworld.HOST6, 5000 + src.byte() % 4)
    try:
        flow = world.stack.tcp.connect(local, (guest, 1000 + src.byte() % 6), world.now)
    except KeyError:
        return
    world.user.adopt(flow)
    world.opened += 1


def write(world: World, src: Source) -> None:
    """A user sends."""
    flow = frames.flow(world, src)
    if flow is not None:
        world.user.write(flow, src.choose(frames.SIZES))


def read(world: World, src: Source) -> None:
    """A user reads, or all of them begin or cease to."""
    flow = frames.flow(world, src)
    if flow is not None:
        world.user.read(flow, src.choose(frames.SIZES))
    if not src.byte() & 3:
        world.user.reading = not world.user.reading


def end(world: World, src: Source) -> None:
    """A user ends a flow in one of three ways."""
    flow = frames.flow(world, src)
    if flow is not None:
        getattr(flow.conn, src.choose(("shutdown", "shutdown", "close", "abort")))()
        flow.touch()


def decide(world: World, src: Source) -> None:
    """The acceptor changes its mind, or answers a SYN that it held."""
    held = world.user.held
    if held and src.byte() & 1:
        flow = held.popleft()
        if flow.conn.held and world.stack.tcp.flows.get(flow.key) is flow:
            getattr(flow, src.choose(("accept", "refuse", "drop")))()
    else:
        world.user.decision = src.choose(("accept", "hold", "refuse", "drop"))


def link(world: World, src: Source) -> None:
    """The link takes no more frames, or takes them again; a station goes."""
    if src.byte() & 1:
        world.is_blocked = not world.is_blocked
        if not world.is_blocked:
            world.stack.tcp.unblock()
    elif not src.byte() & 7:
        world.stack.tcp.lost(frozenset([frames.GUEST_MAC]))


def send(world: World, src: Source) -> None:
    """A user sends a datagram to anybody."""
    guest, _ = frames.ends(src)
    here = stackworld.HOST4 if len(guest) == 4 else stackworld.HOST6
    data = stackworld.stream(0, src.choose(frames.SMALL))
    world.stack.udp.send((here, 9), (guest, 2000), data, world.now)


def wait(world: World, src: Source) -> None:
    """A little time passes."""
    world.advance(src.byte() / 64)


def wait_long(world: World, src: Source) -> None:
    """Much time passes, or just enough for the next thing to happen."""
    due = world.stack.deadline()
    if due is not None and src.byte() & 1:
        world.advance(max(due - world.now, 0.0))
    else:
        world.advance(src.byte() / 2)


Step = Callable[[World, Source], Any]
STEPS: tuple[Step, ...] = (
    segment, segment, segment, segment, segment, segment, opening, bent, bent, whole, odd,
    fragments, neighbours, neighbours, connect, write, write, read, end, decide, link, send,
    wait, wait_long,
)  # fmt: skip


def play(data: bytes) -> World:
    """Play one script to its end; returns what it led to."""
    src = Source(data)
    first = src.byte()
    world = World(forwarding=bool(first & 1), mtu=(1500, 1500, 1280, 9000)[first >> 1 & 3])
    if first & 8:
        introduce(world)
    for _ in range(STEPS_MAX):
        if not src.left:
            break
        step = src.byte()
        STEPS[step % len(STEPS)](world, src)
        if step < 224 or len(world.pending) > PENDING:
            if world.pending:
                world.receive()
            world.settle()
    world.receive()
    world.settle()
    return world


def introduce(world: World) -> None:
    """Have the stack know the guests' link addresses, as most inputs need."""
    for addr in (*frames.GUESTS4[:2], *frames.GUESTS6[:2]):
        world.stack.interface.neighbours.receive_solicitation(addr, frames.GUEST_MAC, world.now)
    assert ip.is_link_local(world.stack.interface.link_local)


def TestOneInput(data: bytes) -> None:
    """Play one input with small tables."""
    kept = tcp.FLOWS_MAX, tcp.HELD_MAX
    tcp.FLOWS_MAX, tcp.HELD_MAX = stackworld.FLOWS_MAX, stackworld.HELD_MAX
    try:
        play(data)
    finally:
        tcp.FLOWS_MAX, tcp.HELD_MAX = kept


TestOneInput.__test__ = False  # type: ignore[attr-defined]

if __name__ == "__main__":
    import atheris

    atheris.Setup(sys.argv, TestOneInput)
    atheris.Fuzz()
