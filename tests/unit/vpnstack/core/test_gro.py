"""Coalescing of segments: by C and by the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vpnstack.core import puregro
from vpnstack.core.puresend import Frame, Tcp, emit_tcp, soften
from vpnstack.stack.headers import template

from .test_fuzz_core import load

target = load("fuzz_gro")
Left = list[tuple[int, bytes, int]]
SRC, DST = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])


def pure(frames: list[Frame]) -> Left:
    return [(r.parsed.seq, r.payload, r.flags) for r in puregro.coalesce(frames, target.MAC)]


def c(frames: list[Frame]) -> Left:
    return [made[1:4] for made in target.c_coalesce(frames)]


@pytest.fixture(params=[c, pure], ids=["c", "pure"])
def coalesce(request: pytest.FixtureRequest) -> Any:
    return request.param


Coalesce = Callable[[list[Frame]], Left]


def frame(seq: int, data: bytes, flags: int = 16, *, port: int = 80, **facts: Any) -> Frame:
    tmpl = template(target.MAC, target.PEER, (SRC, 4000, DST, port), 6)
    return soften(emit_tcp(tmpl, Tcp(seq=seq, flags=flags, **facts), data), 0)[0]


def test_in_order(coalesce: Coalesce) -> None:
    assert coalesce([frame(10, b"abc"), frame(13, b"def"), frame(16, b"g")]) == [
        (10, b"abcdefg", 16)
    ]


def test_sequence_wraps(coalesce: Coalesce) -> None:
    frames = [frame(0xFFFFFFFE, b"abc"), frame(1, b"def")]
    assert coalesce(frames) == [(0xFFFFFFFE, b"abcdef", 16)]


@pytest.mark.parametrize(
    "second",
    [
        frame(14, b"def"), frame(12, b"def"), frame(13, b"defg"), frame(13, b""),
        frame(13, b"def", 17), frame(13, b"def", 48), frame(13, b"def", ack=1),
        frame(13, b"def", wnd=1), frame(13, b"def", opts=b"\1\1\x08\x0a" + bytes(8)),
        frame(13, b"def", port=81),
    ],
    ids=[
        "gap", "overlap", "longer", "pure-ack", "fin", "urgent", "ack", "window", "options", "flow",
    ],
)  # fmt: skip
def test_does_not_follow(coalesce: Coalesce, second: Frame) -> None:
    assert len(coalesce([frame(10, b"abc"), second])) == 2


def test_push_is_kept(coalesce: Coalesce) -> None:
    frames = [frame(10, b"abc"), frame(13, b"def", 24), frame(16, b"ghi")]
    assert coalesce(frames) == [(10, b"abcdefghi", 24)]


def test_short_ends_a_run(coalesce: Coalesce) -> None:
    frames = [frame(10, b"abc"), frame(13, b"d"), frame(14, b"e")]
    assert coalesce(frames) == [(10, b"abcd", 16), (14, b"e", 16)]


def test_nothing_overtakes(coalesce: Coalesce) -> None:
    """What is behind a segment of the same flow stays behind it."""
    frames = [frame(10, b"abc"), frame(13, b"", ack=5), frame(13, b"def")]
    assert [seq for seq, _, _ in coalesce(frames)] == [10, 13, 13]


def test_flows_interleaved(coalesce: Coalesce) -> None:
    frames = [frame(10, b"abc"), frame(50, b"xyz", port=81), frame(13, b"def"),
              frame(53, b"uvw", port=81)]  # fmt: skip
    assert coalesce(frames) == [(10, b"abcdef", 16), (50, b"xyzuvw", 16)]


def test_for_another_station(coalesce: Coalesce) -> None:
    other = [Frame(f.vnet, b"\6" * 6 + f.octets[6:]) for f in (frame(1, b"a"), frame(2, b"b"))]
    assert len(coalesce(other)) == 2


def test_no_more_than_its_pieces(coalesce: Coalesce) -> None:
    assert [len(data) for _, data, _ in coalesce([frame(i, b"x") for i in range(30)])] == [20, 10]


def test_seeded_bursts_agree() -> None:
    assert target.run(400) > 2000
