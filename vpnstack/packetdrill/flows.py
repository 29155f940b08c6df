"""How a script's numbers relate to those on the wire, flow by flow.

A script counts our sequence numbers from our SYN and writes our timestamps as it likes; the peer's
numbers are on the wire as written.  Seen from the stack, as everywhere: `local` is its port.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MASK = 0xFFFFFFFF


@dataclass(slots=True)
class FlowMap:
    """One pair of ports."""

    local: int
    remote: int
    isn: int = 0  # our initial sequence number on the wire
    ts_first: tuple[int, int] | None = None  # script's, wire's
    ts_wire: dict[int, int] = field(default_factory=dict)  # by the script's value

    def to_script(self, seq: int) -> int:
        """Return the script's number for one of ours on the wire."""
        return (seq - self.isn) & MASK

    def to_wire(self, seq: int) -> int:
        """Return the number on the wire for one of ours in the script."""
        return (seq + self.isn) & MASK

    def sent_timestamp(self, script: int, wire: int) -> None:
        """Learn which timestamp on the wire the script means."""
        if self.ts_first is None:
            self.ts_first = (script, wire)
        if len(self.ts_wire) < 4096:
            self.ts_wire[script] = wire

    def echo(self, script: int) -> int:
        """Return the wire's value of a timestamp of ours that the peer echoes."""
        if script in self.ts_wire:
            return self.ts_wire[script]
        if script == 0 or self.ts_first is None:
            return script
        return (script - self.ts_first[0] + self.ts_first[1]) & MASK

    def timestamp(self, wire: int) -> int:
        """Return the script's value of one of our timestamps, best guessed by the first."""
        for script, known in self.ts_wire.items():
            if known == wire:
                return script
        if self.ts_first is None:
            return wire
        return (wire - self.ts_first[1] + self.ts_first[0]) & MASK


class Flows:
    """The flows of one script; the last one used is meant where a packet names no ports."""

    def __init__(self, local: int, remote: int) -> None:
        self._default = (local, remote)
        self._flows: dict[tuple[int, int], FlowMap] = {}
        self.current: FlowMap | None = None

    def bound(self, local: int) -> None:
        """Learn that a socket now has port `local`: packets of no flow yet go there."""
        self._default = (local, self._default[1])

    def inbound(self, local: int | None, remote: int | None) -> FlowMap:
        """Return the flow of a packet from the peer, which may open it."""
        if local is None and remote is None and self.current is not None:
            return self.current
        near = local if local is not None else self._port(remote)
        return self._get(near, remote if remote is not None else self._default[1])

    def _port(self, remote: int | None) -> int:
        for flow in reversed(self._flows.values()):
            if flow.remote == remote:
                return flow.local
        return self._default[0]

    def outbound(self, local: int, remote: int) -> FlowMap:
        """Return the flow of a packet that the stack sent."""
        return self._get(local, remote)

    def _get(self, local: int, remote: int) -> FlowMap:
        key = (local, remote)
        flow = self._flows.get(key)
        if flow is None:
            flow = self._flows[key] = FlowMap(local, remote)
        self.current = flow
        return flow
