"""The resolver of a namespace that is not ours: what we may write, and what the user must do.

Processes that run in a namespace already read some resolv.conf that we cannot know.  Only
`ip netns exec NAME` has a place for one: it binds /etc/netns/NAME/resolv.conf (ip-netns(8)).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from .namespace import NamespaceConfig, Target

NETNS_ETC = Path("/etc/netns")


@dataclass(frozen=True, slots=True)
class Resolver:
    """What was done: `path` is a file that we wrote, `note` a line for the user."""

    path: Path | None = None
    text: str = ""
    note: str = ""

    def remove(self) -> None:
        """Remove the file, if it still says what we wrote, and its directory, if that is empty."""
        if self.path is None:
            return
        with contextlib.suppress(OSError):
            if self.path.read_text() == self.text:
                self.path.unlink()
                self.path.parent.rmdir()


def install(target: Target, config: NamespaceConfig, etc: Path = NETNS_ETC) -> Resolver:
    """Write resolv.conf for a named namespace that has none; else say what the user should do."""
    text = config.resolv_conf
    if not (config.configure and text):
        return Resolver()
    servers = " and ".join(config.dns)
    name = target.name
    if name is None:
        note = f"resolver of {target} left as it is: to use ours, name {servers} in its resolv.conf"
        return Resolver(note=note)
    path = etc / name / "resolv.conf"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x") as f:
            f.write(text)
    except FileExistsError:
        return Resolver(note=f"{path} exists and was left as it is; ours would name {servers}")
    except OSError as e:
        return Resolver(note=f"{path} not written ({e.strerror}); it should name {servers}")
    return Resolver(path, text)
