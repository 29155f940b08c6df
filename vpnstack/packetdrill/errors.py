"""What a script can end with: it is wrong itself, or the stack does something else."""

from __future__ import annotations

from ..errors import UsageError, VpnstackError


class ScriptError(UsageError):
    """The script is not in the language, or asks for what this interpreter does not have."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(f"line {line}: {message}" if line else message)
        self.line = line


class Mismatch(VpnstackError):
    """The stack does not do what the script expects.

    `expected` and `found` are lines in the notation of scripts, `reasons` the fields that differ.
    """

    def __init__(
        self, message: str, expected: str = "", found: str = "", reasons: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message)
        self.message = message
        self.expected = expected
        self.found = found
        self.reasons = reasons
