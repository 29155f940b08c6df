"""The path's MTU: what ICMP says (RFC 1191, 8201), and what silence says (RFC 4821, 8899).

A router's Packet Too Big is believed down to a floor; against sizes that arrived before, only when
the timer expires, too, as it may be forged (RFC 5927, 7.2).  Where none comes and full segments
vanish again and again, the path is a black hole for them: the segment size falls to one that always
passes.  From below, probes of new data search upwards for what the path takes now.  A probe that is
lost alone is no sign of congestion (RFC 4821, 7.5).  Sizes are those of `Block.snd_mss`;
super-segments follow, as `gso_size` is cut by it.
"""

from __future__ import annotations

from .block import Block, Phase
from .parts import Search

BASE = 1024  # RFC 4821, 7.2: nearly every path takes it
SILENCES = 3  # expirations of the timer for one full segment before its size is suspected
AGAIN = 600.0  # RFC 1191, 6.3: seconds before a larger size is tried again
PROVEN = 10  # segments acknowledged, for their size to be known to pass
NEAR = 8  # a search this close has ended


def floor(c: Block) -> int:
    """Return the smallest segment that any path must take (RFC 1191: 552, RFC 8200: 1280)."""
    return min(c.config.min_path_mss, c.snd_mss)


def on_too_big(c: Block, mss: int, now: float) -> bool:
    """Take a router's word; False where it would enlarge, change nothing, or has to wait."""
    mss = max(mss, floor(c))
    if mss >= c.snd_mss:
        return False
    if c.n_bytes_acked >= PROVEN * c.snd_mss and not c.retries:
        c.pmtu = c.pmtu or Search(c.snd_mss, c.snd_mss, now + AGAIN)
        c.pmtu.told, c.pmtu.doubt = mss, c.snd_nxt
        return False
    c.pmtu = Search(mss, c.snd_mss, now + AGAIN)
    _apply(c, mss)
    return True


def _apply(c: Block, mss: int) -> None:
    c.set_mss(mss)
    c.cc.on_mss(c.mss)


def on_silence(c: Block, now: float) -> None:
    """Hear that the timer expired again: suspect the size of what gets no answer."""
    failed(c)
    if c.pmtu is not None and c.pmtu.told:
        told = c.pmtu.told
        c.pmtu = Search(told, c.snd_mss, now + AGAIN)
        _apply(c, told)
        return
    records = c.sb.records
    if not c.config.plpmtud or c.retries < SILENCES or not records or c.mss <= 0:
        return
    full = records[0].end - records[0].seq >= c.mss
    size = max(min(BASE, c.snd_mss // 2), floor(c))
    if full and size < c.snd_mss:
        high = c.pmtu.high if c.pmtu is not None else c.snd_mss
        c.pmtu = Search(size, high, now)
        _apply(c, size)


def probe_size(c: Block, now: float, avail: int) -> int:
    """Return the payload of a probe to send now, 0 for none."""
    search = c.pmtu
    if search is None or search.size or now < search.at or c.phase is not Phase.OPEN:
        return 0
    if search.high - search.low < NEAR:
        _rest(c, search, now)
        return 0
    size = search.high if search.low == c.snd_mss and search.at else 0
    size = size or (search.low + search.high + 1) // 2
    n = size - (c.snd_mss - c.mss)
    room = min(avail - c.mss, c.snd_una + c.snd_wnd - c.snd_nxt, c.cc.cwnd - c.sb.pipe)
    if n > room:
        return 0
    search.size = size
    search.seq, search.end = c.snd_nxt, c.snd_nxt + n
    return n


def _rest(c: Block, search: Search, now: float) -> None:
    """End a search: all is well at the top, else another try much later."""
    top = c.config.send_mss or c.config.mss
    search.high = min(c.peer_mss, top)
    search.at = now + AGAIN
    if c.snd_mss >= search.high:
        c.pmtu = None


def on_ack(c: Block, search: Search, now: float) -> None:
    """Hear of an ACK: did the probe arrive, and what a router held to be too big?"""
    if search.told and c.snd_una >= search.doubt:
        search.told = 0
    if search.size and c.snd_una >= search.end:
        size, search.size = search.size, 0
        search.low = size
        search.at = now
        _apply(c, size)
        if search.high - size < NEAR:
            _rest(c, search, now)


def lost_alone(c: Block) -> bool:
    """Tell whether the probe is all that is lost; it has failed then."""
    search = c.pmtu
    if search is None or not search.size:
        return False
    index = c.sb.next_lost()
    if index < 0 or c.sb.records[index].seq != search.seq:
        return False
    alone = c.sb.lost == search.end - search.seq
    failed(c)
    return alone


def failed(c: Block) -> None:
    """Give the probe under way up: its size does not pass."""
    search = c.pmtu
    if search is not None and search.size:
        search.high = search.size - 1
        search.size = 0
        search.at = 0.0  # from now on halve what is left
