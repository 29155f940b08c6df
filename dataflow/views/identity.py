"""Who is at the other end: whose name goes into commits, and whose transactions they may touch."""

from __future__ import annotations

import functools
import os
import pwd
import re
import socket

from ..p9.tree import Context

_UNSAFE = re.compile(r"[<>\x00-\x1f\x7f]")


def owner_of(ctx: Context) -> str:
    """Name whom transactions belong to, and are counted for.

    `uid:N` where the kernel vouches (SO_PEERCRED; root may act for others, as the kernel's 9P
    client does).  Names that come over TCP prove nothing, so there it is the host.
    """
    if ctx.peer.uid is not None:
        return f"uid:{ctx.uid}"
    kind, _, rest = ctx.peer.address.partition(":")
    return f"tcp:{rest.rpartition(':')[0]}" if kind == "tcp" else ctx.peer.address or "direct"


def may_use(ctx: Context, owner: str) -> bool:
    """Say whether a client may touch what is `owner`'s: its own; root and we ourselves all."""
    mine = owner_of(ctx)
    return mine in {owner, "uid:0", f"uid:{os.getuid()}"}


def author_of(ctx: Context) -> str | None:
    """Return `name <name@host>` of who attached; None if nothing is known.

    The user the kernel vouches for, else the attach name with the host that it came from.
    """
    if ctx.peer.uid is not None:
        name, host = _user(ctx.uid), socket.gethostname()
    else:
        name = _UNSAFE.sub("", ctx.uname).strip()
        kind, _, rest = ctx.peer.address.partition(":")
        host = rest.rpartition(":")[0].strip("[]") if kind == "tcp" else socket.gethostname()
    return f"{name} <{name.replace(' ', '.')}@{host}>" if name else None


@functools.lru_cache(256)
def _user(uid: int) -> str:
    try:
        return _UNSAFE.sub("", pwd.getpwuid(uid).pw_name)
    except KeyError:
        return f"uid{uid}"
