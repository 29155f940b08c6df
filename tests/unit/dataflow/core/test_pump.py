"""The pump in C and its twin in Python: one connection's reads, writes and getattr."""

import importlib.util
import os
import random
import socket
import struct
from pathlib import Path

import pytest
from dataflow.core._core import lib

from dataflow.core import outcome
from dataflow.core.outcome import May, Open, Outcome
from dataflow.core.pump import Pump
from dataflow.core.pure import PurePump

MSIZE = 1 << 16
CONTENT = bytes(range(256)) * 1000


class World:
    def __init__(self, make, path):
        self.pump = make(MSIZE, 1e6)
        self.server, self.client = socket.socketpair()
        self.client.settimeout(5)
        self.path = path
        path.write_bytes(CONTENT)
        self.fd = os.open(path, os.O_RDWR)
        self.pump.learn(5, Open(May.READ | May.WRITE | May.ATTR, self.fd, self.fd, 0, 77))

    def serve(self, *messages, fast=True):
        self.client.sendall(b"".join(messages))
        return self.pump.serve(self.server.fileno(), fast)


def request(kind, body, tag=3):
    return struct.pack("<IBH", 7 + len(body), kind, tag) + body


def read(fid, offset, count):
    return request(116, struct.pack("<IQI", fid, offset, count))


def write(fid, offset, data):
    return request(118, struct.pack("<IQI", fid, offset, len(data)) + data)


@pytest.fixture(params=[Pump, PurePump])
def world(request, tmp_path):
    made = World(request.param, tmp_path / "f")
    yield made
    made.pump.close()
    assert made.pump.serve(made.server.fileno(), True) is Outcome.END
    made.server.close()
    made.client.close()
    os.close(made.fd)


def test_the_numbers_are_those_of_the_header():
    for name in Outcome.__members__:
        assert getattr(lib, f"PUMP_{name}") == Outcome[name]
    for name in May.__members__:
        assert getattr(lib, f"PUMP_{name}") == May[name]
    assert len(outcome.Open._fields) == 5


def test_read(world):
    assert world.serve(read(5, 10, 20)) is Outcome.IDLE
    assert world.client.recv(100) == struct.pack("<IBHI", 31, 117, 3, 20) + CONTENT[10:30]
    assert world.pump.counts() == (1, 23, 31)


def test_read_at_the_end_is_short_and_then_empty(world):
    assert world.serve(read(5, len(CONTENT) - 3, 20), read(5, 1 << 40, 9)) is Outcome.IDLE
    assert world.client.recv(100) == (
        struct.pack("<IBHI", 14, 117, 3, 3) + CONTENT[-3:] + struct.pack("<IBHI", 11, 117, 3, 0)
    )


def test_read_is_no_longer_than_msize_allows(world):
    assert world.serve(read(5, 0, 0xFFFFFFFF)) is Outcome.IDLE
    assert struct.unpack("<I", world.client.recv(4))[0] == 11 + MSIZE - 24


def test_write(world):
    assert world.serve(write(5, 2, b"hello")) is Outcome.IDLE
    assert world.client.recv(100) == struct.pack("<IBHI", 11, 119, 3, 5)
    assert world.path.read_bytes()[:8] == CONTENT[:2] + b"hello" + CONTENT[7:8]


@pytest.mark.parametrize("make", [Pump, PurePump])
def test_after_a_slow_write_some_go_to_python(make, tmp_path):
    made = World(make, tmp_path / "f")
    made.pump = make(MSIZE, -1.0 if make is PurePump else 0)
    made.pump.learn(5, Open(May.WRITE, made.fd, -1, 0, 0))
    assert made.serve(write(5, 0, b"a")) is Outcome.IDLE
    for _ in range(256):
        assert made.serve(write(5, 0, b"b")) is Outcome.MESSAGE
    assert made.serve(write(5, 0, b"c")) is Outcome.IDLE
    made.client.close()
    made.server.close()
    os.close(made.fd)


def test_write_in_pieces(world):
    message = write(5, 0, b"x" * 50000)
    for start in range(0, len(message), 9973):
        assert world.serve(message[start : start + 9973]) is Outcome.IDLE
    assert world.client.recv(100) == struct.pack("<IBHI", 11, 119, 3, 50000)
    assert world.path.read_bytes() == b"x" * 50000 + CONTENT[50000:]


