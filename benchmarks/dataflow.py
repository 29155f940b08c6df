"""Git as a database: commits, histories, watches and 9P, next to peers in the same run.

Groups are files of their own, `dataflow_GROUP.py`; each says what its cells are.  Repositories lie
on a real disk: `--directory`, by default in this checkout; the title names its file system and what
one flush of it costs at the time.

    dataflow.py [--quick] [--cells GROUP,...] [--json FILE] [--directory DIR]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import (  # noqa: E402
    dataflow_commit,
    dataflow_kernel,
    dataflow_merge,
    dataflow_p9,
    dataflow_scale,
    dataflow_watch,
)
from benchmarks.harness import BenchmarkError  # noqa: E402
from benchmarks.report import Report  # noqa: E402

# A file of cells adds its line here: a function from a directory and `quick` to cells.
GROUPS = {
    "commit": dataflow_commit.cells,
    "scale": dataflow_scale.cells,
    "merge": dataflow_merge.cells,
    "p9": dataflow_p9.cells,
    "kernel": dataflow_kernel.cells,  # in an emulated guest
    "watch": lambda where, quick: list(dataflow_watch.cells(quick)),  # in memory
}


def main() -> None:
    """Measure and print."""
    options = _options()
    options.directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="dataflow-", dir=options.directory) as name:
        where = Path(name)
        report = Report(f"dataflow on {_file_system(where)}")
        for group in options.cells.split(","):
            try:
                for cell in GROUPS[group](where, options.quick):
                    report.add(cell)
            except BenchmarkError as exc:
                sys.exit(f"benchmark: {group}: {exc}")
    report.print()
    if options.json:
        report.write(options.json)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="in less than a minute")
    parser.add_argument("--cells", default=",".join(GROUPS), metavar="GROUP,...")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--directory", type=Path, default=ROOT / ".cache")
    options = parser.parse_args()
    for name in options.cells.split(","):
        if name not in GROUPS:
            parser.error(f"no group is named {name!r}: expected {', '.join(GROUPS)}")
    return options


def _file_system(where: Path) -> str:
    """Say what `where` lies on, and what a flush of 4 KiB in a file of unchanged size costs."""
    words = ["stat", "-f", "-c", "%T", str(where)]
    kind = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    took = []
    with open(where / "flush", "wb", 0) as f:
        f.write(bytes(1 << 20))
        os.fsync(f.fileno())
        for i in range(100):
            began = time.perf_counter()
            os.pwrite(f.fileno(), os.urandom(4096), i << 12)
            os.fdatasync(f.fileno())
            took.append(time.perf_counter() - began)
    return f"{kind}, a flush takes {median(took) * 1e3:.2f} ms"


if __name__ == "__main__":
    main()
