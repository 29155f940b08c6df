"""A group's objects as one small pack: two new files, where loose objects are one each.

Theory of operation.  A new file costs a file system more than all that is done with it, so what
sixteen commits wrote goes into a pack (gitformat-pack) of its own, if there is enough of it.  The
journal's record has the octets of the pack and of its index; they become files as loose objects do:
written under temporary names, without a sync, named once the record is durable, written again by
`recovery` if a power cut took them.  The packer takes such packs apart, makes deltas, and puts
their objects into larger packs; when it cannot keep up, or does not run, groups are written loose.

`git repack -a -d` drops what is in a pack and not reachable.  It leaves packs alone that have a
`.keep` beside them; so there is one, from before the pack is named until references lead to it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter

from dulwich.pack import write_pack_index_v2

from .base import Kind, Oid
from .loose import deflate, write_all
from .packfile import entry_header

_counter = itertools.count()
_HEADER = struct.Struct(">4sII")
_SHA_LEN = 20
_INDEX = b"\377tOc\0\0\0\2"
_TABLES = len(_INDEX) + 1024  # where they begin, behind the fan-out


@dataclass(frozen=True, slots=True)
class GroupPack:
    """The octets of a pack and of its index, version 2."""

    octets: bytes
    index: bytes

    @property
    def name(self) -> str:
        """Its name without suffix, as git names packs."""
        return f"pack-{self.octets[-_SHA_LEN:].hex()}"

    @property
    def oids(self) -> Sequence[Oid]:
        """What is in it, in the order of ids; `ValueError` if the index is none of a pack."""
        return [oid.hex() for oid, _ in self._entries()]

    def _entries(self) -> list[tuple[bytes, int]]:
        """Return ids with where their objects are."""
        count, rest = divmod(len(self.index) - _TABLES - 2 * _SHA_LEN, _SHA_LEN + 8)
        if count < 0 or rest or not self.index.startswith(_INDEX):
            raise ValueError("expected the index of a small pack")
        offsets = struct.unpack_from(f">{count}I", self.index, _TABLES + count * (_SHA_LEN + 4))
        ids = self.index[_TABLES : _TABLES + count * _SHA_LEN]
        return [(ids[_SHA_LEN * i : _SHA_LEN * (i + 1)], at) for i, at in enumerate(offsets)]

    def objects(self) -> Iterator[tuple[Oid, Kind, bytes]]:
        """Take apart what `build` made; `ValueError` or `zlib.error` if this is something else."""
        entries = sorted(self._entries(), key=itemgetter(1))
        ends = [*(at for _, at in entries), len(self.octets) - _SHA_LEN][1:]
        for (oid, at), end in zip(entries, ends, strict=True):
            raw = self.octets[at:end]
            start = next((i for i, octet in enumerate(raw) if octet < 0x80), 0)
            yield oid.hex(), Kind(raw[0] >> 4 & 7), zlib.decompress(raw[start + 1 :])


def build(objects: Iterable[tuple[Oid, Kind, bytes]]) -> GroupPack:
    """Make a pack of different objects, each whole."""
    parts, entries, at = [b""], [], _HEADER.size
    for oid, kind, data in objects:
        level = 0 if kind is Kind.TREE else 1  # mostly hashes; the packer makes deltas of them
        raw = entry_header(kind, len(data)) + deflate(data, level)
        entries.append((bytes.fromhex(oid), at, zlib.crc32(raw)))
        parts.append(raw)
        at += len(raw)
    parts[0] = _HEADER.pack(b"PACK", 2, len(entries))
    octets = b"".join(parts)
    checksum = hashlib.sha1(octets, usedforsecurity=False).digest()
    index = io.BytesIO()
    write_pack_index_v2(index, sorted(entries), checksum)
    return GroupPack(octets + checksum, index.getvalue())


class StagedPack:
    """A pack under temporary names: `publish` and then `release`, or `abort`."""

    def __init__(self, directory: str, pack: GroupPack) -> None:
        os.makedirs(directory, exist_ok=True)
        self.path = f"{directory}/{pack.name}"
        unique = f"{os.getpid():x}_{next(_counter):x}"
        self._moves = [
            (f"{directory}/tmp_pack_{unique}", self.path + ".pack", pack.octets),
            (f"{directory}/tmp_idx_{unique}", self.path + ".idx", pack.index),
        ]
        try:
            for temporary, _, octets in self._moves:
                _write(temporary, octets)
        except BaseException:
            self.abort()
            raise

    def publish(self) -> None:
        """Give it its name, which `git repack` leaves alone until `release`."""
        _keep(self.path, self._moves[1][0])
        self.name()

    def name(self) -> None:
        """Give it its name: the pack first, for it counts only with its index."""
        for temporary, path, _ in self._moves:
            os.rename(temporary, path)
        self._moves.clear()

    def release(self) -> None:
        """Let `git repack` have it: references lead to it, or never will."""
        release(self.path)

    def abort(self) -> None:
        """Remove what was not published."""
        for temporary, _, _ in self._moves:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        self._moves.clear()


def release(path: str) -> None:
    """Remove the `.keep` of the pack `path`, without suffix."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path + ".keep")


def load(path: str) -> GroupPack | None:
    """Read the pack `path`, without suffix; None if it, or its index, is not there."""
    try:
        with open(path + ".pack", "rb") as pack, open(path + ".idx", "rb") as index:
            return GroupPack(pack.read(), index.read())
    except FileNotFoundError:
        return None


def _keep(path: str, other: str) -> None:
    """Make the `.keep`, if possible as another name of a file that is there: that costs least."""
    try:
        os.link(other, path + ".keep")
    except FileExistsError:
        pass
    except OSError:
        _write(path + ".keep", b"")


def _write(path: str, octets: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    fd = os.open(path, flags, 0o444)
    try:
        write_all(fd, octets)
    finally:
        os.close(fd)
