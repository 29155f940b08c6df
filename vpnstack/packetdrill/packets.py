"""The packets of a script: TCP, UDP and ICMP as they stand behind `<` and `>`."""

from __future__ import annotations

from collections.abc import Callable

from .cursor import Cursor
from .errors import ScriptError
from .names import ECN, ICMP_CODES, ICMP_TYPES
from .script import FLAG_LETTERS, Icmp, IpInfo, Option, Packet, Quote, Tcp, Udp

MASK = 0xFFFFFFFF
PAYLOAD_MAX = 65507
OPTIONS_MAX = 40


def packet(c: Cursor, version: int) -> Packet:
    """Take a packet of IP `version`."""
    info, quote = IpInfo(), None
    if c.at("["):
        if c.ahead().kind == "integer" or c.ahead().text == "udp":
            quote = _quote(c)
        else:
            info = _info(c)
            quote = _quote(c) if c.at("[") else None
    if c.take("icmp"):
        return _icmp(c, info, quote, version)
    if quote is not None:
        raise c.fail("'icmp' behind a quoted packet")
    if c.take("udp"):
        c.need("(")
        length = c.integer(PAYLOAD_MAX)
        c.need(")")
        return Udp(info, length)
    return _tcp(c, info)


def _info(c: Cursor) -> IpInfo:
    """Take `[ect0]`, `[ce, ttl 3]`, `[sport 40001]` and so on."""
    c.need("[")
    found: dict[str, int | str] = {}
    while not c.take("]"):
        word = c.need("word", ",")
        name = word.text
        if name in ECN:
            found["ecn"] = ECN[name]
        elif name in ("ttl", "tos"):
            found[name] = c.integer(255)
        elif name in ("sport", "dport"):
            found[name] = c.integer(65535)
        elif name in ("zero_csum", "bad_csum"):
            found["csum"] = name.removesuffix("_csum")
        elif name != ",":
            raise ScriptError(f"expected ECN, ttl, tos, a port or csum, found {name!r}", word.line)
    return IpInfo(**found)  # type: ignore[arg-type]


def _range(c: Cursor) -> tuple[int, int]:
    """Take `1:1001(1000)`; return start and length."""
    line = c.token.line
    start = c.integer()
    c.need(":")
    end = c.integer()
    c.need("(")
    length = c.integer(65535)
    c.need(")")
    if (start + length) & MASK != end:
        raise ScriptError(f"expected {start}:{start + length}({length}), found end {end}", line)
    return start, length


def _flags(c: Cursor) -> int:
    if c.take("-"):
        return 0
    token = c.need("word", ".")
    letters = token.text
    if letters != "." and c.at(".") and c.token.start == token.end:
        letters += c.advance().text
        if c.at("word") and c.token.start == c.last.end:
            letters += c.advance().text
    bits = 0
    for letter in letters:
        if letter not in FLAG_LETTERS:
            raise ScriptError(f"expected flags of {FLAG_LETTERS!r}, found {letters!r}", token.line)
        bits |= 1 << FLAG_LETTERS.index(letter)
    return bits


def _tcp(c: Cursor, info: IpInfo) -> Tcp:
    line = c.token.line
    flags = _flags(c)
    seq, length = _range(c)
    ack = c.integer() if c.take("ack") else None
    win = c.integer(65535) if c.take("win") else None
    urg = c.integer(65535) if c.take("urg") else None
    options: tuple[Option, ...] | None = ()
    if c.take("<"):
        if c.take("ellipsis"):
            options = None
            c.need(">")
        else:
            options = _options(c)
            if len(options) > OPTIONS_MAX:
                raise ScriptError(f"expected at most {OPTIONS_MAX} TCP options", line)
    if ack is not None and not flags & 16:
        raise ScriptError("expected the flag '.' with an acknowledgement, found none", line)
    return Tcp(info, flags, seq, length, ack, win, urg, options)


def _options(c: Cursor) -> tuple[Option, ...]:
    out: list[Option] = []
    while True:
        out.append(_option(c))
        if c.take(">"):
            return tuple(out)
        c.need(",")


def _option(c: Cursor) -> Option:
    word = c.need("word")
    name = word.text
    take = _OPTIONS.get(name)
    if take is None:
        known = ", ".join(_OPTIONS)
        raise ScriptError(f"expected an option of {known}, found {name!r}", word.line)
    return Option(name, take(c))


def _ts(c: Cursor) -> tuple[int, ...]:
    c.need("val")
    val = c.integer()
    c.need("ecr")
    return val, c.integer()


def _sack(c: Cursor) -> tuple[int, ...]:
    edges: list[int] = []
    while c.at("integer"):
        edges.append(c.integer())
        c.need(":")
        edges.append(c.integer())
    if not 2 <= len(edges) <= 8:
        raise c.fail("one to four SACK blocks")
    return tuple(edges)


def _kind(c: Cursor) -> tuple[int, ...]:
    """Take `kind NUMBER` or `kind NUMBER 0xHEX`: an option without a name."""
    number = c.integer(255)
    if not c.at("hex"):
        return (number,)
    digits = c.advance().text[2:]
    octets = bytes.fromhex("0" * (len(digits) % 2) + digits)
    if len(octets) > 38:
        raise c.fail("at most 38 octets of an option")
    return (number, *octets)


_OPTIONS: dict[str, Callable[[Cursor], tuple[int, ...]]] = {
    "nop": lambda _: (),
    "eol": lambda _: (),
    "mss": lambda c: (c.integer(65535),),
    "wscale": lambda c: (c.integer(255),),
    "sackOK": lambda _: (),
    "sack": _sack,
    "TS": _ts,
    "kind": _kind,
}


def _quote(c: Cursor) -> Quote:
    """Take `[1:1001(1000)]` or `[udp (100)]`."""
    c.need("[")
    if c.take("udp"):
        c.need("(")
        found = Quote("udp", 0, c.integer(PAYLOAD_MAX))
        c.need(")")
    else:
        found = Quote("tcp", *_range(c))
    c.need("]")
    return found


def _icmp(c: Cursor, info: IpInfo, quote: Quote | None, version: int) -> Icmp:
    """Take what follows `icmp`; the quote may stand in front of it or at the end."""
    kinds, word = ICMP_TYPES[version], c.need("word")
    if word.text not in kinds:
        raise ScriptError(f"expected an ICMP type of {', '.join(kinds)}", word.line)
    codes = ICMP_CODES[version].get(word.text, {})
    code = codes[c.advance().text] if c.token.text in codes else 0
    fields: dict[str, int] = {}
    while c.at("mtu", "pointer", "id", "seq", "code"):
        name = c.advance().text
        fields[name] = c.integer(65535 if name in ("id", "seq") else 0xFFFFFFFF)
    length = None
    if c.take("("):
        length = c.integer(PAYLOAD_MAX)
        c.need(")")
    if quote is None and c.at("["):
        quote = _quote(c)
    value = fields.get("mtu", fields.get("pointer"))
    return Icmp(
        info, kinds[word.text], fields.get("code", code) & 255, value, quote,
        fields.get("id"), fields.get("seq"), length,
    )  # fmt: skip
