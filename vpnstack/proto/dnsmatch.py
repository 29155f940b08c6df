"""Which answer is one to our question (RFC 5452 9.1)."""

from __future__ import annotations

import dns.exception
import dns.flags
import dns.message

from ..errors import LinkError


class NoAnswer(LinkError, OSError):
    """No server gave an answer; the message names the last reason."""


def matching(question: dns.message.Message, wire: bytes) -> dns.message.Message | None:
    """Return the answer in `wire` if it is one to `question` (RFC 5452 9.1), else None."""
    try:
        answer = dns.message.from_wire(wire, ignore_trailing=True)
    except (dns.exception.DNSException, ValueError):
        try:  # a truncated answer may stop in the middle of a record
            answer = dns.message.from_wire(wire, question_only=True)
        except (dns.exception.DNSException, ValueError):
            return None
        if not answer.flags & dns.flags.TC:
            return None
    ours = answer.id == question.id and answer.flags & dns.flags.QR
    return answer if ours and answer.question == question.question else None
