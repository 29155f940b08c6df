"""Serves one machine's control socket; the protocol stands in the package's docstring."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..engine.base import Event
from ..errors import HypervisorError, PeerError, UsageError
from ..machine import Machine
from . import place
from .hub import Hub

LINE_MAX = 64 << 10
CONNECTIONS_MAX = 64
_GOODBYE = 1.0  # seconds for the last answers after the machine's end
_STOP_TIMEOUT_MAX = 86400.0
_UCRED = struct.Struct("3i")

Request = Mapping[str, Any]


class Server:
    """Answers on a unix socket for `machine`, which was started; `facts` adds to its status."""

    def __init__(self, machine: Machine, facts: Mapping[str, object] | None = None) -> None:
        self._machine = machine
        self._facts = dict(facts or {})
        self._hub = Hub(machine.console)
        self._began = time.time()
        self._links: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._answers: dict[str, Callable[[Request], Awaitable[object]]] = {
            "status": self._status,
            "statistics": self._statistics,
            "pause": self._pause,
            "resume": self._resume,
            "stop": self._stop,
            "kill": self._kill,
        }

    async def start(self, sock: socket.socket) -> None:
        """Accept at `sock`, a listening unix socket."""
        # A descriptor of its own: the loop closes what it is given.
        self._server = await asyncio.start_unix_server(
            self._accept, sock=sock.dup(), limit=LINE_MAX
        )

    async def close(self) -> None:
        """End the connections, the last answers first."""
        if self._server is not None:
            self._server.close()
        self._hub.close()
        if self._machine.console.closed and self._links:
            # Since the end, not each: of many machines that end together, all wait together.
            since = asyncio.get_running_loop().time() - self._machine.ended_at
            await asyncio.wait(self._links, timeout=max(0.0, _GOODBYE - since))
        for task in self._links:
            task.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        try:
            if len(self._links) > CONNECTIONS_MAX:
                raise PeerError(f"more than {CONNECTIONS_MAX} connections")
            _check_peer(writer)
            while line := await reader.readline():
                await self._answer(_parse(line), reader, writer)
                await writer.drain()
        except HypervisorError as error:
            _send(writer, {"error": str(error)})
        except ValueError:  # of the stream: no end of line within the limit
            _send(writer, {"error": f"a request is longer than {LINE_MAX} bytes"})
        except ConnectionError:
            pass
        finally:
            self._links.discard(task)
            writer.close()

    async def _answer(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        op = request.get("op")
        if op == "events":
            await self._follow(reader, writer)
        elif op == "console":
            await self._view(request, reader, writer)
        elif answer := self._answers.get(str(op)):
            try:
                _send(writer, {"ok": await answer(request)})
            except HypervisorError as error:
                _send(writer, {"error": str(error)})
        else:
            known = ", ".join([*self._answers, "events", "console"])
            raise PeerError(f"unknown op {op!r}, expected one of {known}")

    async def _status(self, request: Request) -> object:
        machine = self._machine
        return {
            "name": machine.name,
            "pid": os.getpid(),
            "engine": machine.engine.name,
            "state": machine.state.value,
            "cpus": machine.config.cpus,
            "memory": machine.config.memory,
            "kernel": str(machine.config.kernel),
            "uuid": machine.config.uuid,
            "started": self._began,
            "uptime": asyncio.get_running_loop().time() - machine.started_at,
            "console_dropped": self._hub.dropped,
            **self._facts,
        }

    async def _statistics(self, request: Request) -> object:
        status: Any = await self._status(request)
        usage, counted = self._machine.engine.usage(), self._machine.statistics()
        return {
            **status,
            **asdict(usage),
            "exits": dict(counted.exits) if counted.vcpus else None,  # None: not told
            "boot": asdict(counted.boot),
            "devices": [asdict(device) for device in counted.devices],
        }

    async def _pause(self, request: Request) -> object:
        await self._machine.pause()
        return {"state": self._machine.state.value}

    async def _resume(self, request: Request) -> object:
        await self._machine.resume()
        return {"state": self._machine.state.value}

    async def _stop(self, request: Request) -> object:
        timeout = request.get("timeout", 10.0)
        if not isinstance(timeout, int | float) or not 0 <= timeout <= _STOP_TIMEOUT_MAX:
            raise UsageError(f"timeout is {timeout!r}, expected seconds")
        end = await self._machine.stop(timeout)
        return {"reason": end.reason.value, "message": end.message, "code": end.code}

    async def _kill(self, request: Request) -> object:
        end = await self._machine.kill()
        return {"reason": end.reason.value, "message": end.message, "code": end.code}

    async def _follow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send events until the machine or the connection ends."""
        events = asyncio.create_task(self._send_events(writer))
        gone = asyncio.create_task(reader.read(1))
        try:
            await asyncio.wait({events, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            events.cancel()
            gone.cancel()
            await asyncio.gather(events, gone, return_exceptions=True)
        raise ConnectionResetError  # there is nothing after a stream

    async def _send_events(self, writer: asyncio.StreamWriter) -> None:
        _send(writer, {"ok": self._machine.name})
        async for event in self._machine.events():
            _send(writer, _event(event))
            await writer.drain()

    async def _view(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        typing = request.get("write", True) is True
        writes = typing and not self._hub.writer_taken
        _send(writer, {"ok": {"name": self._machine.name, "writes": writes}})
        view = asyncio.create_task(self._hub.view(reader, writer, typing=typing))
        ended = asyncio.create_task(self._machine.wait())
        try:
            await asyncio.wait({view, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            view.cancel()
            ended.cancel()
            await asyncio.gather(view, ended, return_exceptions=True)
        raise ConnectionResetError


@contextlib.asynccontextmanager
async def serve(
    machine: Machine,
    path: str | Path | place.Claim,
    facts: Mapping[str, object] | None = None,
) -> AsyncIterator[Server]:
    """Serve `machine`, which was started, at `path`; the directory must be there, and ours alone.

    `facts` adds to what `status` answers.
    """
    claim = path if isinstance(path, place.Claim) else place.claim(Path(path))
    with contextlib.closing(claim):
        server = Server(machine, facts)
        try:
            await server.start(claim.sock)
            yield server
        finally:
            claim.close()  # first: who finds the name free may take it
            await server.close()


def _check_peer(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _, uid, _ = _UCRED.unpack(data)
    if uid not in {0, os.geteuid()}:
        raise PeerError(f"user {uid} may not: the machine is user {os.geteuid()}'s")


def _parse(line: bytes) -> Request:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        request = None
    if not isinstance(request, dict):
        raise PeerError(f"expected a JSON object a line, found {line[:40]!r}")
    return request


def _event(event: Event) -> Mapping[str, object]:
    at = time.time() - asyncio.get_running_loop().time() + event.time
    return {"time": round(at, 6), "kind": event.kind.value, "detail": event.detail}


def _send(writer: asyncio.StreamWriter, value: Mapping[str, object]) -> None:
    writer.write(json.dumps(value).encode() + b"\n")
