"""Memory for rings: a bounded stock of used pieces, and where fresh ones come from."""

from __future__ import annotations

from mmap import mmap

STOCK_OCTETS = 8 << 20  # memory that waits to be taken, of all connections of the process
MAPPED = 1 << 17  # from this size on memory goes back to the system at once, not to a heap

Memory = bytearray | mmap

_stock: dict[int, list[Memory]] = {}  # by size
_stocked = 0  # octets in the stock


def take(size: int) -> Memory:
    """Return memory of `size` octets, whatever they are: a ring shows only what was written."""
    global _stocked
    try:
        data = _stock[size].pop()
    except (KeyError, IndexError):  # also where another thread's loop was faster
        return _make(size)
    _stocked -= size
    return data


def _make(size: int) -> Memory:
    if size >= MAPPED:
        try:
            return mmap(-1, size)
        except OSError:  # vm.max_map_count
            pass
    return bytearray(size)


def give(data: Memory) -> None:
    """Keep memory that a ring has done with, unless the stock is full."""
    global _stocked
    size = len(data)
    if size and _stocked + size <= STOCK_OCTETS:
        _stocked += size
        _stock.setdefault(size, []).append(data)
