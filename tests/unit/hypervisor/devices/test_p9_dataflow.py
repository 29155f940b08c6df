"""A guest's driver and dataflow's 9P server, joined by the device without a socket."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import p9_driver as p9
import pytest
from mmio_driver import Bench
from p9_driver import Mount, message, mount, rlerror, string

from dataflow.aio.server import Server
from dataflow.p9.nodes import StaticDir, StreamFile
from dataflow.share import DirectoryServer
from hypervisor.devices.p9 import P9
from hypervisor.devices.registers import Register

TATTACH, TWALK, TLOPEN, TLCREATE, TWRITE, TCLUNK, TSYMLINK, TLINK, TRENAMEAT = (
    *(104, 110, 12, 14, 118, 120, 16, 70, 74),
)
NOFID = 0xFFFFFFFF
MSIZE = 1 << 16

MakeBench = Callable[..., Bench]


@pytest.fixture
def top(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("secret")
    top = tmp_path / "top"
    top.mkdir()
    (top / "out").symlink_to("../secret")
    (top / "away").symlink_to("..")
    return top


@pytest.fixture
def guest(bench: MakeBench, top: Path) -> Iterator[Mount]:
    server = DirectoryServer(str(top))
    guest = mount(bench(P9("src", server)))
    attach(guest)
    yield guest
    guest.bench.loop.run_until_complete(server.close())


def attach(guest: Mount) -> None:
    body = struct.pack("<II", 0, NOFID) + string("root") + string("/") + struct.pack("<I", 0)
    assert guest.call(message(TATTACH, 1, body))[4] == TATTACH + 1


def walk(guest: Mount, newfid: int, *names: str) -> bytes:
    body = struct.pack("<IIH", 0, newfid, len(names)) + b"".join(map(string, names))
    return guest.call(message(TWALK, 1, body))


def names_found(answer: bytes) -> int:
    """Return how many names a Twalk found, 0 where it is an error."""
    return int(struct.unpack_from("<H", answer, 7)[0]) if answer[4] == TWALK + 1 else 0


def test_a_file_both_ways(guest: Mount, top: Path) -> None:
    data = random.Random(1).randbytes(40_000)
    assert names_found(walk(guest, 1)) == 0
    body = struct.pack("<I", 1) + string("file") + struct.pack("<III", os.O_RDWR, 0o644, 0)
    assert guest.call(message(TLCREATE, 1, body))[4] == TLCREATE + 1
    body = struct.pack("<IQI", 1, 0, len(data)) + data
    answer = guest.call(message(TWRITE, 1, body))
    assert answer == message(TWRITE + 1, 1, struct.pack("<I", len(data)))
    assert (top / "file").read_bytes() == data
    read = message(p9.TREAD, 1, struct.pack("<IQI", 1, 100, 30_000))
    answer = guest.call(read, 11, *[4096] * 8)
    assert answer[11:] == data[100:30_100]
    assert guest.call(message(TCLUNK, 1, struct.pack("<I", 1)))[4] == TCLUNK + 1


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("..", "secret"), 1),  # ".." stays at the root
        (("..", "..", "secret"), 2),
        (("out", "..", ".."), 1),
        (("away", "secret"), 1),
        (("../secret",), 0),
        (("/etc",), 0),
    ],
)
def test_no_walk_leads_out(guest: Mount, names: tuple[str, ...], found: int) -> None:
    assert names_found(walk(guest, 1, *names)) == found


def test_a_link_is_not_opened(guest: Mount) -> None:
    assert names_found(walk(guest, 1, "out")) == 1
    answer = guest.call(message(TLOPEN, 1, struct.pack("<II", 1, os.O_RDONLY)))
    assert answer == rlerror(1, errno.ELOOP)


def test_names_that_lead_elsewhere_are_refused(guest: Mount, top: Path) -> None:
    (top / "f").write_text("f")
    walk(guest, 1, "f")
    for name in ("..", "../x", "/x", "a/b", ""):
        body = struct.pack("<I", 0) + string(name) + string("target") + struct.pack("<I", 0)
        assert guest.call(message(TSYMLINK, 1, body))[4] == p9.RLERROR
        link = struct.pack("<II", 0, 1) + string(name)
        assert guest.call(message(TLINK, 1, link))[4] == p9.RLERROR
        move = struct.pack("<I", 0) + string("f") + struct.pack("<I", 0) + string(name)
        assert guest.call(message(TRENAMEAT, 1, move))[4] == p9.RLERROR
    assert sorted(os.listdir(top)) == ["away", "f", "out"]
    assert sorted(os.listdir(top.parent)) == ["secret", "top"]


def test_many_in_flight_end_with_the_reset(bench: MakeBench) -> None:
    opened, closed = [], []

    class Waits:
        def __aiter__(self) -> Waits:
            return self

        async def __anext__(self) -> bytes:
            opened.append(self)
            await asyncio.Event().wait()
            raise AssertionError

        async def aclose(self) -> None:
            closed.append(self)

    stream = StreamFile(lambda ctx: Waits())
    guest = mount(bench(P9("data", Server(StaticDir({"live": stream})))))
    attach(guest)
    for fid in range(1, 6):
        assert names_found(walk(guest, fid, "live")) == 1
        body = struct.pack("<II", fid, os.O_RDONLY)
        assert guest.call(message(TLOPEN, 1, body))[4] == TLOPEN + 1
    for fid in range(1, 6):
        guest.post(message(p9.TREAD, fid, struct.pack("<IQI", fid, 0, 100)))
        guest.bench.turn()
    assert len(opened) == 5
    guest.post(message(p9.TFLUSH, 9, struct.pack("<H", 1)))
    for _ in range(5):
        guest.bench.turn()
    assert [answer for _, answer in guest.take()] == [b"", message(p9.RFLUSH, 9)]
    later = guest.bench.write(Register.STATUS, 0)
    assert later is not None
    guest.bench.loop.run_until_complete(later)
    assert len(closed) == 5


def test_a_server_that_closes(bench: MakeBench, top: Path) -> None:
    server = DirectoryServer(str(top))
    guest = mount(bench(P9("src", server)))
    attach(guest)
    assert server.statistics().connections == 1
    guest.bench.loop.run_until_complete(server.close())
    assert walk(guest, 1) == rlerror(1, errno.EIO)
    assert guest.device.statistics().lost == 1


def test_a_client_that_breaks_the_protocol(guest: Mount) -> None:
    answer = guest.call(message(TWRITE, 1, bytes(MSIZE)))
    assert answer == rlerror(1, errno.EIO)
    assert guest.device.statistics().lost == 1


def test_a_server_that_is_full(bench: MakeBench, top: Path) -> None:
    server = DirectoryServer(str(top))
    server._connections_max = 0
    guest = Mount.start(bench(P9("src", server)))
    assert guest.call(p9.tversion()) == rlerror(p9.NOTAG, errno.EIO)
    guest.bench.loop.run_until_complete(server.close())


def test_no_descriptor_waits_for_the_garbage_collector(bench: MakeBench, top: Path) -> None:
    (top / "sub").mkdir()
    (top / "sub" / "f").write_text("f")
    server = DirectoryServer(str(top))
    gc.disable()
    try:
        guest = mount(bench(P9("src", server)))
        attach(guest)
        for names in (("sub", "f"), ("sub", "no"), ("sub",), ("out", "no")):
            walk(guest, 1, *names)
            guest.call(message(TCLUNK, 1, struct.pack("<I", 1)))
        assert names_found(walk(guest, 2, "sub", "f")) == 2
        assert held(top)
        guest.bench.loop.run_until_complete(server.close())
        guest.bench.loop.run_until_complete(guest.bench.loop.shutdown_default_executor())
        assert held(top) == []
    finally:
        gc.enable()


def held(top: Path) -> list[str]:
    """Return what of `top` this process has open."""
    names = [os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    targets = [os.readlink(name) for name in names if os.path.lexists(name)]
    return [target for target in targets if target.startswith(str(top))]
