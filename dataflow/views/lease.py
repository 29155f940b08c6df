"""Open transactions by their names: shared, leased, bounded, and given up when nobody comes back.

A transaction is kept while a connection uses it and `lease` seconds longer.  A client whose
connection outlives its work (a shell on a mount that everybody shares) writes `lease=SECONDS` into
`ctl`; then the lease runs from the last edit, or `renew`, whatever connections there are.

Where a client is hostile: an owner has a bounded number of transactions, and their edits a bounded
number of octets, which are held in memory until the commit; so have all owners together.

What survives the server: see `keeper`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..branch import kept
from ..branch.budget import Budget
from ..branch.repository import Repository
from ..branch.transaction import Transaction
from ..errors import (
    AccessError,
    DataflowError,
    ExistsError,
    NotFoundError,
    QuotaError,
    UnknownCommandError,
    UsageError,
)
from ..p9.tree import Context, Node, SessionScope
from .identity import author_of, may_use, owner_of
from .keeper import Keeper

LEASE = 300.0  # seconds a transaction outlives the last connection that used it
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients may hold; `set_author` lets them name another author (not committer)."""

    transactions: int = 1024
    transactions_per_owner: int = 256
    octets: int = 2 << 30
    octets_per_owner: int = 1 << 30
    lease: float = LEASE
    lease_max: float = 7 * 86400.0
    set_author: bool = True


