"""Reference of `gro.c` in Python: which frames of a burst become one, and what it says then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .pure import DATA_VALID, GSO_ECN, GSO_TCPV4, GSO_TCPV6, Parsed, Verdict, parse
from .puresend import VNET, Frame

ACK, PSH, TIMESTAMP = 16, 8, 8
OPEN_MAX = 8
PAYLOAD_MAX = 65475
PIECES_MAX = 20


@dataclass(frozen=True, slots=True)
class Run:
    """A frame after coalescing: parsed fields, its payload, what its segments measure."""

    index: int  # of its first frame
    parsed: Parsed
    octets: bytes
    payload: bytes
    flags: int
    size: int
    pieces: int
    vnet: bytes

    @property
    def key(self) -> tuple[object, ...]:
        """What all frames of a run share beside their sequence."""
        p = self.parsed
        return (
            p.src, p.dst, p.sport, p.dport, p.proto, p.ack, p.wnd, p.tos, p.vlan, p.ttl, p.opts,
            p.tsval, p.tsecr, p.data, self.octets[6:12],
        )  # fmt: skip

    @property
    def flow(self) -> tuple[object, ...]:
        """Name the flow."""
        p = self.parsed
        return (p.src, p.dst, p.sport, p.dport, p.proto)

    @property
    def goes_on(self) -> bool:
        """Tell whether something may follow: not behind a short last segment."""
        return len(self.payload) % self.size == 0


def run_of(index: int, frame: Frame, p: Parsed) -> Run:
    """Take a frame as a run of its own."""
    _, kind, _, gso_size, *_ = VNET.unpack(frame.vnet)
    payload = frame.octets[p.data : p.data + p.data_len]
    size = gso_size if kind else p.data_len
    return Run(index, p, frame.octets, payload, p.tcp_flags, size, 1, frame.vnet)


def plain(run: Run, mac: bytes) -> bool:
    """Tell whether a data segment says nothing special, in a frame without padding."""
    p = run.parsed
    return (
        p.verdict == Verdict.OK and p.proto == 6 and p.ip_version != 0 and p.l4 != 0
        and p.data_len > 0 and p.tcp_flags & ~PSH == ACK and not p.opts & ~TIMESTAMP
        and len(run.octets) == p.data + p.data_len and not run.vnet[1] & GSO_ECN
        and p.l4 - p.l3 == (20 if p.ip_version == 4 else 40)
        and p.data - p.l4 == (32 if p.opts else 20) and run.octets[:6] == mac
    )  # fmt: skip


def merged(head: Run, run: Run) -> Run | None:
    """Return `head` with `run` behind it, None where that does not follow."""
    n = len(head.payload)
    if head.key != run.key or run.parsed.seq != (head.parsed.seq + n) & 0xFFFFFFFF:
        return None
    if run.size > head.size or (run.size < head.size and len(run.payload) > run.size):
        return None
    if n + len(run.payload) > PAYLOAD_MAX or head.pieces == PIECES_MAX:
        return None
    kind = GSO_TCPV4 if head.parsed.ip_version == 4 else GSO_TCPV6
    _, _, hdr_len, _, *rest = VNET.unpack(head.vnet)
    return replace(
        head,
        payload=head.payload + run.payload,
        flags=head.flags | run.flags,
        pieces=head.pieces + 1,
        vnet=VNET.pack(DATA_VALID, kind, hdr_len, head.size, *rest),
    )


def coalesce(frames: Sequence[Frame], mac: bytes) -> list[Run]:
    """Return what is left of a burst, each run in the place of its first frame."""
    runs: list[Run | None] = []
    open_runs: list[int] = []  # places in `runs`
    replaced = 0
    for index, frame in enumerate(frames):
        run = run_of(index, frame, parse(frame.vnet, frame.octets))
        runs.append(run)
        if run.parsed.proto != 6 or not run.parsed.ip_version:
            continue
        k = next((k for k, at in enumerate(open_runs) if _at(runs, at).flow == run.flow), None)
        fits = plain(run, mac)
        longer = merged(_at(runs, open_runs[k]), run) if k is not None and fits else None
        if k is not None and longer is not None:
            runs[open_runs[k]], runs[index] = longer, None
            if not longer.goes_on:
                open_runs[k] = open_runs[-1]
                open_runs.pop()
        elif fits and run.goes_on:
            if k is not None:
                open_runs[k] = index
            elif len(open_runs) < OPEN_MAX:
                open_runs.append(index)
            else:
                open_runs[replaced % OPEN_MAX] = index
                replaced += 1
        elif k is not None:
            open_runs[k] = open_runs[-1]
            open_runs.pop()
    return [run for run in runs if run is not None]


def _at(runs: list[Run | None], index: int) -> Run:
    run = runs[index]
    assert run is not None
    return run
