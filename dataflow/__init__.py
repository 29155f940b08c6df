"""Git as a live, shared file tree, served over 9P.

The names below load on first use, so that `dataflow.p9` and its front ends work without Git.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .aio.client import connect
    from .aio.server import Server
    from .branch.change import Change, ChangeKind, FileChange
    from .branch.engine import Committed
    from .branch.repository import Branch, Repository
    from .branch.together import MultiTransaction
    from .branch.transaction import Transaction
    from .branch.watch import Watch
    from .errors import (
        ConflictsRemainError,
        DataflowError,
        MergeConflictError,
        NotFastForwardError,
        NotFoundError,
        PeerError,
        RefChangedError,
        RefLockedError,
        UsageError,
    )
    from .tree.conflicts import Conflict
    from .views.root import repository_root

__all__ = [
    "Branch",
    "Change",
    "ChangeKind",
    "Committed",
    "Conflict",
    "ConflictsRemainError",
    "DataflowError",
    "FileChange",
    "MergeConflictError",
    "MultiTransaction",
    "NotFastForwardError",
    "NotFoundError",
    "PeerError",
    "RefChangedError",
    "RefLockedError",
    "Repository",
    "Server",
    "Transaction",
    "UsageError",
    "Watch",
    "connect",
    "repository_root",
]

_HOMES = {
    "Branch": ".branch.repository",
    "Change": ".branch.change",
    "ChangeKind": ".branch.change",
    "Committed": ".branch.engine",
    "Conflict": ".tree.conflicts",
    "ConflictsRemainError": ".errors",
    "DataflowError": ".errors",
    "FileChange": ".branch.change",
    "MergeConflictError": ".errors",
    "MultiTransaction": ".branch.together",
    "NotFastForwardError": ".errors",
    "NotFoundError": ".errors",
    "PeerError": ".errors",
    "RefChangedError": ".errors",
    "RefLockedError": ".errors",
    "Repository": ".branch.repository",
    "Server": ".aio.server",
    "Transaction": ".branch.transaction",
    "UsageError": ".errors",
    "Watch": ".branch.watch",
    "connect": ".aio.client",
    "repository_root": ".views.root",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name], __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
