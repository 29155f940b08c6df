"""A userspace TCP/IP stack and virtual network on virtio-net frames."""

from pathlib import Path

__version__ = "0.1.0"
__all__ = ["__version__", "get_include"]


def get_include() -> str:
    """Return the directory of `frame.h`, for C code that fills or drains frames."""
    return str(Path(__file__).parent / "core")
