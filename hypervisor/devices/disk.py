"""A disk as its user describes it; what it is made of is opened when a machine starts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError

FORMATS = ("auto", "raw", "qcow2")
SECTOR_SIZES = (512, 4096)
SERIAL_MAX = 20  # virtio 1.2, 5.2.6: the length of a device ID
_SUFFIXES = (".qcow2", ".qcow")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True, slots=True)
class Disk:
    """An image file or block device that a guest sees as a disk.

    `size` ("10G", or bytes) makes the image, sparse, where there is none, and grows one that is
    smaller; nothing ever shrinks it.  `format` "auto" goes by the name: .qcow2 is qcow2, the rest
    is raw, for what is inside a raw image is the guest's to choose.  `direct` goes past the host's
    page cache (O_DIRECT).  `serial` is what the guest finds under /dev/disk/by-id.
    """

    path: Path
    size: int | str | None = None
    read_only: bool = False
    format: str = "auto"
    serial: str = ""
    sector_size: int = 512
    direct: bool = False

    def __post_init__(self) -> None:
        """Refuse what can never be."""
        object.__setattr__(self, "path", Path(self.path))
        if self.size is not None:
            object.__setattr__(self, "size", parse_size(self.size))
        if self.format not in FORMATS:
            raise UsageError(f"disk format is {self.format!r}, expected one of {FORMATS}")
        if self.sector_size not in SECTOR_SIZES:
            raise UsageError(f"sector size is {self.sector_size}, expected one of {SECTOR_SIZES}")
        if len(self.serial) > SERIAL_MAX or not self.serial.isascii():
            raise UsageError(f"serial is {self.serial!r}, expected at most 20 ASCII characters")
        if self.read_only and self.size is not None:
            raise UsageError(f"{self.path} is to be read-only: give no size")

    @property
    def bytes(self) -> int | None:
        """The size in bytes, if one was given."""
        assert not isinstance(self.size, str)
        return self.size

    @property
    def is_qcow2(self) -> bool:
        """Whether the image is qcow2, by format or name."""
        if self.format == "auto":
            return self.path.suffix in _SUFFIXES
        return self.format == "qcow2"


def parse_size(value: int | str) -> int:
    """Return bytes for "10G", "64M" or a number of bytes; whole sectors of 512."""
    match = re.fullmatch(r"(\d+)([KMGT]?)(i?B)?", str(value).strip(), re.IGNORECASE)
    size = int(match[1]) * _UNITS[match[2].upper()] if match else 0
    if size <= 0 or size % 512:
        raise UsageError(f"disk size is {value!r}, expected a size such as 10G in whole sectors")
    return size


def disk(value: Disk | Path | str) -> Disk:
    """Return a disk for a description or a mere path."""
    return value if isinstance(value, Disk) else Disk(Path(value))
