"""Work of a guest on a mounted directory by virtio, in each of the kernel's cache modes.

For tests/kvm (our own device) and tests/compat (QEMU's).
"""

from __future__ import annotations

import hashlib
import os
import random
import tarfile
from collections.abc import Sequence
from pathlib import Path

from vsock_scenarios import command

from dataflow import Repository
from hypervisor import Machine

MOUNT = "mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000"
CACHES = ("none", "loose", "mmap")
MAPPED = 32 << 10
SIZES = (0, 1, 4096, 70_001, 600_000)  # of files; the last takes two requests

# Run as `sh -e SCRIPT CACHE [qemu]`, where /m/CACHE are the mounts of one directory of the host.
# Few processes and small files: a process costs half a second in the nested machine.
# The probe runs from the mount itself, by a private mapping; a shared one for writing is refused
# by Linux where nothing is cached; QEMU has no fchmod(2) of a file without a name.
WORK = f"""
cd /m/$1
mkdir $1
tar cf $1/out.tar tree more
cd $1
tar xpf out.tar
find tree more -type f -exec sha256sum {{}} + >sums
[ $1 = none ] || more="-- map m {MAPPED}"
[ "$2" = qemu ] || more="$more -- unlinked u"
more="$more -- flocks f f -- locks l l -- empty ../few-$1 9"
/m/$1/probe excl e -- append a -- over o p -- sparse s $more
[ $1 = none ] || sync
"""

# The same for a transaction, where /m/db-CACHE are the mounts of one repository.  Its files are
# paths: one that is removed or replaced is so for who has it open, too.
COMMIT = f"""
t=/m/db-$1/branch/main/transactions/$1
mkdir -p $t
mkdir $t/rw/$1
cd $t/rw/$1
tar xf /m/none/none/out.tar tree
[ $1 = none ] || more="-- map m {MAPPED}"
/m/none/probe excl e -- append a -- flocks f f $more
cd /
echo commit >$t/ctl
"""


def prepare(top: Path, probe: Path) -> dict[str, bytes]:
    """Put a tree, the probe and the script into the directory; return the tree's files."""
    rng = random.Random(9)
    files = {f"tree/d{i % 2}/f{i}": rng.randbytes(size) for i, size in enumerate(SIZES)}
    for name, data in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(data)
        (top / name).chmod(0o640)
    for cache in CACHES:
        (top / f"few-{cache}").mkdir()
        for i in range(9):
            (top / f"few-{cache}/f{i}").touch()
    (top / "tree/link").symlink_to("d0/f0")
    (top / "more").mkdir()
    os.link(top / "tree/d0/f2", top / "more/hard")
    (top / "probe").write_bytes(probe.read_bytes())
    (top / "probe").chmod(0o755)
    (top / "work.sh").write_text(WORK)
    (top / "commit.sh").write_text(COMMIT)
    return files


async def succeed(vm: Machine, line: str) -> str:
    """Run a line in the guest that has to end with status 0; return what it printed."""
    said = await command(vm, f"({line}) 2>&1; echo status=$?")
    printed, _, status = said.partition("status=")
    assert status.startswith("0\n"), said
    return printed


async def mount(vm: Machine) -> None:
    """Mount the share of each mode, which is its tag, on /m/CACHE."""
    await _mount(vm, CACHES, "")
    for line in (await succeed(vm, "grep ' 9p ' /proc/mounts")).splitlines():
        tag, _, _, options = line.split()[:4]
        assert set(CACHES) & set(options.split(",")) == {tag} - {"none"}


async def _mount(vm: Machine, caches: Sequence[str], prefix: str) -> None:
    for cache in caches:
        tag = prefix + cache
        await succeed(vm, f"mkdir -p /m/{tag}; {MOUNT},cache={cache} {tag} /m/{tag}")


async def work(vm: Machine, top: Path, files: dict[str, bytes], server: str = "") -> None:
    """Let the guest work in each mode; the host sees the results as soon as it says so."""
    for cache in CACHES:
        await succeed(vm, f"sh -e /m/none/work.sh {cache} {server}")
        check(top / cache, files)
        if cache != "none":
            assert (top / cache / "m").read_bytes() == pattern(MAPPED), "written by a mapping"


def pattern(size: int) -> bytes:
    """Return what the probe writes through a mapping."""
    return bytes((i // 4096 + i % 4096) * 31 & 255 for i in range(size))


def sums(files: dict[str, bytes]) -> dict[str, str]:
    """Return checksums by name."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def parse_sums(text: str) -> dict[str, str]:
    """Read what sha256sum wrote."""
    return {line[66:]: line[:64] for line in text.splitlines()}


def check(done: Path, files: dict[str, bytes]) -> None:
    """Compare what the script left in its directory with what it was to leave."""
    both = files | {"more/hard": files["tree/d0/f2"]}
    assert parse_sums((done / "sums").read_text()) == sums(both), "found and read in the guest"
    with tarfile.open(done / "out.tar") as tar:
        for name, data in files.items():
            packed = tar.extractfile(name)
            assert packed is not None
            assert same(packed.read(), data), f"{name}: packed onto the mount"
            assert same((done / name).read_bytes(), data), f"{name}: unpacked there"
            assert (done / name).stat().st_mode & 0o7777 == 0o640
    assert os.readlink(done / "tree/link") == "d0/f0"
    assert (done / "tree/d0/f2").samefile(done / "more/hard")
    assert (done / "a").read_text() == "0aabbcc"
    assert (done / "p").read_text() == "Fresh"
    assert not {"u", "o"} & set(os.listdir(done))
    assert not done.with_name(f"few-{done.name}").exists()


def same(found: bytes, expected: bytes) -> bool:
    """Compare, so that a difference is told in no more than a word."""
    return found == expected


async def both_sides(vm: Machine, top: Path) -> None:
    """What the host changes, the guest sees: at once, or where it keeps all after a new mount."""
    (top / "news").write_text("first\n")
    assert await succeed(vm, "cd /m; cat none/news loose/news mmap/news") == "first\n" * 3
    (top / "news").write_text("second and longer\n")
    assert await succeed(vm, "cd /m; cat none/news mmap/news") == "second and longer\n" * 2
    await succeed(vm, "echo late >>/m/loose/late; umount /m/loose")
    assert (top / "late").read_text() == "late\n"


async def locks(vm: Machine) -> None:
    """A lock that is held through one mount keeps others out: one server stands behind all."""
    await succeed(
        vm,
        "cd /m; none/probe flocks none/f mmap/f -- flocks loose/f none/f "
        "-- locks none/l loose/l -- locks mmap/l none/l",
    )


async def commits(vm: Machine, repo: Repository, files: dict[str, bytes]) -> None:
    """Work in transactions, then read what was committed with all caches, for it never changes."""
    branch = repo.branch("main")
    await _mount(vm, CACHES, "db-")
    for cache in ("none", "mmap"):
        await succeed(vm, f"sh -e /m/none/commit.sh {cache}")
        for name, data in files.items():
            assert same(await branch.read(f"{cache}/{name}"), data)
        assert await branch.read(f"{cache}/a") == b"0aabbcc"
    assert await branch.read("mmap/m") == pattern(MAPPED)
    place = f"cd /m/db-loose/snapshots/{branch.head}/ro/mmap"
    said = await succeed(vm, f"{place}; find tree -type f -exec sha256sum {{}} +")
    assert parse_sums(said) == sums(files)
