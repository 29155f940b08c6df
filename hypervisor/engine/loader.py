"""Loads a kernel and its initrd from their files into a guest's memory; runs in a thread.

The kernel of this host copies from file to file.  Mapping the files into the guest would copy
nothing, but who overwrites a file in place would then change or crash the guests that run on it,
and a back-end in another process would not see what the guest writes there.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from ..core.file import FilePart
from ..core.ram import GuestRam
from ..pc import boot, cmdline, cpu, initrd
from ..pc.elf import Bytes
from .base import Config, EngineError

_PIECE = 8 << 20  # bytes between two looks at whether to go on


class Loader:
    """Writes what `config` boots into `ram`, for a board of so many virtio devices."""

    def __init__(self, ram: GuestRam, config: Config, devices: int) -> None:
        self._ram = ram
        self._config = config
        self._devices = devices
        self._stopped = False
        self._files = contextlib.ExitStack()

    def stop(self) -> None:
        """Let `run` end soon, with an error; from any thread."""
        self._stopped = True

    def run(self) -> cpu.Entry:
        """Load, and return how the first processor enters; raises `HypervisorError` or OSError."""
        config = self._config
        devices, acpi = self._devices, config.acpi
        board = boot.Board(config.memory, config.cpus, devices, acpi, config.uuid)
        words = cmdline.default_cmdline(config.cmdline, acpi=acpi, devices=devices)
        with self._files:
            kernel = self._read(config.kernel)
            ramdisk = None if config.initrd is None else self._read(config.initrd)
            plan = boot.plan(board, kernel, ramdisk, words)
            for address, data in plan.pieces:
                self._write(address, data)
        if ramdisk is not None:
            initrd.check(self._ram.view(*plan.initrd))
        return plan.entry

    def _read(self, path: Path) -> Bytes:
        """Return the contents of `path`: a regular file's are read when they are needed."""
        try:
            part = FilePart.open(path)
            self._files.callback(part.close)
            if stat.S_ISREG(os.fstat(part.fd).st_mode):
                return part
            return Path(f"/proc/self/fd/{part.fd}").read_bytes()
        except OSError as error:
            raise EngineError(f"cannot read {path}: {error.strerror}") from None

    def _write(self, gpa: int, data: Bytes) -> None:
        if not isinstance(data, FilePart):
            self._ram.write(gpa, data)
            return
        for at in range(0, len(data), _PIECE):
            if self._stopped:
                raise EngineError("killed while it was loaded")
            self._ram.write(gpa + at, data[at : at + _PIECE])
