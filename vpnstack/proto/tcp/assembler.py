"""Out-of-order data (RFC 9293, 3.10.7.4, seventh): ranges above RCV.NXT, bounded in number.

Bytes are copied on arrival, since they stay.  What arrived first stays; later copies only fill the
gaps.  The order of change is kept for the SACK option, which wants the newest range first
(RFC 2018, section 4).
"""

from __future__ import annotations

from bisect import bisect_left

from .buffer import SMALL
from .segment import Buffer


class Range:
    """A run of bytes [start, end) received out of order."""

    __slots__ = ("changed", "end", "pieces", "start")

    def __init__(self, start: int, data: bytes, changed: int) -> None:
        self.start = start
        self.end = start + len(data)
        self.pieces = [data]
        self.changed = changed

    def extend(self, pieces: list[bytes], end: int) -> None:
        """Append pieces that begin at `end` of this range; small neighbours are joined."""
        if len(self.pieces[-1]) + len(pieces[0]) <= SMALL:
            self.pieces[-1] += pieces[0]
            pieces = pieces[1:]
        self.pieces += pieces
        self.end = end


class Assembler:
    """The ranges above RCV.NXT of one connection, sorted, never touching each other."""

    __slots__ = ("_clock", "max_gaps", "queued", "ranges", "starts")

    def __init__(self, max_gaps: int) -> None:
        self.max_gaps = max_gaps
        self.ranges: list[Range] = []
        self.starts: list[int] = []
        self.queued = 0
        self._clock = 0

    def add(self, start: int, data: Buffer) -> bool:
        """Keep `data` that begins at `start`; False when the number of gaps is at its limit."""
        if self.ranges and start >= self.ranges[-1].start:
            where = len(self.ranges)
        else:
            where = bisect_left(self.starts, start)
        if where and self.ranges[where - 1].end >= start:
            last = self.ranges[where - 1]
            data = data[last.end - start :]
            if not len(data):
                self._touch(last)
                return True
            start = last.end
        elif len(self.ranges) >= self.max_gaps:
            return False
        self._insert(where, start, data)
        return True

    def _touch(self, which: Range) -> None:
        self._clock += 1
        which.changed = self._clock

    def _insert(self, where: int, start: int, data: Buffer) -> None:
        """Put `data` before range `where`, joined with the neighbours that it reaches."""
        end = start + len(data)
        stop = where
        ranges = self.ranges
        while stop < len(ranges) and ranges[stop].end <= end:
            self.queued -= ranges[stop].end - ranges[stop].start
            stop += 1
        follower = None
        if stop < len(ranges) and ranges[stop].start <= end:
            follower = ranges[stop]
            data = data[: follower.start - start]
            end = follower.start
            stop += 1
        self.queued += end - start
        new = Range(start, bytes(data), 0)
        if follower is not None:
            if end > start:
                new.extend(follower.pieces, follower.end)
            else:
                new = follower
        self._replace(where, stop, new)

    def _replace(self, where: int, stop: int, new: Range) -> None:
        """Put `new` for the ranges [where, stop), appended to the one before if they touch."""
        if where and self.ranges[where - 1].end == new.start:
            before = self.ranges[where - 1]
            before.extend(new.pieces, new.end)
            where, new = where - 1, before
        self.ranges[where:stop] = [new]
        self.starts[where:stop] = [new.start]
        self._touch(new)

    def pop(self, rcv_nxt: int) -> list[bytes]:
        """Return the pieces that begin at `rcv_nxt` or before, cut to begin there."""
        out: list[bytes] = []
        while self.ranges and self.ranges[0].start <= rcv_nxt:
            first = self.ranges.pop(0)
            del self.starts[0]
            self.queued -= first.end - first.start
            skip = rcv_nxt - first.start
            for piece in first.pieces:
                if skip >= len(piece):
                    skip -= len(piece)
                    continue
                out.append(piece[skip:] if skip else piece)
                skip = 0
            rcv_nxt = max(rcv_nxt, first.end)
        return out

    def blocks(self, limit: int) -> list[tuple[int, int]]:
        """Return up to `limit` ranges, the most recently changed first."""
        if len(self.ranges) == 1:
            return [(self.ranges[0].start, self.ranges[0].end)]
        newest = sorted(self.ranges, key=lambda r: -r.changed)[:limit]
        return [(r.start, r.end) for r in newest]
