"""What was sent and is not yet acknowledged: one record for each transmission, in sequence order.

A record is in the network (OUT), believed lost and not yet sent again (LOST), or known to have
arrived out of order (SACKED).  `pipe` estimates the bytes in the network (RFC 6675, 4): the sum
over OUT, less what duplicate ACKs say has left it when the peer has no SACK.  A record may
be a super-segment; it is split where a SACK block or a retransmission needs a border.
"""

from __future__ import annotations

from typing import TypeAlias

# What had been delivered when a record left (draft-cheng-iccrg-delivery-rate-estimation, 3.1.2):
# bytes, when, when the record left that was delivered then, and whether the user had no more.
Stamp: TypeAlias = tuple[int, float, float, bool]

OUT = 0
LOST = 1
SACKED = 2


class Sent:
    """Sequence space [seq, end) as it was last transmitted at `time`; `rtx`: more than once."""

    __slots__ = ("end", "first", "rtx", "seq", "stamp", "state", "time")

    def __init__(self, seq: int, end: int, time: float, stamp: Stamp) -> None:
        self.seq = seq
        self.end = end
        self.time = time
        self.stamp = stamp
        self.first = time
        self.rtx = False
        self.state = OUT


_NO_RECORDS: list[Sent] = []  # of all scoreboards that are empty: never changed
NO_STAMP: Stamp = (0, 0.0, 0.0, False)


