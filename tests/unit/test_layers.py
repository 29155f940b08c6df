"""Walks all imports: none goes up, none goes round, none brings I/O where there must be none.

The tables below are DESIGN.md's "Layers".  All imports count, also those inside functions and
under TYPE_CHECKING: what a module names, it depends on.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# From the bottom to the top.  "" is the kit's own __init__; a module at the top of a kit that is
# not listed composes the layers, and stands with it.
LAYERS = {
    "vpnstack": [
        "errors",
        "core",
        "wire",
        "proto",
        "proto.tcp",
        "link",
        "stack",
        "aio",
        "host",
        "services",
        "overlay",
        "config",
    ],
    "hypervisor": [
        "errors",
        "queue",
        "pc",
        "core",
        "vhost",
        "vsock",
        "devices",
        "aio",
        "engine",
        "image",
    ],
    "dataflow": [
        *(
            "errors",
            "core",
            "store",
            "tree",
            "sync",
            "branch",
            "p9",
            "fuse",
            "views",
            "aio",
            "mount",
        ),
    ],
}
TOP = ("", "commands", "cli")

SANS_IO = (
    *("vpnstack.wire", "vpnstack.proto", "vpnstack.stack"),
    *("dataflow.tree", "dataflow.p9", "dataflow.fuse"),
    *("hypervisor.queue", "hypervisor.pc", "hypervisor.vhost.messages", "hypervisor.vhost.backend"),
    *("hypervisor.vhost.frontend", "hypervisor.vhost.offer", "hypervisor.vsock"),
)
IO_MODULES = {
    "asyncio",
    "concurrent",
    "fcntl",
    "mmap",
    "multiprocessing",
    "os",
    "select",
    "selectors",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "uvloop",
}

PURE = {"os.strerror", "mmap.mmap"}  # what those hold that does nothing of the kind (memory)

# Which module may import what of another kit: the Port protocol with what all ports do, the frame
# header, and the one command in which the three kits meet.
ACROSS = {
    "hypervisor": (
        "vpnstack.link.port",
        "vpnstack.link.soft",
        "vpnstack.link.backlog",
        "vpnstack.link.tap",
        "vpnstack.core.burst",
    ),
    "hypervisor.cli": ("vpnstack", "dataflow"),
}

Sources = Mapping[str, str]  # dotted name (a package by its own) to source text


def within(name: str, prefix: str) -> bool:
    """Say whether `name` is `prefix` or lies below it."""
    return name == prefix or name.startswith(prefix + ".")


def read_sources(root: Path) -> Sources:
    """Read every module of the three kits."""
    sources = {}
    for path in (p for kit in LAYERS for p in sorted((root / kit).rglob("*.py"))):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        sources[name] = path.read_text()
    return sources


@cache
def nodes(source: str) -> Sequence[ast.AST]:
    """Parse a module; all its nodes."""
    return list(ast.walk(ast.parse(source)))


def absolute(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    """Resolve `from ..x import` to a dotted name."""
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    base = parts[: len(parts) - node.level + is_package]
    return ".".join([*base, node.module] if node.module else base)


def imports(module: str, source: str, names: Iterable[str]) -> Iterator[str]:
    """Yield the dotted name of everything that `module` imports, `from` imports name by name."""
    is_package = any(name != module and within(name, module) for name in names)
    for node in nodes(source):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node, module, is_package)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def edges(sources: Sources) -> dict[str, set[str]]:
    """Map each module to the modules of these kits that it imports."""
    return {
        module: {
            found
            for name in imports(module, source, sources)
            if (found := name if name in sources else name.rpartition(".")[0]) in sources
        }
        for module, source in sources.items()
    }


def rank(module: str) -> int:
    """Return the height of a module's layer within its kit; the longest prefix decides."""
    kit, _, rest = module.partition(".")
    order = [*LAYERS[kit], *TOP]
    layers = [name for name in order if name and within(rest, name)]
    return order.index(max(layers, key=len) if layers else "")


def upward(sources: Sources) -> list[str]:
    """Find imports from a lower layer of a kit to a higher one."""
    return [
        f"{module} imports {other}, which is above it"
        for module, others in edges(sources).items()
        for other in sorted(others)
        if within(other, module.partition(".")[0]) and rank(other) > rank(module)
    ]


def cycles(sources: Sources) -> list[str]:
    """Find the first circle of imports."""
    try:
        TopologicalSorter(edges(sources)).prepare()
    except CycleError as e:
        return ["circle: " + " -> ".join(reversed(e.args[1]))]
    return []


def does_io(sources: Sources) -> list[str]:
    """Find I/O, clocks and global randomness in the layers that must have none."""
    return [
        f"{module} uses {what}"
        for module, source in sources.items()
        if any(within(module, layer) for layer in SANS_IO)
        for what in [
            *(
                name
                for name in imports(module, source, sources)
                if name.split(".")[0] in IO_MODULES and name not in PURE
            ),
            *global_randomness(source),
        ]
    ]


