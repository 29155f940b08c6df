"""Builds `hypervisor.core._core` with cffi in API mode; the declarations come from core.h."""

from __future__ import annotations

import re
from pathlib import Path

from cffi import FFI

HERE = Path("hypervisor/core")  # setuptools runs from the project's root: paths are relative
FRAME = Path("vpnstack/core")  # the frame contract, included as a header and never linked
SOURCES = ("core.c",)

ffi = FFI()
_text = re.sub(r"/\*.*?\*/", "", (HERE / "core.h").read_text(), flags=re.S)
ffi.cdef(re.sub(r"^#.*$", "", _text, flags=re.M))
ffi.set_source(
    "hypervisor.core._core",
    '#include "core.h"\n',
    sources=[str(HERE / name) for name in SOURCES],
    include_dirs=[str(HERE), str(FRAME)],
    depends=[str(HERE / "core.h"), str(FRAME / "frame.h")],
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
