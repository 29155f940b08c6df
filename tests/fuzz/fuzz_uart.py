"""The 16550 in C against the one in Python: any accesses, any use by the host, the same answers.

core/uart.c is compiled here, alone: no KVM is needed, and a sanitizer in CFLAGS takes hold.
"""

from __future__ import annotations

import functools
import importlib.util
import random
import select
import sys
import tempfile
from pathlib import Path
from typing import Any

from cffi import FFI

sys.path.append(str(Path(__file__).parent))

from inputs import Stream
from uart_model import DATA, DLAB, RING, Model

HERE = Path(__file__).parent
CORE = HERE.parents[1] / "hypervisor/core"
DECLARATIONS = """
struct hv_vm;
struct hv_vm *bench_new(void);
void bench_free(struct hv_vm *vm);
int bench_fd(struct hv_vm *vm);
int bench_level(void);
int bench_access(struct hv_vm *vm, uint32_t offset, uint32_t size, int write, uint8_t *data,
                 uint32_t count);
int hv_uart_read(struct hv_vm *vm, uint8_t *out, uint32_t size);
int hv_uart_write(struct hv_vm *vm, const uint8_t *data, uint32_t size);
int64_t hv_uart_dropped(struct hv_vm *vm);
"""
ACTS = 400
FLOODS = (1, 15, 16, 17, 4096, RING // 2, RING - 16, RING)


@functools.cache
def bench() -> Any:
    """Compile uart.c with its bench and import it; once a process."""
    ffi = FFI()
    ffi.cdef(DECLARATIONS)
    arguments = ["-O1", "-std=gnu11", "-w"]  # Python.h and uart.c both define _GNU_SOURCE
    ffi.set_source(
        "_uart_bench",
        '#include "uart_bench.c"',
        include_dirs=[str(HERE), str(CORE)],
        libraries=["pthread"],
        extra_compile_args=arguments,
    )
    with tempfile.TemporaryDirectory() as place:
        spec = importlib.util.spec_from_file_location("_uart_bench", ffi.compile(tmpdir=place))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


class Pair:
    """Both, doing the same."""

    def __init__(self) -> None:
        module = bench()
        self.ffi, self.lib = module.ffi, module.lib
        self.vm = self.lib.bench_new()
        self.model = Model()
        self.poll = select.poll()
        self.poll.register(self.lib.bench_fd(self.vm), select.POLLIN)

    def close(self) -> None:
        """Give the C one back."""
        self.lib.bench_free(self.vm)

    def read(self, offset: int, size: int) -> None:
        """Read as a vCPU does; a wide access is one for each byte."""
        data = self.ffi.new("uint8_t[8]")
        assert self.lib.bench_access(self.vm, offset, size, 0, data, 1) == 1
        ends = range(offset, offset + size)
        expected = bytes(self.model.read(at) if at < 8 else 0xFF for at in ends)
        found = bytes(data)[:size]
        assert found == expected, f"register {offset}/{size}: {found.hex()}, not {expected.hex()}"

    def write(self, offset: int, data: bytes, count: int = 1) -> None:
        """Write as a vCPU does, `count` times."""
        assert self.lib.bench_access(self.vm, offset, len(data), 1, data, count) == 1
        if count > 1 and offset == DATA and not self.model.lcr & DLAB:
            self.model.send(data[0], count)
            return
        for _ in range(count):
            for at, value in enumerate(data, offset):
                if at < 8:
                    self.model.write(at, value)

    def take(self, size: int) -> None:
        """Read output as the loop does."""
        out = self.ffi.new("uint8_t[]", size)
        got = self.lib.hv_uart_read(self.vm, out, size)
        assert self.ffi.buffer(out, got)[:] == self.model.take(size)

    def give(self, data: bytes) -> None:
        """Write input as the loop does."""
        assert self.lib.hv_uart_write(self.vm, data, len(data)) == self.model.give(data)

    def check(self) -> None:
        """Compare what shows outside of registers."""
        model = self.model
        assert bool(self.lib.bench_level()) == model.level, "the interrupt's level"
        assert bool(self.poll.poll(0)) == model.told, "the eventfd"
        assert self.lib.hv_uart_dropped(self.vm) == model.dropped
        assert model.told or not model.tx, "output waits, and nobody is told"
        assert model.told or not model.starved or len(model.rx) > RING // 2, "room, and nobody told"
        assert len(model.tx) <= RING
        assert len(model.rx) <= RING


def act(pair: Pair, stream: Stream) -> None:
    """Do one thing that the input chooses."""
    kind = stream.number() % 16
    if kind < 6:
        pair.read(stream.number() % 8, stream.choice((1, 1, 1, 2, 4)))
    elif kind < 12:
        pair.write(stream.number() % 8, stream.take(stream.choice((1, 1, 1, 2, 4))))
    elif kind == 12:
        pair.write(0, stream.take(1), stream.choice(FLOODS))
    elif kind == 13:
        pair.take(stream.choice((1, 16, 4096, RING)))
    elif kind == 14:
        pair.give(stream.take(1) * stream.choice(FLOODS))
    else:
        pair.write(2, b"\x03", stream.choice((1, 1, 1, 1, 2, 16, RING // 32)))


def TestOneInput(data: bytes) -> None:
    """One port and a few hundred acts."""
    stream, pair = Stream(data), Pair()
    try:
        for _ in range(ACTS):
            if not stream.more:
                break
            act(pair, stream)
            pair.check()
    finally:
        pair.close()


def fuzz(seed: int, count: int) -> None:
    """Run `count` ports from `seed`."""
    rng = random.Random(seed)
    for _ in range(count):
        TestOneInput(rng.randbytes(rng.choice((32, 128, 1024))))


if __name__ == "__main__" and sys.argv[1:2] and sys.argv[1].isdecimal():
    fuzz(seed=random.randrange(1 << 30), count=int(sys.argv[1]))  # without atheris: asan.sh
elif __name__ == "__main__":
    import atheris

    atheris.Setup(sys.argv, TestOneInput)
    atheris.Fuzz()
