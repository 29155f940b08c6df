"""An idle connection is small, and drained buffers give their memory back."""

from __future__ import annotations

import tracemalloc

import pytest
from tcp_pair import connected
from tcp_trace import established

from vpnstack.proto.tcp.config import Config


def test_an_idle_established_connection_is_below_2_kb() -> None:
    config = Config()
    keep = [established(config).conn]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    keep += [established(config).conn for _ in range(200)]
    cost = (tracemalloc.get_traced_memory()[0] - before) / 200
    tracemalloc.stop()
    assert cost < 2000


def test_drained_buffers_are_released() -> None:
    pair = connected()
    assert pair.b is not None
    pair.a.to_send = bytes(3_000_000)
    pair.run(20)
    assert len(pair.b.got) == 3_000_000
    assert pair.a.conn.snd_buf.allocated == 0
    assert pair.a.conn.sb.records == []
    assert pair.b.conn.queue.views() == []
    assert pair.b.conn.assembler is None


def test_a_connection_that_was_busy_is_small_again() -> None:
    pair = connected()
    assert pair.b is not None
    tracemalloc.start()
    pair.a.to_send = bytes(3_000_000)
    pair.run(20)
    pair.a.sent.clear()
    pair.b.sent.clear()
    pair.b.got.clear()
    pair.a.to_send = b""
    where = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*proto/tcp/*")])
    held = sum(line.size for line in where.statistics("filename"))
    tracemalloc.stop()
    assert held < 2 * 4096


@pytest.mark.slow
def test_100_000_idle_connections_are_below_4_kib_each() -> None:
    config = Config()
    tracemalloc.start()
    keep = [established(config).conn for _ in range(100_000)]
    cost = tracemalloc.get_traced_memory()[0] / len(keep)
    tracemalloc.stop()
    assert cost < 4096
