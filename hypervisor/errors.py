"""The root of the kit's errors and its two branches: local misuse, and a peer that misbehaves."""


class HypervisorError(Exception):
    """Anything this kit raises by design; its message fits one line and says what to do."""


class UsageError(HypervisorError):
    """The caller asked for something that cannot be: a wrong argument, a missing program."""


class PeerError(HypervisorError):
    """A guest, a front-end or an engine's process misbehaved or went away."""
