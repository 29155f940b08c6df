"""What transactions are in `with` and `async with`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, Self


class CommittingBlock(ABC):
    """Commits at the end of the block, unless that was done; an exception closes without."""

    @abstractmethod
    async def commit(self) -> Any:
        """Commit."""

    @abstractmethod
    def commit_now(self) -> Any:
        """Commit; blocking."""

    @abstractmethod
    def close(self) -> None:
        """Give up what was not committed."""

    @property
    @abstractmethod
    def over(self) -> bool:
        """True once nothing is left to commit."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if kind is not None:
            self.close()
        elif not self.over:
            await self.commit()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if kind is not None:
            self.close()
        elif not self.over:
            self.commit_now()
