"""Builds `vpnstack.core._core` with cffi in API mode; the declarations come from the C headers."""

from __future__ import annotations

import re
from pathlib import Path

from cffi import FFI

HERE = Path("vpnstack/core")  # setuptools runs from the project's root and wants relative paths
SOURCES = (
    "checksum.c", "parse.c", "emit.c", "segment.c", "tap.c", "framed.c", "view.c", "pack.c",
    "gro.c", "lane.c", "lanering.c", "laneguest.c", "lanehost.c", "udptable.c", "udplane.c",
    "pause.c", "spin.c",
)  # fmt: skip


def declarations(header: str) -> str:
    """Reduce a C header to what cffi's `cdef` takes: no preprocessor, no inline bodies."""
    constants = dict(re.findall(r"^#define (\w+) (\d+|0x[0-9a-fA-F]+)\b", header, re.M))
    text = re.sub(r"/\*.*?\*/", "", header, flags=re.S)
    text = re.sub(r"^static inline.*?^}\n", "", text, flags=re.S | re.M)
    text = re.sub(r"^#.*$", "", text, flags=re.M)
    text = text.replace("2 * FRAME_SACK_MAX", str(2 * int(constants["FRAME_SACK_MAX"], 0)))
    for name, value in constants.items():
        text = re.sub(rf"\b{name}\b", value, text)
    defines = "".join(f"#define {name} {value}\n" for name, value in constants.items())
    return defines + text


ffi = FFI()
ffi.cdef("struct iovec { void *iov_base; size_t iov_len; };")
_frame = (HERE / "frame.h").read_text()
_core = (HERE / "core.h").read_text()
ffi.cdef(declarations(_frame + _core))
ffi.set_source(
    "vpnstack.core._core",
    '#include "core.h"\n',
    sources=[str(HERE / name) for name in SOURCES],
    include_dirs=[str(HERE)],
    depends=[
        str(HERE / name) for name in ("frame.h", "core.h", "lane.h", "udplane.h", "head.h", "ext.h")
    ],
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
