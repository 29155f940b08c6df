"""The ECN codepoint of a flow's template (RFC 3168, 5)."""

from __future__ import annotations

import pytest

from vpnstack.stack import headers


@pytest.mark.parametrize("size", [4, 16])
def test_with_ect_changes_the_two_bits_alone(size: int) -> None:
    ends = (bytes(size), 1, bytes(range(size)), 2)
    plain = headers.template(b"\1" * 6, b"\2" * 6, ends, headers.TCP)
    marked = headers.with_ect(plain)
    assert [i for i in range(len(plain)) if plain[i] != marked[i]] == [15]
    tos = marked[15] if size == 4 else (marked[14] << 4 | marked[15] >> 4) & 0xFF
    assert tos == 2
