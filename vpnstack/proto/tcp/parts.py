"""Parts of a connection's block that exist only while they are needed."""

from __future__ import annotations


class Undo:
    """What there is to go back to when a loss turns out to have been none (`undo`)."""

    __slots__ = ("cwnd", "marker", "resent", "ssthresh", "stamp", "unproven")

    def __init__(self, cwnd: int, ssthresh: int, marker: int) -> None:
        self.cwnd = cwnd
        self.ssthresh = ssthresh
        self.marker = marker  # SND.UNA when the loss was seen
        self.resent = 0  # bytes sent again since
        self.unproven = 0  # of these, what no DSACK has reported
        self.stamp = -1  # the timestamp of the first retransmission


class Drs:
    """Dynamic right-sizing of the receive buffer (`autotune`)."""

    __slots__ = ("consumed", "rtt", "space")

    def __init__(self, space: int) -> None:
        self.space = space  # the most that the user consumed in a round trip
        self.consumed = 0  # bytes consumed when this round trip began
        self.rtt = 0.0  # seconds, as the receiver sees it


class Search:
    """The search for the path's segment size (`pmtud`); sizes as in `snd_mss`."""

    __slots__ = ("at", "doubt", "end", "high", "low", "seq", "size", "told")

    def __init__(self, low: int, high: int, at: float) -> None:
        self.low = low  # known to arrive
        self.high = high  # the most that may
        self.at = at  # not before
        self.size = 0  # of the probe under way, 0 without one
        self.seq = self.end = 0
        self.told = 0  # what ICMP says and nothing has confirmed, 0 for no word
        self.doubt = 0  # an ACK of this refutes it
