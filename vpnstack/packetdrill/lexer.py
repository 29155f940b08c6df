"""The tokens of a packetdrill script (syntax.md of google/packetdrill, "Lexical Structure")."""

from __future__ import annotations

import re
from typing import NamedTuple

from .errors import ScriptError

SCRIPT_MAX = 1 << 20  # characters of a script


class Token(NamedTuple):
    """One token: `kind` is a name of `_PATTERNS`, or the character itself for punctuation."""

    kind: str
    text: str
    line: int
    start: int
    end: int


_PATTERNS = (
    ("space", r"[ \t\r\n\f]+"),
    ("comment", r"//[^\n]*|/\*.*?\*/|\#[^\n]*"),
    ("code", r"%\{.*?\}%"),
    ("shell", r"`(?:\\.|[^`\\])*`"),
    ("string", r'"(?:\\.|[^"\\\n])*"'),
    ("option", r"--[A-Za-z0-9_.]+=(?:\"[^\"\n]*\"|[^\s]*)"),
    ("ellipsis", r"\.\.\."),
    ("hex", r"0[xX][0-9a-fA-F]+"),
    ("float", r"[0-9]*\.[0-9]+"),
    ("integer", r"[0-9]+(?![A-Za-z_])"),
    ("word", r"[A-Za-z0-9_]+"),
    ("other", r"[-+*~<>\[\](){}=,:|.]"),
)
_TOKEN = re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in _PATTERNS), re.S)
_SKIPPED = ("space", "comment")
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|.)", re.S)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0"}


def tokens(text: str) -> list[Token]:
    """Cut a script into tokens, comments left out; the last is of kind "end"."""
    if len(text) > SCRIPT_MAX:
        raise ScriptError(f"expected at most {SCRIPT_MAX} characters, found {len(text)}")
    out: list[Token] = []
    pos, line = 0, 1
    while pos < len(text):
        found = _TOKEN.match(text, pos)
        if found is None:
            raise ScriptError(f"expected a token, found {text[pos : pos + 12]!r}", line)
        kind, body = str(found.lastgroup), found.group()
        if kind not in _SKIPPED:
            name = body if kind == "other" else kind
            out.append(Token(name, body, line, pos, found.end()))
        line += body.count("\n")
        pos = found.end()
    out.append(Token("end", "", line, pos, pos))
    return out


def unquote(text: str) -> str:
    """Return what a string or shell token says, its quotes and escapes resolved."""

    def resolve(found: re.Match[str]) -> str:
        what = found.group(1)
        return chr(int(what[1:], 16)) if what[0] == "x" and len(what) > 1 else _ESCAPES.get(
            what, what
        )  # fmt: skip

    return _ESCAPE.sub(resolve, text[1:-1])
