"""Runs a script against the stack in virtual time.

Theory of operation.  Before each event the clock goes on to its time, stopping at every deadline of
the stack.  A packet that the stack sends waits in the lab with the time at which it left until an
event expects it: the next one expected must be the next one sent, at its time give or take the
tolerance.  What was sent and nobody expected by the time of a later event fails the script.  Calls
that block are tried again whenever something may have happened.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from ..errors import VpnstackError
from . import assertions, text
from .build import Builder
from .calls import Calls, Operation
from .decode import Sent
from .errors import Mismatch, ScriptError
from .flows import FlowMap, Flows
from .info import names
from .lab import Lab
from .match import differences, translate
from .parser import parse
from .report import Failure, Outcome
from .script import ANY, Call, Code, Event, Expect, Icmp, Inject, IpInfo, Packet, Script, Time
from .settings import settings
from .sockets import Fault, WouldBlock
from .values import number

REMOTE_PORT = 40000  # of a peer that connects, unless the script says
ANY_TIME = 3600.0  # how long `*` waits
TRACE_MAX = 100_000
RECENT = 10
EPSILON = 1e-7  # what sums of decimal fractions may be off
NEVER = float("inf")


@dataclass(slots=True)
class Pending:
    """A call that blocks."""

    event: Event
    call: Call
    operation: Operation
    until: float
    expires: float = NEVER  # when its own timeout ends it with 0


def run(source: str, name: str = "script", overrides: dict[str, str] | None = None) -> Outcome:
    """Run the script `source`; `overrides` are options that win over its own."""
    try:
        script = parse(source, overrides)
        runner = Runner(script)
    except ScriptError as e:
        return Outcome(name, False, broken=True, failure=Failure(e.line, "", 0.0, str(e)))
    notes = tuple(f"not run: `{shell.text}`" for shell in script.ignored)
    failure, broken = runner.run()
    return Outcome(
        name, failure is None, runner.done, runner.lab.now, broken, failure,
        (*notes, *runner.printed), tuple(runner.trace),
    )  # fmt: skip


class Runner:
    """One run of one script."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.settings = settings(script.options)
        self.lab = Lab(self.settings)
        self.flows = Flows(self.settings.bind_port, REMOTE_PORT)
        self.calls = Calls(self.lab, self.flows)
        self.builder = Builder(self.settings.local, self.settings.remote)
        self.trace: deque[str] = deque(maxlen=TRACE_MAX)
        self.printed: list[str] = []
        self.done = 0
        self._pending: list[Pending] = []
        self._base = 0.0
        for event in script.events:
            if isinstance(event.action, Code):
                assertions.check(event.action.text)

    def run(self) -> tuple[Failure | None, bool]:
        """Run all events; return what failed, and whether it is the script that is wrong."""
        event: Event | None = None
        try:
            for i, event in enumerate(self.script.events):
                self._event(event, self._elastic(i))
                self.done += 1
            self._finish()
        except VpnstackError as e:
            return self._failure(e, event), not isinstance(e, Mismatch)
        except Exception as e:  # a fault of the stack's must not hide what other scripts find
            raised = Mismatch(f"the stack raised {type(e).__name__}: {e}")
            return self._failure(raised, event), False
        return None, False

    def _elastic(self, i: int) -> bool:
        """Tell whether a later event may expect a packet that was sent some time ago."""
        return any(
            isinstance(e.action, Expect) and (e.time.start is None or e.time.end is not None)
            for e in self.script.events[i + 1 :]
        )

    def _failure(self, e: VpnstackError, event: Event | None) -> Failure:
        line, shown = (event.line, event.text) if event else (0, "")
        blamed = getattr(e, "event", None)
        if blamed is not None:
            line, shown = blamed.line, blamed.text
        for sent in self.lab.sent:
            self._show(">", sent.at, translate(sent, self._flow(sent)), " (not expected yet)")
        recent = tuple(self.trace)[-RECENT:]
        if not isinstance(e, Mismatch):
            return Failure(line, shown, self.lab.now, str(e), recent=recent)
        return Failure(
            line, shown, self.lab.now, e.message, e.expected, e.found, e.reasons, recent
        )  # fmt: skip

    # Time.

    def _when(self, time: Time) -> tuple[float, float]:
        """Return the interval of an event's time."""
        base = self._base if time.relative else 0.0
        if time.start is None:
            return self.lab.now, self.lab.now + ANY_TIME
        start = base + time.start
        return start, base + time.end if time.end is not None else start

    def _advance(self, until: float, for_packet: bool = False) -> None:
        """Go on to `until`, or only until there is a packet."""
        lab = self.lab
        while not (for_packet and lab.sent):
            limit = max(min([until, *(p.expires for p in self._pending)]), lab.now)
            due = lab.step(limit)
            self._retry()
            if not due and lab.now >= until:
                break
        for pending in self._pending:
            if pending.until + self.settings.tolerance + EPSILON < lab.now:
                blocked = Mismatch(
                    f"the call still blocks: expected it to end at {pending.until:.6f}"
                )
                raise self._blame(blocked, pending.event)

    @staticmethod
    def _blame(e: Mismatch, event: Event) -> Mismatch:
        e.event = event  # type: ignore[attr-defined]
        return e

    def _retry(self) -> None:
        """Try the calls that block again; what they did may have to leave."""
        waiting = list(self._pending)
        for pending in waiting:
            try:
                self._complete(pending)
            except WouldBlock:
                continue
            except Mismatch as e:
                raise self._blame(e, pending.event) from e
        if waiting:
            self.lab.settle()

    # Events.

    def _event(self, event: Event, elastic: bool) -> None:
        start, end = self._when(event.time)
        action = event.action
        if isinstance(action, Expect):
            self._expect(action.packet, start, end)
            flexible = event.time.start is None or event.time.end is not None
            self._base = self.lab.now if flexible else start
            return
        self._advance(start)
        self._base = start
        if not elastic:
            self._stale(start)
        if isinstance(action, Inject):
            self._inject(action.packet)
        elif isinstance(action, Call):
            self._call(event, action)
        elif isinstance(action, Code):
            self.printed += assertions.run(action.text, names(self.calls, self.lab))
        self.lab.settle()
        self._retry()

    def _stale(self, now: float) -> None:
        """Fail for a packet that was sent and that no event expected."""
        sent = self.lab.sent
        if sent and sent[0].at < now - self.settings.tolerance - EPSILON:
            first = sent.popleft()
            found = translate(first, self._flow(first))
            shown = text.line(found, self.settings.version)
            self._show(">", first.at, found, " (unexpected)")
            raise Mismatch("the stack sent a packet that the script does not expect", "nothing",
                           f"{first.at:.6f} > {shown}")  # fmt: skip

    def _finish(self) -> None:
        """Wait for calls that block, then see that nothing unexpected is left."""
        if self._pending:
            self._advance(max(p.until for p in self._pending) + self.settings.tolerance)
        for pending in self._pending:
            raise self._blame(Mismatch("the call still blocks at the end"), pending.event)
        self._stale(self.lab.now)

    # Packets.

    def _show(self, way: str, at: float, packet: Packet, note: str = "") -> None:
        line = text.line(packet, self.settings.version, brackets=bool(note))
        self.trace.append(f"{at:.6f} {way} {line}{note}")

    def _inject(self, packet: Packet) -> None:
        info = packet.info
        flow = self.flows.inbound(info.dport, info.sport)
        self._show("<", self.lab.now, packet)
        self.lab.inject(self.builder.packet(packet, flow))

    def _flow(self, sent: Sent) -> FlowMap:
        if isinstance(sent.packet, Icmp) and not sent.sport:
            return self.flows.current or FlowMap(0, 0)
        return self.flows.outbound(sent.sport, sent.dport)

    def _expect(self, want: Packet, start: float, end: float) -> None:
        tolerance = self.settings.tolerance + EPSILON
        self._advance(start)
        if not self.lab.sent:
            self._advance(end + tolerance, for_packet=True)
        shown = text.line(want, self.settings.version, brackets=True)
        if not self.lab.sent:
            span = f"{start:.6f}" if start == end else f"{start:.6f} to {end:.6f}"
            raise Mismatch("the stack sent nothing", f"{span} > {shown}", "nothing")
        sent = self.lab.sent.popleft()
        flow = self._flow(sent)
        found = translate(sent, flow)
        reasons = differences(want, found, flow, sent, self.settings)
        if isinstance(want, type(found)):
            found = translate(sent, flow)  # now that the timestamp's meaning is known
        if not start - tolerance <= sent.at <= end + tolerance:
            reasons.append(f"time: expected {start:.6f}, found {sent.at:.6f}")
        if reasons:
            line = text.line(_visible(found, want), self.settings.version)
            self._show(">", sent.at, found, " (this one)")
            raise Mismatch("the stack sent another packet", f"{start:.6f} > {shown}",
                           f"{sent.at:.6f} > {line}", tuple(reasons))  # fmt: skip
        self._show(">", sent.at, replace(found, info=_shown_info(found.info)))

    # Calls.

    def _call(self, event: Event, call: Call) -> None:
        start, _ = self._when(event.time)
        base = start - (event.time.start or 0.0)
        until = self.lab.now if call.until is None else base + call.until
        pending = Pending(event, call, self.calls.attempt(call), until)
        try:
            self._complete(pending)
        except WouldBlock as e:
            if call.until is None:
                raise Mismatch(
                    "the call blocks: expected it to return at once, or an end time",
                    f"{call.name}(...) = {_result(call)}", "it blocks",
                ) from None  # fmt: skip
            if e.seconds >= 0:
                pending.expires = self.lab.now + e.seconds
            self._pending.append(pending)

    def _complete(self, pending: Pending) -> None:
        """Try a call once; compare its result when it has one."""
        call, errno = pending.call, ""
        try:
            result = pending.operation()
        except Fault as e:
            result, errno = -1, e.errno
        except WouldBlock as e:
            waits = self.lab.now + EPSILON < pending.expires
            if self._waits(call) and waits:
                raise
            result, errno = (0, "") if not waits or e.seconds >= 0 else (-1, "EAGAIN")
        if pending in self._pending:
            self._pending.remove(pending)
        self._compare(pending, result, errno)

    def _waits(self, call: Call) -> bool:
        """Tell whether the call's socket is one that blocks."""
        if call.name == "poll" or not call.args or not isinstance(call.args[0], int):
            return True
        sock = self.calls.fds.get(call.args[0])
        return sock is None or not sock.nonblocking

    def _compare(self, pending: Pending, result: int, errno: str) -> None:
        call = pending.call
        said = f"{result} {errno}".strip()
        wrong = call.result is not ANY and (
            number(call.result) != result or (result < 0 and call.errno not in ("", errno))
        )
        if wrong:
            raise Mismatch("the call returned something else", f"{call.name}(...) = "
                           f"{_result(call)}", f"{call.name}(...) = {said}")  # fmt: skip
        if abs(self.lab.now - pending.until) > self.settings.tolerance + EPSILON:
            raise Mismatch(
                f"the call returned at another time: expected {pending.until:.6f}, "
                f"found {self.lab.now:.6f}"
            )


def _result(call: Call) -> str:
    value = "..." if call.result is ANY else str(number(call.result))
    return f"{value} {call.errno}".strip()


def _shown_info(info: IpInfo) -> IpInfo:
    return IpInfo(ecn=info.ecn)


def _visible(found: Packet, want: Packet) -> Packet:
    """Leave of the IP header's fields those that the script asks for."""
    keep = {
        name: getattr(found.info, name)
        for name in ("ecn", "ttl", "tos")
        if getattr(want.info, name) is not None
    }
    return replace(found, info=IpInfo(**keep))