class Lease:
    """One transaction by its name."""

    def __init__(
        self, limits: Limits, transaction: Transaction, owner: str, clock: Callable[[], float]
    ) -> None:
        self.transaction = transaction
        self.owner = owner
        self.seconds = limits.lease
        self.times: dict[tuple[bytes, ...], int] = {}  # of files written, ns
        self.number = next(_numbers)
        self.node: Node | None = None  # the directory that shows it, kept for its control files
        self._limits = limits
        self._clock = clock  # of the day; leases run by the loop's
        self._loop = asyncio.get_running_loop()
        self._from_use = False  # the lease runs from the last use, not from the last connection
        self.opened_ns = self.now_ns()
        self._opened = self._used = self._loop.time()
        self._users: dict[SessionScope, Callable[[], object]] = {}
        self.idle: Callable[[], object] = lambda: None  # called when its last connection ends
        self._timer: asyncio.TimerHandle | None = None

    def now_ns(self) -> int:
        """Return the present time in nanoseconds."""
        return int(self._clock() * 1e9)

    def use(self, session: SessionScope) -> None:
        """Keep the transaction while `session` lives."""
        if session not in self._users:
            left = self._users[session] = functools.partial(self._left, session)
            session.on_close(left)

    def used(self) -> None:
        """Note an edit."""
        self._used = self._loop.time()

    def renew(self, seconds: float | None = None) -> None:
        """Begin the lease anew; with `seconds`, from now on that many after the last use."""
        if seconds is not None:
            if not 0 < seconds <= self._limits.lease_max:
                raise UsageError(f"lease: expected 1 to {self._limits.lease_max:.0f} seconds")
            self.seconds = seconds
            self._from_use = True
        self.used()
        self._arm()

    def deadline(self) -> float:
        """Return when it ends, by the loop's clock; infinity while a connection keeps it."""
        if self._users and not self._from_use:
            return math.inf
        return self._used + self.seconds

    def _left(self, session: SessionScope) -> None:
        self._users.pop(session, None)
        if not self._from_use:
            self.used()
        self._arm()
        if not self._users and not self.transaction.closed:
            self.idle()

    def describe(self, name: str) -> kept.Kept:
        """Return what is to be known of it after a restart."""
        t, seconds = self.transaction, self.seconds
        return kept.keep(t, name, self.owner, seconds, self._from_use, self.opened_ns)

    def revive(self, what: kept.Kept) -> None:
        """Go on with what was kept: its lease begins anew."""
        self.seconds, self._from_use = what.lease, what.from_use
        self.opened_ns = what.opened_ns
        self._opened -= max(0.0, (self.now_ns() - what.opened_ns) / 1e9)
        self._arm()

    def _arm(self) -> None:
        """Have a timer that rings at the deadline or before."""
        deadline = self.deadline()
        if self.transaction.closed or deadline == math.inf:
            return
        if self._timer is not None:
            if self._timer.when() <= deadline:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(deadline, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._loop.time() >= self.deadline():
            self.transaction.close()
            if not self.transaction.closed:  # a commit runs; if it fails, the lease runs again
                self._used = self._loop.time() + 1
        self._arm()

    def end(self) -> None:
        """Forget the connections and the clock: the transaction is closed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for session, left in self._users.items():
            session.forget(left)
        self._users.clear()

    def text(self) -> str:
        """Return what is known of it, a word and its value a line."""
        now = self._loop.time()
        left = self.deadline() - now
        opened = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.opened_ns / 1e9))
        facts = {
            "owner": self.owner,
            "author": self.transaction.author or self.transaction.engine.author,
            "opened": opened,
            "age": f"{now - self._opened:.0f}",
            "idle": f"{now - self._used:.0f}",
            "connections": len(self._users),
            "lease": f"{self.seconds:.0f}",
            "left": "-" if left == math.inf else f"{max(0.0, left):.0f}",
            "octets": self.transaction.held,
        }
        return "".join(f"{name} {value}\n" for name, value in facts.items())

    async def control(self, command: str) -> str:
        """Carry out what was written to `ctl`: commit, close, renew, lease=SECONDS."""
        if command == "commit":
            return (await self.transaction.commit()).head + "\n"
        if command == "close":
            self.transaction.close()
        elif command == "renew":
            self.renew()
        elif command.startswith("lease="):
            try:
                self.renew(float(command[6:]))
            except ValueError:
                raise UsageError(f"lease: expected seconds, found {command[6:]!r}") from None
        else:
            raise UnknownCommandError(command)
        return ""


class Leases:
    """All open transactions of one repository, by branch and name."""

    def __init__(self, repo: Repository, limits: Limits) -> None:
        self.limits = limits
        self._repo = repo
        self._open: dict[tuple[str, str], Lease] = {}
        self._all = Budget(limits.octets)
        self._budgets: dict[str, tuple[Budget, set[tuple[str, str]]]] = {}
        self._keeper = Keeper(repo)
        self._restored = False
        repo.before_close(self._save_all)

    def restore(self) -> None:
        """Open again, once, what a server before us kept; blocking, for the start."""
        if self._restored:
            return
        self._restored = True
        for what, tree in self._keeper.begin(self.limits.transactions):
            with contextlib.suppress(DataflowError):
                lease = self._make((what.branch, what.name), what.owner)
                kept.revive(lease.transaction, what, tree)
                lease.revive(what)

    async def save(self, lease: Lease) -> None:
        """Make an open transaction durable as it is now: it survives the server."""
        for (_, name), found in list(self._open.items()):
            if found is lease:
                await self._keeper.save(lease.transaction, lease.describe(name))

    async def _save_all(self) -> None:
        for (_, name), lease in list(self._open.items()):
            lease.end()
            await self._keeper.save(lease.transaction, lease.describe(name))
        await self._keeper.end()

    def of(self, branch: str) -> dict[str, Lease]:
        """Return the open transactions of a branch by name."""
        self.restore()
        return {name: lease for (at, name), lease in self._open.items() if at == branch}

    def open(self, branch: str, name: str, ctx: Context) -> Lease:
        """Open a transaction; `ExistsError`, `QuotaError`."""
        self.restore()
        key = (branch, name)
        if key in self._open:
            raise ExistsError(name)
        lease = self._make(key, owner_of(ctx))
        author = author_of(ctx)
        lease.transaction.author = lease.transaction.committer = author
        lease.use(ctx.session)
        return lease

    def _make(self, key: tuple[str, str], owner: str) -> Lease:
        limits, what = self.limits, "open transactions"
        if len(self._open) >= limits.transactions:
            raise QuotaError(1, len(self._open), limits.transactions, what)
        found = self._budgets.get(owner)
        budget, mine = found or (Budget(limits.octets_per_owner, self._all), set())
        if len(mine) >= limits.transactions_per_owner:
            raise QuotaError(1, len(mine), limits.transactions_per_owner, f"{what} of {owner}")
        transaction = self._repo.branch(key[0]).transaction(room=budget)
        transaction.on_close(lambda: self._closed(key))
        lease = self._open[key] = Lease(limits, transaction, owner, self._repo.engine.clock)
        lease.idle = lambda: self._keeper.later(transaction, lease.describe(key[1]))
        self._budgets[owner] = (budget, mine)
        mine.add(key)
        return lease

    def find(self, branch: str, name: str) -> Lease:
        """Return an open transaction; `NotFoundError`."""
        self.restore()
        lease = self._open.get((branch, name))
        if lease is None:
            raise NotFoundError(name)
        return lease

    def check(self, lease: Lease, ctx: Context) -> None:
        """Note that a client uses a transaction, or refuse: `AccessError`."""
        if not may_use(ctx, lease.owner):
            raise AccessError(f"Permission denied: the transaction belongs to {lease.owner}")
        if not lease.transaction.closed:
            lease.use(ctx.session)

    def _closed(self, key: tuple[str, str]) -> None:
        lease = self._open.pop(key)
        lease.end()
        self._keeper.drop(*key)
        _, mine = self._budgets[lease.owner]
        mine.discard(key)
        if not mine:
            del self._budgets[lease.owner]
