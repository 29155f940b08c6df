"""The files of a guest's initramfs: packages, busybox and its names, modules, ours and the user's.

The root is merged (`/bin`, `/lib` ... lead into `/usr`), so packages from before and after that
change of layout land in the same places.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path

from ..errors import UsageError
from .cpio import Entry, normal

MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_TOP = re.compile(rf"^({'|'.join(MERGED)})(?=/)")
_USELESS = re.compile(
    r"usr/(share/(doc|man|info|locale|lintian|bug|bash-completion|perl5)|include|lib/systemd)(/|$)"
)
_APPLETS_IN_SBIN = ("modprobe", "insmod", "hotplug", "init", "poweroff", "reboot")
_OURS = {  # what stands beside this file, and where a guest has it
    "setup.sh": "usr/lib/trikit/setup.sh",
    "udhcpc.sh": "etc/udhcpc/default.script",
}
_DIRECTORIES = (
    "dev",
    "etc",
    "mnt",
    "proc",
    "root",
    "run",
    "sys",
    "tmp",
    "usr/bin",
    "usr/sbin",
    "var/run",
)


def script(name: str) -> bytes:
    """Return one of the guest scripts that are part of this package."""
    return (resources.files(__package__) / name).read_bytes()


def skeleton(init: bytes | None = None) -> Iterator[Entry]:
    """Yield directories, the links of a merged root, our scripts and `/init`."""
    yield from (Entry.directory(name) for name in _DIRECTORIES)
    for name in MERGED:
        yield Entry.directory(f"usr/{name}")
        yield Entry.symlink(name, f"usr/{name}")
    yield from (Entry.file(path, script(name), 0o755) for name, path in _OURS.items())
    yield Entry.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    yield Entry.file("etc/group", b"root:x:0:\n")
    yield Entry.file("etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n")
    yield Entry.file("etc/acpi/PWRF/00000080", b"#!/bin/sh\nsync\npoweroff -f\n", 0o755)
    yield Entry.file("init", init if init is not None else script("init.sh"), 0o755)


def from_package(tar: Path) -> Iterator[Entry]:
    """Yield the files of a package's tar archive that a guest can use."""
    with tarfile.open(tar) as archive:
        for member in archive:
            name = merged(member.name)
            if name and not _USELESS.match(name):
                yield from _from_member(archive, member, name)


def _from_member(archive: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> Iterator[Entry]:
    if member.isdir():
        yield Entry.directory(name, member.mode)
    elif member.issym():
        yield Entry.symlink(name, member.linkname)
    elif member.isfile() or member.islnk():  # of a hard link, the contents
        data = archive.extractfile(member)
        if data is not None:
            yield Entry.file(name, data.read(), member.mode)


def merged(name: str) -> str:
    """Return where a package's file lies in a merged root, without a slash in front."""
    path = name.lstrip("./")
    return "" if path in {"", *MERGED} else _TOP.sub(r"usr/\1", normal(path))


def applets(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Yield a link for every program that the busybox among `entries` can be."""
    busybox = next((e for e in entries if e.name == "usr/bin/busybox"), None)
    if busybox is None:
        raise UsageError("the busybox package has no /bin/busybox")
    for name in list_applets(busybox.data):
        yield Entry.symlink(f"usr/bin/{name}", "busybox")
    yield from (Entry.symlink(f"usr/sbin/{n}", "../bin/busybox") for n in _APPLETS_IN_SBIN)


def list_applets(program: bytes) -> list[str]:
    """Return the names in the busybox `program`: NUL-separated, sorted, in one run from "[" on."""
    start = program.find(b"\0[\0[[\0")
    if start < 0:
        raise UsageError("found no list of applets in busybox")
    names = program[start + 1 : program.index(b"\0\0", start)].split(b"\0")
    return [name.decode() for name in names]


def users(files: Mapping[str, bytes]) -> Iterator[Entry]:
    """Yield the user's own files; scripts and ELF programs may be executed."""
    for name, data in files.items():
        program = data[:2] == b"#!" or data[:4] == b"\x7fELF"
        yield Entry.file(merged(name), data, 0o755 if program else 0o644)
