"""Makes an async generator safe to wait on from requests that may be flushed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Shielded(Generic[T]):
    """An async iterator whose `anext` can be cancelled without loss: the next call goes on."""

    def __init__(self, source: AsyncIterator[T]) -> None:
        self._source = source
        self._pending: asyncio.Task[T] | None = None

    def __aiter__(self) -> Shielded[T]:
        return self

    async def __anext__(self) -> T:
        if self._pending is None:
            self._pending = asyncio.get_running_loop().create_task(self._next())
        try:
            item = await asyncio.shield(self._pending)
        except asyncio.CancelledError:
            raise
        except BaseException:
            self._pending = None
            raise
        self._pending = None
        return item

    async def _next(self) -> T:
        return await anext(self._source)

    async def aclose(self) -> None:
        """Stop waiting and close the source."""
        if self._pending is not None:
            self._pending.cancel()
            await asyncio.wait([self._pending])
            self._pending = None
        aclose = getattr(self._source, "aclose", None)
        if aclose is not None:
            await aclose()
