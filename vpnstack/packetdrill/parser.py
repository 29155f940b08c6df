"""The grammar of scripts (syntax.md of google/packetdrill): options, then timed events."""

from __future__ import annotations

from . import packets
from .cursor import Cursor
from .errors import ScriptError
from .script import Action, Call, Code, Event, Expect, Inject, Script, Shell, Tcp, Time

EVENTS_MAX = 10_000
TIME_MAX = 1e7  # seconds


def parse(text: str, overrides: dict[str, str] | None = None) -> Script:
    """Parse a script; `overrides` are options that win over the script's own."""
    c = Cursor(text)
    options: dict[str, str] = {}
    while c.at("option"):
        name, _, value = c.advance().text[2:].partition("=")
        options[name] = value.strip('"')
    options.update(overrides or {})
    version = _version(options)
    ignored = []
    while c.at("shell"):
        ignored.append(Shell(c.advance().text[1:-1].strip()))
    events: list[Event] = []
    while not c.at("end"):
        if len(events) == EVENTS_MAX:
            raise c.fail(f"at most {EVENTS_MAX} events")
        events.append(_event(c, version))
    ignored.extend(event.action for event in events if isinstance(event.action, Shell))
    return Script(options, tuple(events), tuple(ignored))


def _version(options: dict[str, str]) -> int:
    text = options.get("ip_version", "ipv4")
    if text not in ("ipv4", "ipv6"):
        raise ScriptError(f"expected --ip_version=ipv4 or ipv6, found {text!r}")
    return int(text[-1])


def _event(c: Cursor, version: int) -> Event:
    first = c.token
    if not c.at("+", "*", "integer", "float"):
        raise c.fail("the time of an event")
    time, until = _time(c)
    action = _action(c, until, version)
    line = c.text[first.start : c.last.end]
    if time.end is not None and not isinstance(action, Expect):
        raise ScriptError("expected a range of times with '>' only", first.line)
    if time.start is None and not isinstance(action, Expect):
        raise ScriptError("expected '*' with '>' only", first.line)
    return Event(time, action, first.line, " ".join(line.split()))


def _seconds(c: Cursor) -> float:
    token = c.need("float", "integer")
    value = float(token.text) if len(token.text) < 40 else TIME_MAX * 2
    if value > TIME_MAX:
        raise ScriptError(f"expected a time up to {TIME_MAX:g} s, found {token.text}", token.line)
    return value


def _time(c: Cursor) -> tuple[Time, float | None]:
    """Take a time, and the end of a blocking call or of a range behind it.

    `T~U` is a range.  `T...U` is a range in front of '>' and the end of a call elsewhere; an end
    counts from where the start counts.
    """
    if c.take("*"):
        return Time(None), None
    relative = bool(c.take("+"))
    start = _seconds(c)
    if c.take("~"):
        later = bool(c.take("+"))
        end = _seconds(c)
        return Time(start, end + start if later and not relative else end, relative), None
    if not c.take("ellipsis"):
        return Time(start, None, relative), None
    c.take("+")
    end = _seconds(c)
    if c.at(">"):
        return Time(start, end, relative), None
    return Time(start, None, relative), end


def _action(c: Cursor, until: float | None, version: int) -> Action:
    if c.take("<"):
        found = packets.packet(c, version)
        if isinstance(found, Tcp) and found.flags & 16 and found.ack is None:
            raise c.fail("'ack' for a packet with the flag '.'")
        return Inject(found)
    if c.take(">"):
        return Expect(packets.packet(c, version))
    if c.at("code"):
        token = c.advance()
        return Code(token.text[2:-2], token.line)
    if c.at("shell"):
        return Shell(c.advance().text[1:-1].strip())
    if c.at("word") and c.ahead().kind == "(":
        return _call(c, until)
    raise c.fail("'<', '>', a call, %{ or `")


def _call(c: Cursor, until: float | None) -> Call:
    name = c.advance().text
    args = c.arguments()
    c.need("=")
    result = c.expression()
    errno = ""
    if c.at("word"):
        errno = c.advance().text
    if c.take("("):  # a note
        while not c.take(")"):
            if c.at("end"):
                raise c.fail("')'")
            c.advance()
    return Call(name, args, result, errno, until)
