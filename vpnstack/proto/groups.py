"""The host side of group membership, the same for IGMP and MLD (RFC 3376 5, RFC 3810 6).

A host that joins says so, a few times in case a report is lost; it answers queries after a
random delay; a query of an older version makes it speak that version for a while (RFC 3376 7.2,
RFC 3810 8.2).  Groups are taken from any source, as in the lightweight variant of RFC 5790:
filters by source are not kept.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from ..wire.igmp import Mode, Record


@dataclass(frozen=True, slots=True)
class Config:
    """Constants of RFC 3376 8 and RFC 3810 9 in seconds; `newest` is the version we prefer."""

    newest: int
    robustness: int = 2
    unsolicited_interval: float = 1.0
    query_interval: float = 125.0
    groups_max: int = 64
    pending_max: int = 64  # sources remembered of a query, RFC 3376 5.2 (5)


@dataclass(frozen=True, slots=True)
class Transmit:
    """Send `records` in a report of `version`; before the newest there is one record in each."""

    version: int
    records: tuple[Record, ...]


@dataclass(slots=True)
class _Group:
    users: int = 1
    changes: int = 0  # state-change reports still to be sent
    change_at: float = 0.0
    answer_at: float | None = None
    sources: tuple[bytes, ...] = ()  # that the pending answer is about; none: the whole group
    reported: bool = False  # we were the last to report it: we must say that we leave


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters since the start."""

    groups: int = 0
    queries: int = 0
    reports: int = 0
    suppressed: int = 0


class Groups:
    """The groups of one interface and one family."""

    def __init__(self, config: Config, rng: random.Random) -> None:
        self.config = config
        self.robustness = config.robustness
        self._rng = rng
        self._table: dict[bytes, _Group] = {}
        self._leaving: dict[bytes, _Group] = {}
        self._older: dict[int, float] = {}  # version: until when its querier counts
        self._general_at: float | None = None
        self._queries = self._reports = self._suppressed = 0

    def __contains__(self, group: object) -> bool:
        return group in self._table

    def __len__(self) -> int:
        return len(self._table)

    def join(self, group: bytes, now: float) -> bool:
        """Count one more user of `group`; False when there is no room for another group."""
        entry = self._table.get(group)
        if entry is not None:
            entry.users += 1
            return True
        if len(self._table) >= self.config.groups_max:
            return False
        self._leaving.pop(group, None)
        self._table[group] = _Group(changes=self.robustness, change_at=now)
        return True

    def leave(self, group: bytes, now: float) -> None:
        """Count one user less; the last one's leaving is told."""
        entry = self._table.get(group)
        if entry is None:
            return
        entry.users -= 1
        if entry.users:
            return
        del self._table[group]
        if len(self._leaving) < self.config.groups_max:
            self._leaving[group] = _Group(
                0, self.robustness, now, reported=entry.reported or entry.changes > 0
            )

    def repeat(self, now: float) -> None:
        """Tell all groups again: what was said before we had an address is not believed."""
        for entry in self._table.values():
            entry.changes, entry.change_at = self.robustness, now

    def version(self, now: float) -> int:
        """Return the version to speak: the oldest whose querier was heard lately."""
        alive = [version for version, until in self._older.items() if until > now]
        return min(alive, default=self.config.newest)

    def receive_query(
        self, group: bytes | None, sources: tuple[bytes, ...], max_response: float, version: int,
        now: float, robustness: int = 0,
    ) -> None:  # fmt: skip
        """Take a query; `group` is None in a general one."""
        self._queries += 1
        config = self.config
        if robustness:
            self.robustness = min(robustness, 7)
        if version < config.newest:
            heard = self.robustness * config.query_interval + max_response
            self._older[version] = now + heard
            for entry in self._table.values():
                entry.changes = min(entry.changes, 1)
        at = now + self._rng.uniform(0, max_response)
        # RFC 3376 5.2 (1): an answer to all that comes sooner is enough.
        if self._general_at is not None and self._general_at <= at:
            return
        if group is None and self.version(now) < config.newest:
            for entry in self._table.values():  # RFC 2236 3: a delay for each, to be suppressed
                self._asked(entry, (), now + self._rng.uniform(0, max_response))
        elif group is None:
            self._general_at = at
        elif group in self._table:
            self._asked(self._table[group], sources, at)

    def _asked(self, entry: _Group, sources: tuple[bytes, ...], at: float) -> None:
        pending = entry.answer_at is not None
        if not sources or (pending and not entry.sources):  # (3) and (4)
            entry.sources = ()
        else:
            entry.sources = tuple(dict.fromkeys(entry.sources + sources))[: self.config.pending_max]
        entry.answer_at = min(at, entry.answer_at) if entry.answer_at is not None else at

    def receive_report(self, group: bytes, now: float) -> None:
        """Another host reported `group` in an old version: ours is not needed (RFC 2236 3)."""
        entry = self._table.get(group)
        if entry is not None and self.version(now) < self.config.newest:
            if entry.answer_at is not None or entry.changes:
                self._suppressed += 1
            entry.answer_at, entry.changes, entry.reported = None, 0, False

    def transmit(self, now: float) -> list[Transmit]:
        """Return the reports that are due."""
        version = self.version(now)
        records = self._changed(version, now) + self._answers(now)
        self._reports += len(records)
        if version == self.config.newest:
            return [Transmit(version, tuple(records))] if records else []
        return [Transmit(version, (record,)) for record in records]

    def _changed(self, version: int, now: float) -> list[Record]:
        records = []
        for group, entry in self._table.items():
            if entry.changes and entry.change_at <= now:
                records.append(Record(Mode.TO_EXCLUDE, group))
                entry.reported = True
                self._again(entry, now)
        for group, entry in list(self._leaving.items()):
            if entry.change_at <= now:
                if version == self.config.newest or entry.reported:
                    records.append(Record(Mode.TO_INCLUDE, group))
                self._again(entry, now)
                if not entry.changes or version < self.config.newest:
                    del self._leaving[group]
        return records

    def _again(self, entry: _Group, now: float) -> None:
        entry.changes -= 1
        entry.change_at = now + self._rng.uniform(0, self.config.unsolicited_interval)

    def _answers(self, now: float) -> list[Record]:
        everything = self._general_at is not None and self._general_at <= now
        if everything:
            self._general_at = None
        records = []
        for group, entry in self._table.items():
            own = entry.answer_at is not None and entry.answer_at <= now
            if not own and not everything:
                continue
            # RFC 3376 5.2: of the sources asked for we want all.
            some = entry.sources and not everything
            mode = Mode.IS_INCLUDE if some else Mode.IS_EXCLUDE
            records.append(Record(mode, group, entry.sources if some else ()))
            entry.answer_at, entry.sources, entry.reported = None, (), True
        return records

    def deadline(self) -> float | None:
        """Return when `transmit` has something to do next."""
        times = [e.change_at for e in self._table.values() if e.changes]
        times += [e.answer_at for e in self._table.values() if e.answer_at is not None]
        times += [e.change_at for e in self._leaving.values()]
        if self._general_at is not None and self._table:
            times.append(self._general_at)
        return min(times, default=None)

    def statistics(self) -> Statistics:
        """Return a snapshot of the counters."""
        return Statistics(len(self._table), self._queries, self._reports, self._suppressed)
