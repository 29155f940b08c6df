"""Images: a kernel and an initramfs from distribution packages, built once and kept.

    image = build(Spec(packages=("iperf3",)), Cache(directory))
    Machine(kernel=image.kernel, initrd=image.initrd, ...)

The key of an image is a hash of everything that goes into it (packages by their SHA-256, modules,
files, scripts), so an image is rebuilt exactly when something changed.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import platform
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..errors import UsageError
from . import kernel, rootfs
from .apt import Apt, Package, Progress, fetch, unpack
from .cache import Cache
from .cpio import Entry, emit

_FORMAT = 2  # part of the key: raise it when the same inputs give another image
_COMPRESSIONS = ("none", "gzip")


@dataclass(frozen=True, slots=True)
class Spec:
    """What an image is made of.

    `packages` are unpacked into the guest's root with the shared libraries they need; `modules`
    come beside the default ones; `files` maps a path in the guest to its contents; `init` replaces
    the default `/init` (source `/lib/trikit/setup.sh` first for mounts and drivers).
    """

    kernel_package: str | None = None  # None: the distribution's generic kernel
    packages: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    init: bytes | None = None
    compress: str = "none"  # or "gzip": smaller on disk, slower to boot under emulation


@dataclass(frozen=True, slots=True)
class Image:
    """A built image; `directory` holds its files."""

    directory: Path
    key: str
    release: str
    kernel_name: str
    packages: tuple[str, ...]
    modules: tuple[str, ...]
    build_seconds: float

    @property
    def kernel(self) -> Path:
        """An ELF kernel with a PVH entry, or a bzImage where the package has no such one."""
        return self.directory / self.kernel_name

    @property
    def initrd(self) -> Path:
        """The initramfs."""
        return self.directory / "initrd.cpio"

    @property
    def size(self) -> int:
        """Bytes of kernel and initramfs."""
        return self.kernel.stat().st_size + self.initrd.stat().st_size


def load(directory: Path) -> Image:
    """Return the image in `directory`."""
    try:
        data = json.loads((directory / "image.json").read_text())
        data["packages"] = tuple(data["packages"])
        data["modules"] = tuple(data["modules"])
        return Image(directory=directory, **data)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"no image in {directory}: {error}") from None


def build(spec: Spec, cache: Cache, progress: Progress = lambda what, done, total: None) -> Image:
    """Return the image of `spec`, from the cache if it is there; blocks while it fetches.

    Raises `UsageError` with what to do when a package cannot be had or a module does not exist.
    """
    if spec.compress not in _COMPRESSIONS:
        raise UsageError(f"compress is {spec.compress!r}, expected one of {_COMPRESSIONS}")
    apt = Apt(cache.directory / "lists.json")
    kernels = apt.kernel(spec.kernel_package or default_kernel_package())
    others = apt.with_libraries(["busybox-static", *spec.packages])
    key = _key(spec, [*kernels, *others])
    directory = cache.images / key
    with cache.locked(key):
        if not (directory / "image.json").is_file():
            begin = time.monotonic()
            with cache.publishing(directory) as fresh:
                read = _build(spec, kernels, others, cache, progress, fresh)
                names = tuple(f"{p.name}={p.version}" for p in (*kernels, *others))
                image = Image(
                    fresh,
                    key,
                    read.release,
                    read.image_name,
                    names,
                    read.modules,
                    round(time.monotonic() - begin, 2),
                )
                _save(image)
    return load(directory)


def default_kernel_package() -> str:
    """Return the name of the distribution's generic kernel package."""
    try:
        name = platform.freedesktop_os_release().get("ID", "")
    except OSError:
        name = ""
    return "linux-image-generic" if name == "ubuntu" else "linux-image-amd64"


def _key(spec: Spec, packages: Iterable[Package]) -> str:
    digest = hashlib.sha256()
    parts: list[bytes] = [str(_FORMAT).encode(), spec.compress.encode()]
    parts += [p.sha256.encode() for p in packages]
    parts += [m.encode() for m in (*kernel.DEFAULT_MODULES, *spec.modules)]
    parts += [part for name in sorted(spec.files) for part in (name.encode(), spec.files[name])]
    parts += [entry.name.encode() + entry.data for entry in rootfs.skeleton(spec.init)]
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:32]


def _build(
    spec: Spec,
    kernels: list[Package],
    others: list[Package],
    cache: Cache,
    progress: Progress,
    into: Path,
) -> kernel.Kernel:
    debs = {package.name: fetch(package, cache, progress) for package in (*kernels, *others)}
    with tempfile.TemporaryDirectory(prefix=".tar-", dir=into) as scratch:
        progress("unpacking the kernel", 0, 1)
        tars = [_unpack(debs[p.name], Path(scratch)) for p in kernels]
        read = kernel.read(tars, spec.modules)
        entries = list(rootfs.skeleton(spec.init))
        for package in others:
            progress(f"unpacking {package.name}", 0, 1)
            entries += rootfs.from_package(_unpack(debs[package.name], Path(scratch)))
    progress("writing the initramfs", 0, 1)
    archive = _archive(spec, entries, read.entries)
    (into / "initrd.cpio").write_bytes(archive)
    (into / read.image_name).write_bytes(read.image)
    progress("writing the initramfs", 1, 1)
    return read


def _unpack(deb: Path, scratch: Path) -> Path:
    place = scratch / deb.name
    place.mkdir()
    return unpack(deb, place)


def _archive(spec: Spec, entries: list[Entry], modules: Iterable[Entry]) -> bytes:
    links = list(rootfs.applets(entries))
    # Real programs of packages come after busybox's links and so replace them.
    archive = emit([*links, *entries, *modules, *rootfs.users(spec.files)])
    return gzip.compress(archive, 6, mtime=0) if spec.compress == "gzip" else archive


def _save(image: Image) -> None:
    data = asdict(image)
    del data["directory"]
    (image.directory / "image.json").write_text(json.dumps(data, indent=1) + "\n")