def global_randomness(source: str) -> Iterator[str]:
    """Yield every use of `random` but the class that is seeded and passed in."""
    for node in nodes(source):
        if isinstance(node, ast.ImportFrom) and node.module == "random":
            yield from (f"random.{a.name}" for a in node.names if a.name != "Random")
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "random":
            yield from (f"random.{name}" for name in [node.attr] if name != "Random")


def across(sources: Sources) -> list[str]:
    """Find imports of another kit that the design does not allow."""
    found = []
    for module, source in sources.items():
        kit = module.partition(".")[0]
        allowed = [name for who, what in ACROSS.items() if within(module, who) for name in what]
        for name in imports(module, source, sources):
            other = name.partition(".")[0]
            if other in LAYERS and other != kit and not any(within(name, a) for a in allowed):
                found.append(f"{module} imports {name}")
    return found


CHECKS = [upward, cycles, does_io, across]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_kits(check: object) -> None:
    assert callable(check)
    assert check(read_sources(ROOT)) == []


def test_sources_are_found() -> None:
    """Else the test above would prove nothing."""
    sources = read_sources(ROOT)
    assert {"vpnstack", "vpnstack.link.port", "hypervisor.core.build", "dataflow.cli"} <= set(
        sources
    )
    assert {"vpnstack.core.burst", "vpnstack.errors"} <= edges(sources)["vpnstack.link.port"]


BASE = {
    "vpnstack": "from .gateway import Gateway",
    "vpnstack.gateway": "from .stack import interface\nimport asyncio",
    "vpnstack.cli": "from . import gateway, __version__",
    "vpnstack.link": "",
    "vpnstack.link.port": "from ..core.burst import Burst",
    "vpnstack.core": "",
    "vpnstack.core.burst": "import os",
    "vpnstack.stack": "",
    "vpnstack.stack.interface": "import random\nfrom ..link.port import Port\nrandom.Random(1)",
    "vpnstack.proto": "",
    "vpnstack.proto.udp": "",
    "vpnstack.proto.tcp": "",
    "vpnstack.proto.tcp.block": "from .. import udp\nfrom . import rtt",
    "vpnstack.proto.tcp.rtt": "",
    "hypervisor": "",
    "hypervisor.cli": "from vpnstack import Gateway\nimport dataflow",
    "hypervisor.vhost": "",
    "hypervisor.vhost.port": "import socket\nfrom vpnstack.link.port import Port",
    "hypervisor.vhost.backend": "",
    "dataflow": "",
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_good_tree_passes(check: object) -> None:
    assert callable(check)
    assert check(BASE) == []


@pytest.mark.parametrize(
    ("module", "source", "check", "message"),
    [
        ("vpnstack.link.tap", "from ..stack import interface", upward, "vpnstack.stack.interface"),
        ("vpnstack.proto.icmp", "from .tcp import block", upward, "vpnstack.proto.tcp.block"),
        ("vpnstack.core.x", "def f():\n    from .. import Gateway", upward, "imports vpnstack,"),
        ("vpnstack.link.tap", "import vpnstack.gateway", upward, "vpnstack.gateway"),
        ("vpnstack.gateway", "from .cli import main", upward, "vpnstack.cli"),
        ("vpnstack.proto.tcp.rtt", "from .block import Block", cycles, "vpnstack.proto.tcp.block"),
        ("vpnstack.wire.ndp", "import time", does_io, "uses time"),
        ("vpnstack.proto.arp", "from asyncio import sleep", does_io, "uses asyncio.sleep"),
        ("vpnstack.stack.x", "import os.path", does_io, "uses os.path"),
        ("dataflow.p9.server", "import socket", does_io, "uses socket"),
        ("hypervisor.vhost.backend", "import select", does_io, "uses select"),
        ("vpnstack.proto.tcp.rtt", "import random\nrandom.random()", does_io, "random.random"),
        ("vpnstack.proto.tcp.rtt", "from random import randint", does_io, "random.randint"),
        ("vpnstack.aio.x", "import hypervisor", across, "imports hypervisor"),
        ("dataflow.aio.x", "from vpnstack.link.port import Port", across, "vpnstack.link.port"),
        ("hypervisor.vhost.x", "from vpnstack.stack import x", across, "vpnstack.stack.x"),
        ("hypervisor.vhost.x", "from vpnstack import Gateway", across, "vpnstack.Gateway"),
        ("hypervisor.x", "if TYPE_CHECKING:\n    import dataflow", across, "imports dataflow"),
    ],
)
def test_a_bad_import_is_found(module: str, source: str, check: object, message: str) -> None:
    assert callable(check)
    (found,) = check({**BASE, module: source})
    assert module in found
    assert message in found
