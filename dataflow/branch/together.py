"""A transaction on several branches: all of them move, or none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..errors import UsageError
from .block import CommittingBlock
from .engine import Committed, Engine
from .transaction import Transaction
from .worker import Worker

BRANCHES_MAX = 256


class MultiTransaction(CommittingBlock, Mapping[str, Transaction]):
    """Made by `Repository.transaction`: a mapping from branch names to their transactions.

    Edit the parts, `t["main"].write(...)`, and commit the whole; parts that were not touched move
    nothing.  Each part is merged with its branch, or compared with `expect`, as alone; when one
    fails, no branch moves and everything stays open.  A context manager as `Transaction` is.
    """

    def __init__(
        self,
        engine: Engine,
        branches: tuple[str, ...],
        *,
        message: str = "",
        author: str | None = None,
        expect: Mapping[str, str] | None = None,
        worker: Worker | None = None,
    ) -> None:
        if not 0 < len(set(branches)) <= BRANCHES_MAX:
            raise UsageError(f"{len(branches)} branches, expected 1 to {BRANCHES_MAX}")
        heads = expect or {}
        self.engine = engine
        self.results: dict[str, Committed] = {}
        self._worker = worker
        self._parts = {
            name: Transaction(
                engine, name, message=message, author=author, expect=heads.get(name), worker=worker
            )
            for name in branches
        }

    def __getitem__(self, branch: str) -> Transaction:
        return self._parts[branch]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    async def commit(self) -> dict[str, Committed]:
        """Commit all parts that were touched; return what each came to."""
        if self._worker is None:
            raise UsageError("transaction without a loop: use commit_now")
        self.results = await self._worker.write(self._stage)
        self.close()
        return self.results

    def commit_now(self) -> dict[str, Committed]:
        """Commit all parts that were touched; blocking."""
        self.results = self.engine.groups.write(self._stage)
        self.close()
        return self.results

    def _stage(self) -> dict[str, Committed]:
        return {name: part.stage() for name, part in self._parts.items() if part.touched}

    def close(self) -> None:
        """Give up what was not committed."""
        for part in self._parts.values():
            part.close()

    @property
    def over(self) -> bool:
        """True once nothing is left to commit."""
        return bool(self.results)
