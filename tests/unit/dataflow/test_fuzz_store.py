"""A seeded run of the fuzz target for stored objects: random octets, and real ones damaged."""

import random
import sys
from pathlib import Path

from dataflow.store.base import Kind
from dataflow.store.loose import encode
from dataflow.store.memory import MemoryStore
from dataflow.store.objects import EMPTY_TREE, FILE, Entry, Objects

sys.path.insert(0, str(Path(__file__).parents[2] / "fuzz"))

from fuzz_dataflow_store import TestOneInput as one_input


def seeds() -> list[bytes]:
    objects = Objects(MemoryStore())
    blob = objects.put_blob(b"x")
    root = objects.put_tree({b"f": Entry(FILE, blob), b"g": Entry(FILE, blob)})
    commit = objects.put_commit(root, (), "a <a@b>", "m\n", 1)
    raw = [objects.store.get(oid)[1] for oid in (root, commit)]
    cursor = f"{EMPTY_TREE}..{commit}:{root}".encode()
    return [*raw, encode(Kind.COMMIT, raw[1]), b"a/b/c", cursor, commit.encode()]


def test_random_and_damaged_input() -> None:
    rng = random.Random(11)
    known = seeds()
    for _ in range(4000):
        data = bytearray(rng.choice(known) if rng.random() < 0.8 else rng.randbytes(60))
        for _ in range(rng.randint(0, 4)):
            if data:
                at = rng.randrange(len(data))
                data[at : at + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 3))
        one_input(bytes(data))
