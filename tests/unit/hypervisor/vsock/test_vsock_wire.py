"""Headers of virtio-vsock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hypervisor.vsock import wire
from hypervisor.vsock.wire import Op, Repr

U16, U32, U64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))


@given(st.builds(Repr, U64, U64, U32, U32, U32, U16, U16, U32, U32, U32))
def test_parse_is_the_inverse_of_emit(packet: Repr) -> None:
    data = wire.emit(packet)
    assert len(data) == 44
    assert wire.parse(data) == packet
    assert wire.parse(memoryview(data + b"payload")) == packet


def test_fields_lie_where_the_specification_has_them() -> None:
    packet = Repr(3, 2, 0x01020304, 0x400, len=7, op=Op.RW, flags=2, buf_alloc=9, fwd_cnt=8)
    data = wire.emit(packet)
    assert data[0:16] == bytes([3, *bytes(7), 2, *bytes(7)])
    assert data[16:20] == bytes([4, 3, 2, 1])
    assert data[24:32] == bytes([7, 0, 0, 0, 1, 0, 5, 0])
    assert data[32:] == bytes([2, 0, 0, 0, 9, 0, 0, 0, 8, 0, 0, 0])


def test_a_header_reads_as_a_line() -> None:
    packet = Repr(3, 2, 1024, 80, len=5, op=Op.RW, buf_alloc=4096, fwd_cnt=1)
    assert str(packet) == "3:1024 > 2:80 RW flags 0x0 win 4096 fwd 1 len 5"
    assert "op 99" in str(Repr(3, 2, 1, 1, op=99))
