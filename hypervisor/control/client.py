"""The other end of a control socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from ..errors import UsageError
from . import place

_LINE_MAX = 1 << 20


class ControlError(UsageError):
    """The machine refused a request, or is gone; the message says why."""


class Client:
    """A connection to a running machine; made by `connect`."""

    def __init__(
        self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.name = name
        self.reader = reader
        self.writer = writer

    async def request(self, op: str, **parameters: object) -> Any:
        """Return the answer; ControlError when the machine refuses."""
        self.writer.write(json.dumps({"op": op, **parameters}).encode() + b"\n")
        try:
            line = await self.reader.readline()
        except (ConnectionError, ValueError):
            line = b""
        if not line:
            raise ControlError(f"{self.name} is gone")
        answer = json.loads(line)
        if "error" in answer:
            raise ControlError(f"{self.name}: {answer['error']}")
        return answer["ok"]

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Yield what happens, from now to the machine's end."""
        await self.request("events")
        while line := await self.reader.readline():
            yield json.loads(line)

    async def console(self, *, write: bool = True) -> bool:
        """Make `reader` and `writer` the console; return whether what is written is typed.

        Where another one types, it is once that one has gone, if `write`.
        """
        return bool((await self.request("console", write=write))["writes"])


@contextlib.asynccontextmanager
async def connect(path: str | Path) -> AsyncIterator[Client]:
    """Connect with the machine whose socket is at `path`."""
    name = Path(path).name.removesuffix(place.SUFFIX)
    try:
        reader, writer = await asyncio.open_unix_connection(str(path), limit=_LINE_MAX)
    except (FileNotFoundError, ConnectionRefusedError):
        raise ControlError(f"no machine {name} runs: see `hypervisor ps`") from None
    except OSError as error:
        raise ControlError(f"cannot reach {name} at {path}: {error.strerror}") from None
    try:
        yield Client(name, reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
