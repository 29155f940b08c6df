"""A place in a list of tokens, and the expressions of socket calls."""

from __future__ import annotations

from .errors import ScriptError
from .lexer import Token, tokens, unquote
from .script import ANY, Alternatives, Expression, Function, Name, Struct

DEPTH_MAX = 16  # expressions within expressions


class Cursor:
    """Reads tokens one after the other; errors say what was expected and found, and where."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._tokens = tokens(text)
        self._at = 0

    @property
    def token(self) -> Token:
        """The next token."""
        return self._tokens[self._at]

    @property
    def last(self) -> Token:
        """The token taken last."""
        return self._tokens[max(self._at - 1, 0)]

    def ahead(self, n: int = 1) -> Token:
        """Return the token `n` behind the next."""
        return self._tokens[min(self._at + n, len(self._tokens) - 1)]

    def fail(self, expected: str) -> ScriptError:
        """Make the error that something else stands here."""
        found = repr(self.token.text) if self.token.text else "the end"
        return ScriptError(f"expected {expected}, found {found}", self.token.line)

    def advance(self) -> Token:
        """Take the next token."""
        found = self.token
        if found.kind != "end":
            self._at += 1
        return found

    def at(self, *kinds: str) -> bool:
        """Tell whether the next token is of one of `kinds`, or is one of these words."""
        found = self.token
        return found.kind in kinds or (found.kind == "word" and found.text in kinds)

    def take(self, *kinds: str) -> Token | None:
        """Take the next token if it is one of `kinds`."""
        return self.advance() if self.at(*kinds) else None

    def need(self, *kinds: str) -> Token:
        """Take the next token, which must be one of `kinds`."""
        if not self.at(*kinds):
            raise self.fail(" or ".join(repr(kind) for kind in kinds))
        return self.advance()

    def integer(self, limit: int = 0xFFFFFFFF) -> int:
        """Take a number from 0 to `limit`."""
        token = self.need("integer", "hex")
        # A number of many digits would cost int() quadratic time.
        value = int(token.text, 16 if token.kind == "hex" else 10) if len(token.text) < 25 else -1
        if not 0 <= value <= limit:
            raise ScriptError(f"expected a number up to {limit}, found {token.text}", token.line)
        return value

    # Expressions.

    def expression(self, depth: int = 0) -> Expression:
        """Take an expression, or several joined by `|`."""
        if depth > DEPTH_MAX:
            raise self.fail(f"at most {DEPTH_MAX} nested expressions")
        parts = [self._primary(depth)]
        while self.take("|"):
            parts.append(self._primary(depth))
        return parts[0] if len(parts) == 1 else Alternatives(tuple(parts))

    def _primary(self, depth: int) -> Expression:
        kind = self.token.kind
        if kind == "ellipsis":
            self.advance()
            return ANY
        if kind == "string":
            found = unquote(self.advance().text)
            self.take("ellipsis")
            return found
        if kind == "-":
            self.advance()
            return -self.integer(1 << 63)
        if kind in ("integer", "hex"):
            return self.integer(1 << 64)
        if kind == "float":
            return float(self.advance().text)
        if kind == "[":
            return self._sequence("[", "]", depth)
        if kind == "{":
            return self._struct(depth)
        if kind == "word":
            return self._word(depth)
        raise self.fail("an expression")

    def _word(self, depth: int) -> Expression:
        name = self.advance().text
        if self.at("("):
            return Function(name, self._sequence("(", ")", depth))
        return Name(name)

    def _sequence(self, opening: str, closing: str, depth: int) -> tuple[Expression, ...]:
        self.need(opening)
        out: list[Expression] = []
        while not self.take(closing):
            if out:
                self.need(",")
            out.append(self.expression(depth + 1))
        return tuple(out)

    def arguments(self) -> tuple[Expression, ...]:
        """Take the arguments of a call with their parentheses."""
        return self._sequence("(", ")", 0)

    def _struct(self, depth: int) -> Struct:
        """Take `{name=value, name(...)=value, value}`."""
        self.need("{")
        members: dict[str, Expression] = {}
        items: list[Expression] = []
        while not self.take("}"):
            if members or items:
                self.need(",")
            left = self.expression(depth + 1)
            if not self.take("="):
                items.append(left)
            elif isinstance(left, Name | Function):
                key = left.text if isinstance(left, Name) else left.name
                members[key] = self.expression(depth + 1)
            else:
                raise self.fail("a member's name in front of '='")
        return Struct(members, tuple(items))