def test_getattr_tells_what_stat_does(world):
    assert world.serve(request(24, struct.pack("<IQ", 5, 0x7FF))) is Outcome.IDLE
    answer, st = world.client.recv(300), os.fstat(world.fd)
    assert struct.unpack_from("<IBHQ", answer) == (160, 25, 3, 0x7FF)
    version = (st.st_mtime_ns ^ st.st_size) & 0xFFFFFFFF
    assert struct.unpack_from("<BIQ", answer, 15) == (0, version, 77)
    assert struct.unpack_from("<III", answer, 28) == (st.st_mode, st.st_uid, st.st_gid)
    assert struct.unpack_from("<Q", answer, 56)[0] == st.st_size


@pytest.mark.parametrize(
    "message",
    [
        read(6, 0, 10),
        write(6, 0, b"x"),
        read(5, 1 << 63, 10),
        write(5, 1 << 63, b"x"),
        request(118, struct.pack("<IQI", 5, 0, 99) + b"short"),
        request(116, struct.pack("<IQ", 5, 0)),
        request(120, struct.pack("<I", 5)),
        request(255, b""),
    ],
)
def test_what_the_pump_does_not_do_is_handed_over(world, message):
    assert world.serve(message) is Outcome.MESSAGE
    assert world.pump.message() == (bytearray(message), len(message))
    assert world.pump.serve(world.server.fileno(), True) is Outcome.IDLE


def test_nothing_is_answered_while_python_is_busy(world):
    assert world.serve(read(5, 0, 1), fast=False) is Outcome.MESSAGE
    assert world.serve(read(5, 0, 1)) is Outcome.IDLE


@pytest.mark.parametrize("message", [request(120, struct.pack("<I", 5)), request(100, bytes(6))])
def test_a_message_that_may_change_the_fid_makes_it_unknown(world, message):
    assert world.serve(message, read(5, 0, 1)) is Outcome.MESSAGE
    assert world.pump.serve(world.server.fileno(), True) is Outcome.MESSAGE
    assert world.pump.message()[0][4] == 116


def test_a_large_message_for_python_is_received_by_python(world):
    message = write(9, 0, b"y" * 40000)
    assert world.serve(message[:5000]) is Outcome.LARGE
    room, have = world.pump.message()
    assert (len(room), room[:have]) == (len(message), message[:have])
    assert have <= 5000


@pytest.mark.parametrize("size", [0, 6, MSIZE + 1, 0xFFFFFFFF])
def test_a_size_that_none_can_have(world, size):
    assert world.serve(struct.pack("<IBH", size, 116, 0)) is Outcome.BAD
    assert world.pump.size() == size


def test_answers_wait_for_a_client_that_does_not_read(world):
    world.server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    outcome, asked = Outcome.IDLE, 0
    while outcome is not Outcome.FULL:
        outcome = world.serve(read(5, 0, 60000))
        asked += 1
        assert asked < 100
    assert world.serve(read(5, 0, 1)) is Outcome.FULL, "and nothing more is done"
    assert world.pump.flush(world.server.fileno()) is Outcome.FULL
    world.client.setblocking(False)
    got = 0
    while got < asked * 60011 + 12:
        try:
            got += len(world.client.recv(1 << 20))
        except BlockingIOError:
            if world.pump.flush(world.server.fileno()) is Outcome.IDLE:
                assert world.pump.serve(world.server.fileno(), True) in {Outcome.IDLE, Outcome.FULL}
    assert got == asked * 60011 + 12


def test_clunks_of_what_holds_nothing_are_told_later(world):
    world.pump.learn(6, Open(May.CLUNK, -1, -1, 0, 0))
    assert world.serve(request(120, struct.pack("<I", 6))) is Outcome.IDLE
    assert world.pump.clunked() == [6]
    assert world.pump.clunked() == []
    assert world.client.recv(100) == struct.pack("<IBH", 7, 121, 3)
    assert world.serve(request(120, struct.pack("<I", 6))) is Outcome.MESSAGE


def test_many_fids_are_known_at_once(world):
    for fid in range(3000):
        world.pump.learn(fid, Open(May.READ, world.fd, -1, 0, 0))
    for fid in range(0, 3000, 100):
        assert world.serve(read(fid, fid, 1)) is Outcome.IDLE
        assert world.client.recv(100)[11:] == CONTENT[fid : fid + 1]


def test_the_end(world):
    world.client.close()
    assert world.pump.serve(world.server.fileno(), True) is Outcome.END


def test_both_do_the_same():
    for parent in Path(__file__).resolve().parents:
        if (path := parent / "fuzz/fuzz_p9_pump.py").exists():
            break
    spec = importlib.util.spec_from_file_location("fuzz_p9_pump", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for seed in range(300):
        module.run(random.Random(seed))
