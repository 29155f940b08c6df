"""Git as a live, shared file tree, served over 9P."""

from .branch.change import Change, ChangeKind, FileChange
from .branch.engine import Committed
from .branch.repository import Branch, Repository
from .branch.transaction import Transaction
from .branch.watch import Watch
from .errors import (
    ConflictsRemainError,
    DataflowError,
    MergeConflictError,
    NotFastForwardError,
    NotFoundError,
    PeerError,
    RefLockedError,
    UsageError,
)

__all__ = [
    "Branch",
    "Change",
    "ChangeKind",
    "Committed",
    "ConflictsRemainError",
    "DataflowError",
    "FileChange",
    "MergeConflictError",
    "NotFastForwardError",
    "NotFoundError",
    "PeerError",
    "RefLockedError",
    "Repository",
    "Transaction",
    "UsageError",
    "Watch",
]
