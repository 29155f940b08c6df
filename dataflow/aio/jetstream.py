"""The events of branches as messages of a NATS JetStream; needs the extra `nats`.

One message a change: subject `<prefix>.<branch>`, a JSON document, and the change's cursor in a
header.  A bridge that starts goes on behind the cursor of the last message of each subject, so
nothing is written down here and nothing is missed or sent twice.  A message whose acknowledgement
was lost is sent again under the same `Nats-Msg-Id` (the commit and its branch), which the server
drops for as long as its duplicate window lasts.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass

import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from ..branch.change import Change, ChangeKind
from ..branch.repository import Repository

CURSOR = "Dataflow-Cursor"
_ID = "Nats-Msg-Id"
_ESCAPES = {c: f"%{ord(c):02X}" for c in "%.*> \t"}


@dataclass(frozen=True, slots=True)
class BridgeStatistics:
    """What a bridge has done: messages taken by the server, and tries that were repeated."""

    published: int
    repeated: int


class JetStreamBridge:
    """Publishes every change of `branches` of a repository through a connected NATS client.

    `await bridge.run()` goes on until it is cancelled, the repository is closed, or a message was
    refused `tries` times (then the last error is raised; run again to go on).
    """

    def __init__(
        self,
        repo: Repository,
        client: Client,
        branches: Sequence[str],
        *,
        stream: str = "dataflow",
        prefix: str = "dataflow",
        tries: int = 5,
        timeout: float = 5.0,
    ) -> None:
        self.stream = stream
        self.prefix = prefix
        self.tries = tries
        self._repo = repo
        self._js: JetStreamContext = client.jetstream(timeout=timeout)
        self._branches = tuple(branches)
        self._published = self._repeated = 0

    def statistics(self) -> BridgeStatistics:
        """Return counts since the start."""
        return BridgeStatistics(self._published, self._repeated)

    async def run(self) -> None:
        """Make the stream if there is none, and publish."""
        try:
            await self._js.stream_info(self.stream)
        except NotFoundError:
            await self._js.add_stream(name=self.stream, subjects=[f"{self.prefix}.>"])
        async with asyncio.TaskGroup() as tasks:
            for branch in self._branches:
                tasks.create_task(self._follow(branch))

    async def _follow(self, branch: str) -> None:
        subject = subject_of(self.prefix, branch)
        watch = self._repo.branch(branch).watch(since=await self._cursor(subject))
        try:
            async for change in watch:
                await self._publish(subject, change)
        finally:
            await watch.aclose()

    async def _cursor(self, subject: str) -> str:
        """Return the place behind the last message; "" (all of history) if there is none."""
        try:
            last = await self._js.get_last_msg(self.stream, subject)
        except NotFoundError:
            return ""
        return str((last.headers or {}).get(CURSOR, ""))

    async def _publish(self, subject: str, change: Change) -> None:
        headers = {CURSOR: change.cursor, _ID: message_id(change)}
        data = json.dumps(document(change), ensure_ascii=True).encode()
        for left in reversed(range(self.tries)):
            try:
                await self._js.publish(subject, data, stream=self.stream, headers=headers)
            except (nats.errors.TimeoutError, nats.errors.NoRespondersError):
                if not left:
                    raise
                self._repeated += 1
            else:
                self._published += 1
                return


def subject_of(prefix: str, branch: str) -> str:
    """Return the subject of a branch: slashes become dots, what NATS reserves is escaped."""
    return f"{prefix}." + "".join(_ESCAPES.get(c, c) for c in branch).replace("/", ".")


def message_id(change: Change) -> str:
    """Return what tells a change from all others of its branches."""
    if change.kind is ChangeKind.COMMIT:
        return f"{change.commit}/{change.branch}"
    return f"{change.kind.value}:{change.cursor}/{change.branch}"


def document(change: Change) -> dict[str, object]:
    """Return a change as JSON has it."""
    return {
        "kind": change.kind.value,
        "branch": change.branch,
        "commit": change.commit,
        "parents": list(change.parents),
        "author": change.author,
        "message": change.message,
        "time": change.time,
        "cursor": change.cursor,
        "changes": [
            {"path": c.path, "before": c.before, "after": c.after, "status": c.status}
            for c in change.changes
        ],
    }
