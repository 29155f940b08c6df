"""Run the fuzz targets of tests/fuzz, one after the other, for SECONDS each: all, or NAMES.

Under atheris where it is installed, coverage-guided and with a corpus kept in .cache/fuzz, which
starts from the committed one in tests/fuzz/corpus;
otherwise with seeded random input, so that a run can be repeated.  Ends with 1 if a target failed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

ROOT = Path(__file__).parents[1]
TARGETS = ROOT / "tests/fuzz"
CORPUS = ROOT / ".cache/fuzz"
MAX_LEN = 4096
SEED = 1


def load(path: Path) -> Callable[[bytes], None]:
    """Import a target from its file and return its `TestOneInput`."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    target: Callable[[bytes], None] = module.TestOneInput
    return target


def guided(path: Path, seconds: int) -> None:
    """Fuzz one target under atheris, which ends this process."""
    import atheris  # noqa: PLC0415  (optional, and it must come before what it instruments)

    with atheris.instrument_imports(include=["vpnstack", "hypervisor", "dataflow", "uart_model"]):
        target = load(path)
    corpus = CORPUS / path.stem
    corpus.mkdir(parents=True, exist_ok=True)
    committed = TARGETS / "corpus" / path.stem
    options = [f"-max_total_time={seconds}", f"-max_len={MAX_LEN}", "-print_final_stats=1"]
    options += [f"-artifact_prefix={CORPUS}/{path.stem}-", str(corpus)]
    if committed.is_dir():
        options.append(str(committed))  # read, never written
    atheris.Setup([path.stem, *options], target)
    atheris.Fuzz()


def seeded(path: Path, seconds: int) -> None:
    """Feed one target random input for a while; writes down the input that it fails on."""
    target, rng, end, count = load(path), random.Random(SEED), time.monotonic() + seconds, 0
    while time.monotonic() < end:
        data = rng.randbytes(rng.choice((8, 64, 512, MAX_LEN)))
        try:
            target(data)
        except BaseException:
            CORPUS.mkdir(parents=True, exist_ok=True)
            (CORPUS / f"{path.stem}-crash").write_bytes(data)
            raise
        count += 1
    print(f"{path.stem}: {count} inputs from seed {SEED}")


@click.command(help=__doc__)
@click.argument("seconds", default=60)
@click.argument("names", nargs=-1)
@click.option("--in-process", is_flag=True, hidden=True)
def main(seconds: int, names: tuple[str, ...], in_process: bool) -> None:
    """Run the targets, each in a process of its own."""
    sys.path[:0] = [str(ROOT), str(TARGETS)]  # this checkout's kits, and what targets share
    targets = {path.stem: path for path in sorted(TARGETS.glob("fuzz_*.py"))}
    if unknown := set(names) - set(targets):
        raise click.UsageError(f"no target {unknown.pop()}: expected some of {', '.join(targets)}")
    if in_process:
        with contextlib.suppress(KeyboardInterrupt):
            one = guided if importlib.util.find_spec("atheris") else seeded
            one(targets[names[0]], seconds)
        return
    failed = []
    for name in names or targets:
        print(f"== {name}, {seconds} s", flush=True)
        line = [sys.executable, __file__, str(seconds), name, "--in-process"]
        if subprocess.run(line, check=False).returncode:
            failed.append(name)
    print(f"fuzz: failed: {', '.join(failed)}" if failed else "fuzz: no target failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
