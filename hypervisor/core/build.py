"""Builds `hypervisor.core._core` with cffi in API mode; the declarations come from the headers."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from cffi import FFI

HERE = Path("hypervisor/core")  # setuptools runs from the project's root: paths are relative
FRAME = Path("vpnstack/core")  # the frame contract, included as a header and never linked
SOURCES = ["core.c", "memory.c", "discard.c", "vring.c", "chain.c", "net.c", "vsock.c"]
SOURCES += ["blk.c", "blk_request.c", "blk_image.c", "blk_nbd.c"]
HEADERS = ["core.h", "vring.h", "blk.h"]
INTERNAL = ["vring_internal.h", "blk_internal.h"]
# The machine monitor is for one processor, the rest runs anywhere; the variable shows how it does.
if platform.machine() == "x86_64" and "TRIKIT_NO_MONITOR" not in os.environ:
    SOURCES += ["kvm.c", "vcpu.c", "run.c", "state.c", "uart.c", "wire.c"]
    HEADERS += ["kvm.h"]
    INTERNAL += ["kvm_internal.h"]


def declarations(header: str) -> str:
    """Reduce a C header to what cffi's `cdef` takes: no comments, constants replaced."""
    constants = dict(re.findall(r"^#define (\w+) (\d+|0x[0-9a-fA-F]+)\b", header, re.M))
    text = re.sub(r"/\*.*?\*/", "", header, flags=re.S)
    text = re.sub(r"^#.*$", "", text, flags=re.M)
    for name, value in constants.items():
        text = re.sub(rf"\b{name}\b", value, text)
    return "".join(f"#define {name} {value}\n" for name, value in constants.items()) + text


ffi = FFI()
ffi.cdef("struct iovec { void *iov_base; size_t iov_len; };")
ffi.cdef(declarations("".join((HERE / name).read_text() for name in HEADERS)))
ffi.set_source(
    "hypervisor.core._core",
    "".join(f'#include "{name}"\n' for name in HEADERS),
    sources=[str(HERE / name) for name in SOURCES],
    include_dirs=[str(HERE), str(FRAME)],
    depends=[str(HERE / name) for name in (*HEADERS, *INTERNAL)] + [str(FRAME / "frame.h")],
    libraries=["pthread"],
    extra_compile_args=[
        "-O2",
        "-std=gnu11",
        "-Wall",
        "-Wextra",
        "-Wno-unused-parameter",
        "-fvisibility=hidden",
    ],
)

if __name__ == "__main__":
    ffi.compile(verbose=True)
