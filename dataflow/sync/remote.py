"""Remotes: other repositories by name, kept in the repository's config as `git remote` keeps them.

A transfer runs in a thread of its own kind, beside reads and writes of the repository; only the
change of `refs/remotes/<name>/<branch>` at its end goes through the writing thread.  Whoever waits
is free at once when cancelled or when the other side falls silent; the thread ends as soon as its
socket, which is shut down, lets it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, Protocol, Self, TypeVar

from ..errors import (
    CannotFetchError,
    CannotPushError,
    NotFoundError,
    RefChangedError,
    RemoteUrlError,
)
from ..store.base import HEADS, Oid, RefUpdate, Store
from ..store.disk import DiskStore
from ..store.objects import Objects
from .config import RemoteConfig, check_remote
from .transfer import Fetched, Pushed, fetch, push
from .transport import Token, TransferStoppedError, shown

P = ParamSpec("P")
T = TypeVar("T")

REMOTES = "refs/remotes/"
TRIES = 5
TRANSFERS_MAX = 4  # at once; others wait for their turn
TIMEOUT = 60.0  # seconds without an octet

Progress = Callable[[str], object]
Merge = Callable[[str, Oid], Awaitable[Oid]]
"""(branch, commit) -> the branch's new head."""


class Threads(Protocol):
    """The repository's threads: `branch.worker.Worker`."""

    async def read(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what changes nothing."""

    async def write(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what changes the store, one job at a time."""


class Remote:
    """One other repository.  It need not be there: `Remotes.add` makes it, each use asks anew."""

    def __init__(self, remotes: Remotes, name: str) -> None:
        self._remotes = remotes
        self.name = check_remote(name)

    async def url(self) -> str:
        """Return the URL, "" if none was set; `NotFoundError` if there is no such remote."""
        return await self._remotes.url(self.name)

    async def set_url(self, url: str) -> None:
        """Change the URL: a path, file://, git://, ssh://, host:path, http:// or https://."""
        await self._remotes.set_url(self.name, url)

    async def fetch(
        self, branch: str, *, progress: Progress | None = None, timeout: float = TIMEOUT
    ) -> Oid:
        """Bring a branch here as `refs/remotes/<name>/<branch>` and return its commit.

        Raises `NoRemoteHeadError`, `CannotFetchError`, `RemoteUrlError`.  `progress` is called in
        another thread.  `timeout` is how many seconds the other side may be silent.
        """
        return await self._remotes.fetch(self.name, branch, progress, timeout)

    async def push(
        self,
        branch: str,
        *,
        to: str | None = None,
        force: bool = False,
        progress: Progress | None = None,
        timeout: float = TIMEOUT,
    ) -> Oid:
        """Make the other side's branch (`to`, by default of the same name) what ours is.

        `NotFastForwardError` if it has commits that we lack, unless `force`; `CannotPushError`.
        """
        remotes = self._remotes
        oid = await remotes.threads.read(remotes.store.ref, HEADS + branch)
        if oid is None:
            raise NotFoundError(f"branch {branch}")
        name = HEADS + (to or branch)
        url = await remotes.known_url(self.name)
        pushed = await remotes.push(url, {name: oid}, force, progress, timeout)
        for err in pushed.refused.values():
            raise err
        await remotes.track(self.name, to or branch, Fetched(oid))
        return oid

    async def pull(
        self,
        branch: str,
        *,
        into: str | None = None,
        progress: Progress | None = None,
        timeout: float = TIMEOUT,
    ) -> Oid:
        """Fetch a branch and merge it into ours; return our new head.  `MergeConflictError`."""
        oid = await self.fetch(branch, progress=progress, timeout=timeout)
        return await self._remotes.merge(into or branch, oid)

    async def head(self) -> Oid | None:
        """Return the commit fetched last; after a restart, the newest of those fetched."""
        return await self._remotes.head(self.name)

    def heads(self) -> FetchedHeads:
        """Stream `head`: the present one, then the newest after each fetch."""
        return FetchedHeads(self._remotes, self.name)


class FetchedHeads:
    """An async iterator of a remote's last fetched commits (None: nothing was fetched)."""

    def __init__(self, remotes: Remotes, name: str) -> None:
        self._remotes = remotes
        self._name = name
        self._last: list[Oid | None] = []
        self._closed = False
        self._wake = asyncio.Event()
        remotes.followers.setdefault(name, set()).add(self._wake)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Oid | None:
        while not self._closed:
            self._wake.clear()
            head = await self._remotes.head(self._name)
            if self._last != [head]:
                self._last = [head]
                return head
            await self._wake.wait()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """End the stream."""
        self._closed = True
        self._wake.set()
        followers = self._remotes.followers.get(self._name, set())
        followers.discard(self._wake)
        if not followers:
            self._remotes.followers.pop(self._name, None)


class Remotes:
    """All remotes of one repository."""

    def __init__(self, store: Store, threads: Threads, merge: Merge) -> None:
        self.store = store
        self.threads = threads
        self.merge = merge
        self.followers: dict[str, set[asyncio.Event]] = {}
        self._config = RemoteConfig(_config_path(store))
        self._last: dict[str, Oid] = {}
        self._pool = ThreadPoolExecutor(TRANSFERS_MAX, thread_name_prefix="dataflow-sync")
        self._tokens: set[Token] = set()

    def remote(self, name: str) -> Remote:
        """Return the remote of that name, which need not be there."""
        return Remote(self, name)

    async def names(self) -> list[str]:
        """Return the names of all remotes, sorted."""
        return sorted(await self.threads.read(self._config.urls))

    async def url(self, name: str) -> str:
        """Return a remote's URL; `NotFoundError`."""
        urls = await self.threads.read(self._config.urls)
        if name not in urls:
            raise NotFoundError(name)
        return urls[name]

    async def known_url(self, name: str) -> str:
        """Return a remote's URL; `RemoteUrlError` if none was set."""
        url = await self.url(name)
        if not url:
            raise RemoteUrlError(name)
        return url

    async def add(self, name: str, url: str = "") -> Remote:
        """Add a remote; `ExistsError`."""
        await self.threads.write(self._config.add, name, url)
        return self.remote(name)

    async def set_url(self, name: str, url: str) -> None:
        """Change a remote's URL; `NotFoundError`."""
        await self.threads.write(self._config.set_url, name, url)

    async def rename(self, old: str, new: str) -> None:
        """Rename a remote and what was fetched from it; `NotFoundError`, `ExistsError`."""
        await self.threads.write(self._config.rename, old, new)
        await self.threads.write(self._move_refs, old, new)
        if old in self._last:
            self._last[new] = self._last.pop(old)

    async def remove(self, name: str) -> None:
        """Forget a remote and what was fetched from it; `NotFoundError`."""
        await self.threads.write(self._config.remove, name)
        await self.threads.write(self._move_refs, name, None)
        self._last.pop(name, None)
        self._wake(name)

    def _move_refs(self, old: str, new: str | None) -> None:
        updates = []
        for name, oid in self.store.refs(f"{REMOTES}{old}/").items():
            updates.append(RefUpdate(name, oid, None))
            if new is not None:
                to = f"{REMOTES}{new}/{name.removeprefix(f'{REMOTES}{old}/')}"
                updates.append(RefUpdate(to, self.store.ref(to), oid))
        if updates:
            self.store.update(updates)

    async def fetch(self, name: str, branch: str, progress: Progress | None, timeout: float) -> Oid:
        """Do what `Remote.fetch` says."""
        url = await self.known_url(name)
        token = Token(progress)
        try:
            found = await self._run(
                token, timeout, lambda: fetch(self.store, url, branch, token, timeout)
            )
        except TransferStoppedError as err:
            raise CannotFetchError(shown(url), str(err)) from err
        await self.track(name, branch, found)
        return found.commit

    async def push(
        self,
        url: str,
        refs: dict[str, Oid],
        force: bool,
        progress: Progress | None,
        timeout: float,
    ) -> Pushed:
        """Push references to a URL; see `transfer.push`."""
        token = Token(progress)
        try:
            return await self._run(
                token, timeout, lambda: push(self.store, url, refs, force, token, timeout)
            )
        except TransferStoppedError as err:
            raise CannotPushError(shown(url), str(err)) from err

    async def track(self, name: str, branch: str, found: Fetched) -> None:
        """Keep what was fetched, and remember it as the remote's branch."""
        await self.threads.write(self._track, f"{REMOTES}{name}/{branch}", found)
        self._last[name] = found.commit
        self._wake(name)

    def _track(self, ref: str, found: Fetched) -> None:
        for kind, data in found.objects:
            self.store.put(kind, data)
        self.store.flush()
        for _ in range(TRIES):
            with contextlib.suppress(RefChangedError):  # a plain `git fetch` of the same
                self.store.update([RefUpdate(ref, self.store.ref(ref), found.commit)])
                return

    async def head(self, name: str) -> Oid | None:
        """Return what was fetched last from a remote."""
        return self._last.get(name) or await self.threads.read(self._newest, name)

    def _newest(self, name: str) -> Oid | None:
        objects = Objects(self.store)
        found = set(self.store.refs(f"{REMOTES}{name}/").values())
        return max(found, key=lambda oid: objects.commit(oid).commit_time, default=None)

    def _wake(self, name: str) -> None:
        for event in self.followers.get(name, ()):
            event.set()

    async def _run(self, token: Token, timeout: float, job: Callable[[], T]) -> T:
        """Run a transfer; stop it when cancelled, or after `timeout` to twice that of silence."""
        future = asyncio.get_running_loop().run_in_executor(self._pool, job)
        future.add_done_callback(_seen)
        self._tokens.add(token)
        try:
            while not future.done():
                before = token.octets
                await asyncio.wait({future}, timeout=timeout)
                if not future.done() and token.timed and token.octets == before:
                    raise TransferStoppedError(f"silent for {timeout:g} s")
            if future.cancelled():
                raise TransferStoppedError("the repository is closed")
            return future.result()
        except TransferStoppedError as err:
            token.stop(str(err))
            raise
        except asyncio.CancelledError:
            token.stop("cancelled")
            raise
        finally:
            self._tokens.discard(token)

    def close(self) -> None:
        """Stop all transfers."""
        for token in tuple(self._tokens):
            token.stop("the repository is closed")
        self._pool.shutdown(wait=False, cancel_futures=True)


def _seen(future: asyncio.Future[T]) -> None:
    """Look at the outcome of a transfer nobody waits for any more, else asyncio complains."""
    if not future.cancelled():
        future.exception()


def _config_path(store: Store) -> str | None:
    if not isinstance(store, DiskStore):
        return None
    common = store.git_dir
    try:  # a linked work tree names the repository it belongs to
        with open(os.path.join(common, "commondir"), encoding="utf-8") as f:
            common = os.path.join(common, f.read().strip())
    except FileNotFoundError:
        pass
    return os.path.join(common, "config")
