"""Debian packages for an ordinary user: what a name stands for, and its .deb file.

Everything goes through apt's own programs, which know the lists, mirrors and signatures of this
machine; `apt-get download` needs no root.  A .deb that apt has already, or that we fetched before,
is not fetched again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from .cache import Cache, replace

Progress = Callable[
    [str, int, int], None
]  # what is being done, bytes or steps done, and of how many

_ARCHIVES = Path("/var/cache/apt/archives")
_KERNEL = re.compile(r"linux-(image|modules|modules-extra|image-unsigned)-\d")
_LIBRARY = re.compile(r"lib[a-z0-9]")


@dataclass(frozen=True, slots=True)
class Package:
    """One version of one package, as the lists describe it."""

    name: str
    version: str
    architecture: str
    sha256: str
    size: int
    depends: tuple[str, ...]  # of alternatives, only the first

    @property
    def file_name(self) -> str:
        """The name apt gives the .deb (a colon in the version is written %3a)."""
        return f"{self.name}_{self.version.replace(':', '%3a')}_{self.architecture}.deb"


def parse_record(text: str) -> Package:
    """Read one record of `apt-cache show` (deb-control(5))."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        if line[:1].isspace() or ":" not in line:
            continue
        key, _, value = line.partition(":")
        fields.setdefault(key, value.strip())
    try:
        return Package(
            fields["Package"],
            fields["Version"],
            fields["Architecture"],
            fields["SHA256"],
            int(fields["Size"]),
            tuple(_first_alternatives(fields)),
        )
    except (KeyError, ValueError) as error:
        raise UsageError(f"apt-cache shows a record without a good {error} field") from None


def _first_alternatives(fields: dict[str, str]) -> Iterator[str]:
    for clause in f"{fields.get('Pre-Depends', '')},{fields.get('Depends', '')}".split(","):
        words = clause.split("|")[0].split()
        if words:
            yield words[0].partition(":")[0]


class Apt:
    """The package lists of this machine.

    apt-cache takes half a second for a name, so what it said is kept in `memory` until the lists
    change.
    """

    def __init__(self, memory: Path) -> None:
        if shutil.which("apt-cache") is None or shutil.which("apt-get") is None:
            raise UsageError("apt is not here: images are built from Debian or Ubuntu packages")
        self._memory = memory
        self._stamp = _lists_stamp()
        self._records: dict[str, str] = _remembered(memory, self._stamp)
        self._known: dict[str, Package] = {}

    def show(self, name: str) -> Package:
        """Return the candidate version of package `name`."""
        if name not in self._known:
            if name not in self._records:
                self._records[name] = self._record(name)
                self._remember()
            self._known[name] = parse_record(self._records[name])
        return self._known[name]

    def kernel(self, name: str) -> list[Package]:
        """Return the packages with kernel and modules that `name`, maybe a meta-package, means."""
        return [p for p in self._closure([name], _KERNEL) if _KERNEL.match(p.name)]

    def with_libraries(self, names: Iterable[str]) -> list[Package]:
        """Return packages `names` and the shared libraries they need, not their other wishes."""
        return list(self._closure(names, _LIBRARY))

    def _closure(self, names: Iterable[str], follow: re.Pattern[str]) -> Iterator[Package]:
        queue = list(names)
        seen = set(queue)
        while queue:
            package = self.show(queue.pop(0))
            yield package
            for other in package.depends:
                if other not in seen and follow.match(other):
                    seen.add(other)
                    queue.append(other)

    def _remember(self) -> None:
        self._memory.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"stamp": self._stamp, "records": self._records})
        replace(self._memory, text.encode())

    def _record(self, name: str) -> str:
        if not re.fullmatch(r"[a-z0-9][a-z0-9+.-]*(:[a-z0-9]+)?", name):
            raise UsageError(f"{name!r} is no package name")
        done = _run(["apt-cache", "--no-all-versions", "show", name])
        if done.returncode == 0 and "SHA256:" in done.stdout:
            return done.stdout
        hint = "check the name"
        if not any(Path("/var/lib/apt/lists").glob("*Packages*")):
            hint = "there are no package lists: run apt-get update"
        raise UsageError(f"apt knows no package {name}: {hint}")


def _lists_stamp() -> list[int]:
    """Return what changes when apt-get update or a change of sources or pins took effect."""
    places = ("/var/lib/apt/lists", "/etc/apt", "/etc/apt/sources.list.d", "/etc/apt/preferences.d")
    files = (f for place in places for f in sorted(Path(place).glob("*")) if f.is_file())
    return [f.stat().st_mtime_ns for f in files]


def _remembered(memory: Path, stamp: list[int]) -> dict[str, str]:
    try:
        data = json.loads(memory.read_text())
        records = data["records"] if data["stamp"] == stamp else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {str(name): str(record) for name, record in records.items()}


def fetch(package: Package, cache: Cache, progress: Progress) -> Path:
    """Return the path of the package's .deb, checked against the lists, fetching it if need be."""
    local = _ARCHIVES / package.file_name
    if local.is_file() and os.access(local, os.R_OK) and sha256(local) == package.sha256:
        return local
    target = cache.debs / package.sha256
    with cache.locked(package.sha256[:32]):
        if not (target / package.file_name).is_file():
            with cache.publishing(target) as fresh:
                _download(package, fresh, progress)
    return target / package.file_name


def _download(package: Package, directory: Path, progress: Progress) -> None:
    command = ["apt-get", "-q", "-o", "Dpkg::Use-Pty=0"]
    if os.geteuid() == 0:  # the sandbox user cannot write here, which apt would warn about
        command += ["-o", "APT::Sandbox::User=root"]
    command += ["download", f"{package.name}={package.version}"]
    with tempfile.TemporaryFile("w+") as log:
        child = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log, env=_environment())
        while _still_runs(child):
            done = sum(p.stat().st_size for p in directory.glob("*") if p.is_file())
            progress(f"fetching {package.name}", min(done, package.size), package.size)
        log.seek(0)
        reason = _last_error(log.read())
    found = directory / package.file_name
    if child.returncode or not found.is_file():
        raise UsageError(
            f"cannot fetch {package.name} {package.version}: {reason}; "
            "check the network and run apt-get update"
        )
    if sha256(found) != package.sha256:
        raise UsageError(f"{package.file_name} is not what the package lists promise")
    progress(f"fetching {package.name}", package.size, package.size)


def _still_runs(child: subprocess.Popen[bytes]) -> bool:
    try:
        child.wait(0.2)
    except subprocess.TimeoutExpired:
        return True
    return False


def _last_error(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line[2:].strip() for line in lines if line.startswith("E:")]
    return (errors or lines or ["no message"])[0]


def unpack(deb: Path, into: Path) -> Path:
    """Write the files of a .deb, still as one tar archive without compression; return its path."""
    if shutil.which("dpkg-deb") is None:
        raise UsageError("dpkg-deb is not here: install dpkg")
    path = into / "data.tar"
    with open(path, "wb") as out:
        done = subprocess.run(
            ["dpkg-deb", "--fsys-tarfile", str(deb)],
            stdout=out,
            stderr=subprocess.PIPE,
            check=False,
        )
    if done.returncode:
        raise UsageError(f"cannot read {deb.name}: {_last_error(done.stderr.decode())}")
    return path


def sha256(path: Path) -> str:
    """Return the SHA-256 digest of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C"}
