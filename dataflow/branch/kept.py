"""An open transaction in the repository: `refs/dataflow/tx/<digest>`, to be found after a restart.

The reference names a commit whose parents are those that the transaction names, and whose tree
holds `rw` (the edited tree), `ours`, `theirs` and `base` after a merge, and `meta.json`; so git's
garbage collection keeps all of it, and a clone or a push does not see it.  Directories without
files are lost, since Git cannot hold them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from ..errors import DataflowError
from ..store.base import Oid, RefUpdate
from ..store.objects import DIRECTORY, EMPTY_TREE, FILE, Entry
from ..tree.overlay import Overlay
from ..tree.paths import parse
from .engine import Engine
from .transaction import Transaction

PREFIX = "refs/dataflow/tx/"
META_MAX = 4 << 20
_TREES = ("ours", "theirs", "base")


@dataclass(frozen=True, slots=True)
class Kept:
    """What is known of a transaction beside its tree."""

    branch: str
    name: str
    owner: str
    author: str | None
    committer: str | None
    message: str
    origin: Oid | None
    parents: list[Oid]
    ours: Oid | None
    theirs: Oid | None
    base: Oid | None
    conflicts: list[str]
    lease: float
    from_use: bool
    opened_ns: int

    @property
    def ref(self) -> str:
        """The reference that keeps it."""
        return ref_of(self.branch, self.name)


def ref_of(branch: str, name: str) -> str:
    """Return the reference of a transaction; its name may have octets that no reference can."""
    octets = f"{branch}\0{name}".encode("utf-8", "surrogateescape")
    return PREFIX + hashlib.sha256(octets).hexdigest()[:40]


def write(engine: Engine, kept: Kept, tree: Overlay) -> None:
    """Keep a transaction, durably; blocking, in the writing thread."""
    objects = engine.objects
    ids = {"rw": tree.store(), **{name: getattr(kept, name) for name in _TREES}}
    entries = {
        name.encode(): Entry(DIRECTORY, oid)
        for name, oid in ids.items()
        if oid not in {None, EMPTY_TREE}
    }
    meta = json.dumps(asdict(kept)).encode()
    entries[b"meta.json"] = Entry(FILE, objects.put_blob(meta))
    commit = engine.write_commit(
        objects.put_tree(entries),
        tuple(dict.fromkeys([*([kept.origin] if kept.origin else []), *kept.parents])),
        f"open transaction {kept.name} on {kept.branch}",
        kept.author,
    )
    point(engine, kept.ref, commit)


def point(engine: Engine, ref: str, commit: Oid | None) -> None:
    """Move a reference of ours; None removes it."""
    engine.store.flush()
    old = engine.store.ref(ref)
    if old != commit:
        engine.store.update([RefUpdate(ref, old, commit)])


def read(engine: Engine, limit: int) -> list[tuple[Kept, Oid]]:
    """Return what was kept, with the trees; what does not parse is left alone."""
    found: list[tuple[Kept, Oid]] = []
    for ref, oid in engine.store.refs(PREFIX).items():
        if len(found) == limit:
            break
        try:
            entries = engine.objects.tree(engine.objects.commit(oid).tree)
            meta = json.loads(engine.objects.blob(entries[b"meta.json"].oid)[:META_MAX])
            kept = Kept(**meta)
            rw = entries.get(b"rw")
            if kept.ref == ref and not _committed(engine, kept, rw.oid if rw else EMPTY_TREE):
                found.append((kept, rw.oid if rw else EMPTY_TREE))
        except (DataflowError, KeyError, TypeError, ValueError):
            continue
    return found


def _committed(engine: Engine, kept: Kept, tree: Oid) -> bool:
    """Say whether the server died between the commit and the end of the transaction."""
    parents, wanted = tuple(kept.parents), engine.clean(kept.message)
    return any(
        (c.tree, c.parents, c.message) == (tree, parents, wanted)
        for c in engine.log(engine.head(kept.branch), limit=256)
    )


def keep(
    transaction: Transaction, name: str, owner: str, lease: float, from_use: bool, ns: int
) -> Kept:
    """Return what is known of a transaction."""
    t = transaction
    return Kept(
        t.branch, name, owner, t.author, t.committer, t.message, t.origin, list(t.parents),
        t.ours, t.theirs, t.base, list(t.conflicts), lease, from_use, ns,
    )  # fmt: skip


def revive(transaction: Transaction, kept: Kept, tree: Oid) -> None:
    """Make a new transaction be what was kept."""
    t = transaction
    t.author, t.committer, t.message = kept.author, kept.committer, kept.message
    t.origin, t.parents = kept.origin, list(kept.parents)
    t.ours, t.theirs, t.base = kept.ours, kept.theirs, kept.base
    t.reset(tree, [parse(path) for path in kept.conflicts])
