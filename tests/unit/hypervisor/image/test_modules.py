"""Reading .modinfo, and which modules others need."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor.errors import UsageError
from hypervisor.image.modules import Index, Info, modinfo, name_of


def elf_module(info: bytes) -> bytes:
    """Return the least ELF file with a .modinfo section."""
    names = b"\0.modinfo\0.shstrtab\0"
    body = info + names
    table = 64 + len(body)
    header = b"\x7fELF\x02\x01\x01".ljust(40, b"\0") + struct.pack("<Q", table)
    header = header.ljust(58, b"\0") + struct.pack("<HHH", 64, 3, 2)
    row = struct.Struct("<IIQQQQIIQQ")
    rows = row.pack(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    rows += row.pack(1, 1, 0, 0, 64, len(info), 0, 0, 0, 0)
    rows += row.pack(10, 3, 0, 0, 64 + len(info), len(names), 0, 0, 0, 0)
    return header + body + rows


def test_modinfo_reads_depends_softdep_and_alias() -> None:
    text = b"license=GPL\0depends=virtio-ring,virtio\0softdep=pre: crc32c post: late\0alias=fs-9p\0"
    info = modinfo(elf_module(text))
    assert info == Info(("virtio_ring", "virtio"), ("crc32c",), ("fs-9p",))


def test_modinfo_without_dependencies() -> None:
    assert modinfo(elf_module(b"depends=\0")) == Info()


@given(st.binary(max_size=300))
def test_modinfo_of_anything_never_fails_otherwise(data: bytes) -> None:
    for elf in (data, b"\x7fELF\x02" + data):
        try:
            modinfo(elf)
        except UsageError:
            pass


@pytest.mark.parametrize(
    ("path", "name"),
    [("kernel/net/9p/9pnet.ko", "9pnet"), ("a/snd-hda.ko.xz", "snd_hda"), ("virtio", "virtio")],
)
def test_name_of(path: str, name: str) -> None:
    assert name_of(path) == name


INDEX = Index(
    {
        "virtio_ring": Info(),
        "virtio": Info(("virtio_ring",)),
        "virtio_net": Info(("virtio", "net_failover")),
        "net_failover": Info(("failover",)),
        "failover": Info(),
        "ext4": Info(("jbd2",), ("crc32c",)),
        "jbd2": Info(),
        "crc32c_generic": Info(aliases=("crc32c",)),
        "crc32c_intel": Info(aliases=("crc32c",)),
        "a": Info(soft=("b",)),
        "b": Info(soft=("a",)),
    },
    builtin=["af_packet"],
)


def test_closure_has_dependencies_first_and_once() -> None:
    order = INDEX.closure(["virtio-net", "virtio"])
    assert order == ["virtio_ring", "virtio", "failover", "net_failover", "virtio_net"]


def test_closure_leaves_builtin_out() -> None:
    assert INDEX.closure(["af_packet"]) == []
    assert "af_packet" in INDEX


def test_soft_dependency_by_alias_takes_the_generic_one() -> None:
    assert INDEX.closure(["ext4"]) == ["crc32c_generic", "jbd2", "ext4"]


def test_circle_of_soft_dependencies_ends() -> None:
    assert sorted(INDEX.closure(["a"])) == ["a", "b"]


def test_unknown_module_is_named() -> None:
    with pytest.raises(UsageError, match="no module nosuch"):
        INDEX.closure(["nosuch"])


def test_modules_dep_has_nearest_first() -> None:
    text = INDEX.modules_dep(INDEX.closure(["virtio_net"])).decode().splitlines()
    assert text[0] == "virtio_ring.ko:"
    assert text[-1] == "virtio_net.ko: net_failover.ko failover.ko virtio.ko virtio_ring.ko"


def test_modules_alias() -> None:
    assert INDEX.modules_alias(["crc32c_intel"]) == b"alias crc32c crc32c_intel\n"
