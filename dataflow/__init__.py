"""Git as a live, shared file tree, served over 9P."""

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
