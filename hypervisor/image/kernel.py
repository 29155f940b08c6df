"""What is taken out of a kernel package: the kernel, ready to boot, and the modules wanted."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from . import modules, vmlinux
from .cpio import Entry
from .rootfs import merged

# What machines of this kit may need; a kernel without one of them (Debian's cloud kernel has no
# 9P) is used without it.
DEFAULT_MODULES = (
    *("virtio_mmio", "virtio_pci"),
    *("virtio_net", "virtio_blk", "virtio_console", "virtio_rng", "virtio_balloon"),
    *("9p", "9pnet_virtio", "9pnet_fd", "vsock", "vmw_vsock_virtio_transport"),
    *("af_packet", "ipv6", "ext4"),
    *("button", "evdev"),  # the power button, and reading it
    "pvpanic_mmio",  # by which a panic does not look like a reboot
)


@dataclass(frozen=True, slots=True)
class Kernel:
    """A distribution's kernel: `image` is a trimmed ELF file with a PVH entry, or a bzImage."""

    release: str
    image: bytes
    image_name: str  # "vmlinux" or "vmlinuz"
    modules: tuple[str, ...]
    entries: tuple[Entry, ...]


def read(tars: Iterable[Path], wanted: Iterable[str]) -> Kernel:
    """Take the kernel and the modules `wanted` (beside the default ones) from package archives.

    Raises `UsageError` where there is no kernel or a module of `wanted` does not exist.
    """
    with ExitStack() as stack:
        archives = [stack.enter_context(tarfile.open(path)) for path in tars]
        return _read(archives, tuple(wanted))


def _read(archives: list[tarfile.TarFile], wanted: tuple[str, ...]) -> Kernel:
    boot, builtin = b"", b""
    release = ""
    stored: dict[str, tuple[tarfile.TarFile, tarfile.TarInfo]] = {}
    for archive, member in _files(archives):
        path = merged(member.name)
        if path.startswith("boot/vmlinuz-"):
            boot, release = _data(archive, member), path.removeprefix("boot/vmlinuz-")
        elif path.endswith("/modules.builtin"):
            builtin = _data(archive, member)
        elif path.endswith(modules.SUFFIXES):
            stored[modules.name_of(path)] = archive, member
    if not boot:
        raise UsageError("the kernel package has no /boot/vmlinuz: name one with --kernel-package")
    bodies = {name: modules.decompress(m.name, _data(a, m)) for name, (a, m) in stored.items()}
    infos = {name: modules.modinfo(body) for name, body in bodies.items()}
    index = modules.Index(infos, map(modules.name_of, builtin.decode().split()))
    order = index.closure([*(n for n in DEFAULT_MODULES if n in index), *wanted])
    name, image = bootable(boot)
    return Kernel(
        release, image, name, tuple(order), tuple(_entries(release, order, bodies, index))
    )


def _files(
    archives: Iterable[tarfile.TarFile],
) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    return ((archive, member) for archive in archives for member in archive if member.isfile())


def _data(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return file.read() if file is not None else b""


def _entries(
    release: str, order: list[str], bodies: dict[str, bytes], index: modules.Index
) -> Iterator[Entry]:
    base = f"usr/lib/modules/{release}"
    yield Entry.file(f"{base}/modules.dep", index.modules_dep(order))
    yield Entry.file(f"{base}/modules.alias", index.modules_alias(order))
    yield from (Entry.file(f"{base}/{name}.ko", bodies[name]) for name in order)


def bootable(image: bytes) -> tuple[str, bytes]:
    """Return the name and contents of what boots fastest: the ELF kernel, if it has a PVH entry."""
    elf = vmlinux.unpack(image)
    if elf is not None and vmlinux.has_pvh(elf):
        return "vmlinux", vmlinux.trim(elf)
    return "vmlinuz", image
