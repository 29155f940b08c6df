"""The root of hypervisor's errors and its branches: local misuse, a peer that misbehaves."""


class HypervisorError(Exception):
    """Anything this kit raises by design; its message fits one line and says what to do."""


class UsageError(HypervisorError):
    """The caller asked for something that cannot be: a wrong argument, a missing permission."""


class PeerError(HypervisorError):
    """A guest or a front-end broke a rule; expected and found values stand in the message."""