class Scoreboard:
    """The records of one connection and the sums over them."""

    __slots__ = (
        "delivered",
        "dup_bytes",
        "fack",
        "idle_mark",
        "lost",
        "n_lost",
        "original_acked",
        "out",
        "records",
        "reordered",
        "reorderings",
        "resent_acked",
        "sacked",
        "sampled",
        "stamp",
    )  # fmt: skip

    def __init__(self) -> None:
        self.records = _NO_RECORDS
        self.out = 0  # bytes in state OUT
        self.lost = 0
        self.sacked = 0
        self.dup_bytes = 0  # without SACK: bytes that duplicate ACKs say have arrived
        self.fack = 0  # end of the highest record known to have arrived
        self.reordered = 0  # how far behind a record arrived that was sent once; 0: never
        self.reorderings = 0
        self.original_acked = False  # this ACK: what was believed lost had arrived (RFC 5682)
        self.resent_acked = False  # this ACK: something sent again was acknowledged
        self.n_lost = 0  # bytes ever believed lost
        self.delivered = 0  # bytes ever known to have arrived
        self.idle_mark = 0  # `delivered` when all that the user had was out and is delivered
        self.stamp = NO_STAMP
        self.sampled: Sent | None = None  # the newest record that the last ACK delivered

    @property
    def pipe(self) -> int:
        """Return the estimate of bytes in the network."""
        return self.out - min(self.dup_bytes, self.out)

    def sent(self, seq: int, end: int, now: float) -> None:
        """Record a first transmission."""
        if self.records:
            self.records.append(Sent(seq, end, now, self.stamp))
        else:
            self.stamp = (self.delivered, now, now, self.stamp[3])
            self.records = [Sent(seq, end, now, self.stamp)]
        self.out += end - seq

    def lend(self) -> None:
        """Forget the records: somebody else answers for what is in flight (`lease`)."""
        self.records = _NO_RECORDS
        self.out = self.dup_bytes = 0
        self.sampled = None

    def acknowledge(self, ack: int) -> tuple[int, Sent | None]:
        """Drop what lies before `ack`: bytes newly known to have arrived, and the newest record.

        The record is the last one wholly covered that was not SACKED before, for the RTT.
        """
        records = self.records
        done, fresh = 0, 0
        newest: Sent | None = None
        for record in records:
            if record.end > ack:
                break
            done += 1
            if record.state == SACKED:
                self.sacked -= record.end - record.seq
                continue
            n = record.end - record.seq
            fresh += n
            if record.state == OUT:
                self.out -= n
            else:
                self._found(record, n)
            if record.rtx:
                self.resent_acked = True
            elif record.end < self.fack:
                self.reordered = max(self.reordered, self.fack - record.seq)
                self.reorderings += 1
            if newest is None or record.time >= newest.time:
                newest = record
        if done:
            if newest is not None:
                self.sampled = newest
            if records[done - 1].end > self.fack:
                self.fack = records[done - 1].end
            if done == len(records):
                self.records = _NO_RECORDS
                return fresh, newest
            del records[:done]
        if records and records[0].seq < ack:
            fresh += self._cut(records[0], ack)
        return fresh, newest

    def _cut(self, head: Sent, ack: int) -> int:
        """Drop what lies before `ack` of a record; return its bytes newly known to have arrived."""
        n = ack - head.seq
        head.seq = ack
        if head.state != SACKED:
            return self._settle(head, n)
        self.sacked -= n
        return 0

    def opened(self) -> None:
        """Forget when the SYN left and arrived: it carried nothing, so it shows no rate."""
        self.sampled = None
        self.stamp = NO_STAMP

    def _settle(self, record: Sent, n: int) -> int:
        """Take `n` bytes of a record off the sum that they are part of."""
        if record.state == OUT:
            self.out -= n
        else:
            self._found(record, n)
        return n

    def _found(self, record: Sent, n: int) -> None:
        """Learn that `n` bytes believed lost were not, or arrived before they were sent again."""
        self.lost -= n
        if not record.rtx:
            self.original_acked = True

    def split(self, index: int, at: int) -> Sent:
        """Cut record `index` in two at `at`; return the first part, which keeps the index."""
        record = self.records[index]
        rest = Sent(at, record.end, record.time, record.stamp)
        rest.first, rest.rtx, rest.state = record.first, record.rtx, record.state
        record.end = at
        self.records.insert(index + 1, rest)
        return record

    def mark_lost(self, record: Sent) -> None:
        """Believe an OUT record lost: it leaves the pipe and waits for retransmission."""
        if record.state == OUT:
            record.state = LOST
            n = record.end - record.seq
            self.out -= n
            self.lost += n
            self.n_lost += n

    def mark_sacked(self, record: Sent) -> int:
        """Learn that a record has arrived; return its bytes, 0 if that was known."""
        if record.state == SACKED:
            return 0
        n = record.end - record.seq
        self._settle(record, n)
        if record.end > self.fack:
            self.fack = record.end
        elif record.end < self.fack and not record.rtx:
            self.reordered = max(self.reordered, self.fack - record.seq)
            self.reorderings += 1
        record.state = SACKED
        self.sacked += n
        return n

    def mark_all_lost(self) -> None:
        """Believe everything lost that the peer has not confirmed (the timer expired)."""
        for record in self.records:
            if record.state == OUT:
                record.state = LOST
        self.lost += self.out
        self.n_lost += self.out
        self.out = 0
        self.dup_bytes = 0

    def unmark_lost(self) -> None:
        """Believe again that what is marked lost and not sent again is under way."""
        for record in self.records:
            if record.state == LOST:
                record.state = OUT
        self.out += self.lost
        self.n_lost -= self.lost
        self.lost = 0

    def forget_sacks(self) -> None:
        """Distrust all SACK information: the peer may have reneged (RFC 2018, section 8)."""
        for record in self.records:
            if record.state == SACKED:
                record.state = OUT
        self.out += self.sacked
        self.sacked = 0

    def next_lost(self) -> int:
        """Return the index of the first LOST record, -1 when there is none."""
        if self.lost:
            for index, record in enumerate(self.records):
                if record.state == LOST:
                    return index
        return -1

    def resent(self, record: Sent, now: float) -> None:
        """Note that a LOST record is in the network again."""
        record.state = OUT
        record.rtx = True
        record.time = now
        record.stamp = self.stamp
        n = record.end - record.seq
        self.lost -= n
        self.out += n
