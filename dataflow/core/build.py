"""Builds `dataflow.core._core` with cffi in API mode; the declarations come from the header."""

from __future__ import annotations

import re
from pathlib import Path

from cffi import FFI

HERE = Path("dataflow/core")  # setuptools runs from the project's root: paths are relative


def declarations(header: str) -> str:
    """Reduce a C header to what cffi's `cdef` takes: no comments, no preprocessor."""
    constants = dict(re.findall(r"^#define (\w+) (\d+)\b", header, re.M))
    text = re.sub(r"/\*.*?\*/", "", header, flags=re.S)
    text = re.sub(r"^#.*$", "", text, flags=re.M)
    return "".join(f"#define {name} {value}\n" for name, value in constants.items()) + text


ffi = FFI()
ffi.cdef(declarations((HERE / "p9.h").read_text()))
ffi.set_source(
    "dataflow.core._core",
    '#include "p9.h"\n',
    sources=[str(HERE / "p9.c")],
    include_dirs=[str(HERE)],
    depends=[str(HERE / "p9.h")],
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
