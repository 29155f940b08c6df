"""Kernel modules: what a module says of itself, and which others it needs.

Kernel packages carry no modules.dep (depmod makes it when the package is installed), so the
`.modinfo` section of the modules themselves is read: NUL-separated `key=value` strings, of which
`depends=`, `softdep=` and `alias=` matter here.
"""

from __future__ import annotations

import gzip
import lzma
import posixpath
import shutil
import struct
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ..errors import UsageError

_SHDR = struct.Struct("<IIQQQQIIQQ")
SUFFIXES = (".ko", ".ko.xz", ".ko.gz", ".ko.zst")


@dataclass(frozen=True, slots=True)
class Info:
    """What one module's `.modinfo` says; names have underscores, never dashes."""

    depends: tuple[str, ...] = ()
    soft: tuple[str, ...] = ()  # wanted first, by module name or alias, if there is such a one
    aliases: tuple[str, ...] = ()


def name_of(path: str) -> str:
    """Return the name of the module in file `path`, as /proc/modules would show it."""
    return posixpath.basename(path).partition(".")[0].replace("-", "_")


def decompress(path: str, data: bytes) -> bytes:
    """Return the ELF file in `data`, which was stored under the name `path`."""
    if path.endswith(".xz"):
        return lzma.decompress(data)
    if path.endswith(".gz"):
        return gzip.decompress(data)
    if path.endswith(".zst"):
        if shutil.which("zstd") is None:
            raise UsageError(f"{posixpath.basename(path)} needs zstd: run apt-get install zstd")
        done = subprocess.run(["zstd", "-dc"], input=data, capture_output=True, check=False)
        if done.returncode:
            raise UsageError(f"zstd cannot read {path}: {done.stderr.decode().strip()}")
        return done.stdout
    return data


def modinfo(elf: bytes) -> Info:
    """Return what the ELF module `elf` says of itself; raise `UsageError` when it is none."""
    depends: list[str] = []
    soft: list[str] = []
    aliases: list[str] = []
    for item in _section(elf, b".modinfo").split(b"\0"):
        key, _, value = item.decode("utf-8", "replace").partition("=")
        if key == "depends" and value:
            depends += value.split(",")
        elif key == "softdep":
            soft += _pre(value)
        elif key == "alias":
            aliases.append(value)
    return Info(tuple(map(name_of, depends)), tuple(soft), tuple(aliases))


def _pre(softdep: str) -> Iterator[str]:
    """Yield the modules after "pre:"; those after "post:" are somebody else's wish."""
    active = False
    for word in softdep.split():
        if word.endswith(":"):
            active = word == "pre:"
        elif active:
            yield word


def _section(elf: bytes, wanted: bytes) -> bytes:
    """Return the contents of the section named `wanted`, empty where there is none."""
    if len(elf) < 64 or elf[:5] != b"\x7fELF\x02":
        raise UsageError("not a 64-bit ELF kernel module")
    (table,) = struct.unpack_from("<Q", elf, 40)
    count, names_at = struct.unpack_from("<HH", elf, 60)
    if names_at >= count or table + count * _SHDR.size > len(elf):
        raise UsageError("the module's section headers run past its end")
    rows = [_SHDR.unpack_from(elf, table + i * _SHDR.size) for i in range(count)]
    names = elf[rows[names_at][4] : rows[names_at][4] + rows[names_at][5]]
    for row in rows:
        if names[row[0] : row[0] + len(wanted) + 1] == wanted + b"\0":
            return elf[row[4] : row[4] + row[5]]
    return b""


class Index:
    """All modules of one kernel, by name, and what each needs."""

    def __init__(self, infos: Mapping[str, Info], builtin: Iterable[str] = ()) -> None:
        self.infos = infos
        self.builtin = frozenset(builtin)
        # The last entry wins: of several that serve (crc32c), the first by name, the generic one.
        rows = [(a, name) for name in sorted(infos, reverse=True) for a in infos[name].aliases]
        self._by_alias = dict(rows)

    def __contains__(self, name: str) -> bool:
        return name_of(name) in self.infos or name_of(name) in self.builtin

    def closure(self, wanted: Iterable[str]) -> list[str]:
        """Return `wanted` and everything they need, dependencies first.

        What is built into the kernel needs no loading and is left out.  Raises `UsageError` for a
        module that this kernel does not have at all.
        """
        order: dict[str, None] = {}
        for name in wanted:
            self._visit(name_of(name), order, ())
        return list(order)

    def _visit(self, name: str, order: dict[str, None], path: tuple[str, ...]) -> None:
        if name in order or name in self.builtin or name in path:  # soft dependencies may circle
            return
        if name not in self.infos:
            whose = f" (needed by {path[-1]})" if path else ""
            raise UsageError(f"this kernel has no module {name}{whose}: check the spelling")
        for other in self._needs(name):
            self._visit(other, order, (*path, name))
        order[name] = None

    def _needs(self, name: str) -> Iterator[str]:
        info = self.infos[name]
        for soft in info.soft:
            known = name_of(soft) if name_of(soft) in self.infos else self._by_alias.get(soft)
            if known is not None:
                yield known
        yield from info.depends

    def modules_dep(self, names: Iterable[str]) -> bytes:
        """Return the text of a modules.dep for the flat directory of modules that images have.

        As depmod's, a line lists the nearest dependency first: modprobe loads from its end.
        """
        needed = {name: self.closure([name])[-2::-1] for name in names}
        return "".join(
            f"{name}.ko:{''.join(f' {n}.ko' for n in needs)}\n" for name, needs in needed.items()
        ).encode()

    def modules_alias(self, names: Iterable[str]) -> bytes:
        """Return the text of a modules.alias, by which the kernel and coldplug ask for modules."""
        return "".join(
            f"alias {alias} {name}\n" for name in names for alias in self.infos[name].aliases
        ).encode()
