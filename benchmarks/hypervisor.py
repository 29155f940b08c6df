"""Our monitor: how it starts, next to QEMU's microvm board, and what its machines cost.

Where this host's KVM runs no kernels, the groups that boot one run in the nested machine of the kvm
lane; there only ratios mean something.  Groups:

    boot    start to the guest's init, ours and QEMU's                       stock kernel
    vsock   octets over vsock both ways, beside vhost-vsock                  stock kernel
    share   octets from and to a directory, beside QEMU's virtio-9p          stock kernel
    linux   exits per MiB of network, wake-ups by an idle guest              stock kernel
    own     our own time to the guest's first instruction, the loop's pauses
    memory  PSS of each further machine, wake-ups by halted guests

A stock kernel takes 10 to 20 seconds to boot in the nested machine, so that --quick takes longer
than a minute there; `--cells own,memory --quick` does not.

    hypervisor.py [--quick] [--cells GROUP,...] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/kvm")]

import uvloop  # noqa: E402
from nested import Nested  # noqa: E402

from benchmarks import (  # noqa: E402
    hypervisor_boot,
    hypervisor_host,
    hypervisor_linux,
    hypervisor_transports,
)
from benchmarks.machines import INIT, Group, Samples  # noqa: E402
from benchmarks.report import Report  # noqa: E402
from hypervisor.core.kvm import why_not  # noqa: E402
from hypervisor.engine import host  # noqa: E402
from hypervisor.image.build import Image, Spec, build, load  # noqa: E402
from hypervisor.image.cache import Cache, default_directory  # noqa: E402

# A file of cells adds its groups here.
MODULES = (hypervisor_boot, hypervisor_transports, hypervisor_linux, hypervisor_host)
GROUPS = {group.name: group for module in MODULES for group in module.GROUPS}
PATIENCE = 300.0  # seconds for a group in the nested machine


def main() -> None:
    """Measure and print."""
    options = _options()
    chosen = [GROUPS[name] for name in options.cells.split(",")]
    if options.inside:
        found = uvloop.run(_measure(_near(options.inside), chosen, options.quick))
        print(json.dumps(found))
        return
    report = Report("hypervisor")
    cache = Cache(default_directory(os.environ))
    image = build(Spec(init=INIT), cache)
    samples: dict[str, Samples] = {}
    for packages in dict.fromkeys(group.packages for group in chosen if group.stock):
        groups = [group for group in chosen if group.stock and group.packages == packages]
        made = build(Spec(packages=packages, init=INIT), cache)
        samples |= _stock(made, groups, options.quick)
    if why_not() is None:
        for group in chosen:
            if not group.stock:
                samples |= _apart(image, group, options.quick)
    for name, found in samples.items():
        GROUPS[name].add(report, found)
    report.print()
    if options.json:
        report.write(options.json)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--cells", default=",".join(GROUPS), metavar="GROUP,...")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name in options.cells.split(","):
        if name not in GROUPS:
            parser.error(f"no group is named {name!r}: expected {', '.join(GROUPS)}")
    return options


def _stock(image: Image, groups: Sequence[Group], quick: bool) -> dict[str, Samples]:
    """Measure where KVM runs stock kernels."""
    if not groups or host.kvm().good:
        return asyncio.run(_measure(image, groups, quick))
    with Nested() as machine:
        done = machine.run(_argv(image, groups, quick), timeout=PATIENCE * len(groups))
    if done.code:
        sys.exit(f"in the nested machine: {done.output}")
    return _result(done.output)


def _apart(image: Image, group: Group, quick: bool) -> dict[str, Samples]:
    """Measure in a process of its own: what another group left in the heap would serve this one."""
    argv = _argv(image, [group], quick)
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{group.name}: exit code {done.returncode}")
    return _result(done.stdout)


def _argv(image: Image, groups: Sequence[Group], quick: bool) -> list[str]:
    names = ",".join(group.name for group in groups)
    argv = [Nested.python, __file__, "--inside", str(image.directory), "--cells", names]
    return [*argv, "--quick"] if quick else argv


def _result(output: str) -> dict[str, Samples]:
    samples: dict[str, Samples] = json.loads(output.splitlines()[-1])
    return samples


def _near(directory: Path) -> Image:
    """Copy an image into the memory of the nested machine, whose 9P share is not measured."""
    if "TRIKIT_NESTED" not in os.environ:
        return load(directory)
    return load(shutil.copytree(directory, Path(tempfile.mkdtemp()) / "image"))


async def _measure(image: Image, groups: Sequence[Group], quick: bool) -> dict[str, Samples]:
    return {group.name: await group.measure(image, quick) for group in groups}


if __name__ == "__main__":
    main()
