"""The root of vpnstack's errors and its two branches: local misuse, and a peer that misbehaves."""


class VpnstackError(Exception):
    """Anything this kit raises by design; its message fits one line and says what to do."""


class UsageError(VpnstackError):
    """The caller asked for something that cannot be: a wrong argument, a missing permission."""


class LinkError(VpnstackError):
    """The other side of a link misbehaved or went away; values stand in the message."""
