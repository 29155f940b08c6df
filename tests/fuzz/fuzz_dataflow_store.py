"""Parsers that read what others wrote: loose objects, trees, commits, paths and cursors."""

from __future__ import annotations

import contextlib

from dataflow.branch.steps import Cursor
from dataflow.errors import DataflowError
from dataflow.store.base import Kind
from dataflow.store.loose import decode, encode
from dataflow.store.memory import MemoryStore
from dataflow.store.objects import Objects
from dataflow.tree.paths import parse, text


def TestOneInput(data: bytes) -> None:
    """Only this kit's own errors may come out, and what parses is written back the same."""
    objects = Objects(MemoryStore())
    with contextlib.suppress(DataflowError):
        decode("0" * 40, data)
    assert decode("0" * 40, encode(Kind.BLOB, data)) == (Kind.BLOB, data)
    with contextlib.suppress(DataflowError):
        objects.tree(objects.store.put(Kind.TREE, data))
    with contextlib.suppress(DataflowError):
        objects.commit(objects.store.put(Kind.COMMIT, data))
    with contextlib.suppress(DataflowError):
        path = parse(data)
        assert parse(text(path)) == path
    with contextlib.suppress(DataflowError):
        words = data.decode("latin-1")
        assert str(Cursor.parse(words)) == words
