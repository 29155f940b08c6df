"""How alike two files are: the share of the larger one's octets that both have, as Git counts.

A file is cut at line feeds, and at 64 octets where a line is longer; equal pieces count with their
size, wherever they stand.  A carriage return before a line feed does not count in a text.
"""

from __future__ import annotations

from collections import Counter

SCORE_MAX = 60_000
HALF = SCORE_MAX // 2
_PIECE = 64

Pieces = Counter[bytes]  # a piece's octets to the number of octets in all its copies


def pieces(data: bytes, *, binary: bool) -> Pieces:
    """Count the pieces of a file."""
    if not binary:
        data = data.replace(b"\r\n", b"\n")
    found: Pieces = Counter()
    for line in data.split(b"\n"):
        whole = line + b"\n"
        if len(whole) <= _PIECE:
            found[whole] += len(whole)
        else:
            for at in range(0, len(whole), _PIECE):
                found[whole[at : at + _PIECE]] += len(whole[at : at + _PIECE])
    last = data[data.rfind(b"\n") + 1 :]
    _undo_last(found, last)
    return found


def _undo_last(found: Pieces, last: bytes) -> None:
    """Take off the line feed that the split added behind the last line."""
    whole = last + b"\n"
    tail = whole[(len(whole) - 1) // _PIECE * _PIECE :]
    found[tail] -= len(tail)
    if tail[:-1]:
        found[tail[:-1]] += len(tail) - 1


def possible(old_size: int, new_size: int, least: int = HALF) -> bool:
    """Say whether files of these sizes can be so much alike at all."""
    larger, smaller = max(old_size, new_size), min(old_size, new_size)
    return larger * (SCORE_MAX - least) >= (larger - smaller) * SCORE_MAX


def score(old: Pieces, old_size: int, new: Pieces, new_size: int) -> int:
    """Return the likeness, 0 to `SCORE_MAX`."""
    if not new_size:
        return 0
    if len(new) < len(old):
        old, new = new, old
    get = new.get
    common = sum(min(n, get(piece, 0)) for piece, n in old.items())
    return common * SCORE_MAX // max(old_size, new_size)
