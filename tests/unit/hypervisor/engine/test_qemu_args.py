"""QEMU's command line, argument by argument."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hypervisor import Disk
from hypervisor.engine.base import Config
from hypervisor.engine.qemu_args import Wires, cmdline, command_line

CONFIG = Config("vm,1", Path("/k"), None, "root=/dev/vda", 256 << 20, 2)


def option(args: list[str], name: str) -> list[str]:
    return [args[i + 1] for i, arg in enumerate(args) if arg == name]


def test_minimal_machine() -> None:
    args = command_line(CONFIG, Wires(5, 6), qemu="/q", kvm=False, tsc_khz=1000)
    assert args[0] == "/q"
    assert option(args, "-name") == ["vm,,1,debug-threads=on"]
    assert option(args, "-accel") == ["tcg,thread=multi"]
    assert option(args, "-smp") == ["2"]
    assert option(args, "-m") == ["size=256M"]
    assert option(args, "-object") == ["memory-backend-memfd,id=ram,size=268435456,share=on"]
    assert option(args, "-chardev") == ["socket,id=qmp,fd=5", "socket,id=com1,fd=6"]
    assert option(args, "-netdev") == []
    assert "-initrd" not in args


def test_kvm_uses_the_hosts_processor() -> None:
    args = command_line(CONFIG, Wires(5, 6), qemu="q", kvm=True)
    assert option(args, "-accel") == ["kvm"]
    assert option(args, "-cpu") == ["host"]


def test_nic_is_a_client_of_our_socket() -> None:
    wires = Wires(5, 6, [("/tmp/a,b", bytes.fromhex("5a94ef000001"))])
    args = command_line(CONFIG, wires, qemu="q", kvm=False)
    assert option(args, "-chardev")[2] == "socket,id=nic0,path=/tmp/a,,b"
    assert option(args, "-netdev") == ["vhost-user,id=net0,chardev=nic0"]
    assert "virtio-net-device,netdev=net0,mac=5a:94:ef:00:00:01" in option(args, "-device")


def test_devices_of_ours_are_front_ends_of_our_sockets() -> None:
    wires = Wires(5, 6, devices=[(19, "/t/device0"), (4, "/t/device1")])
    args = command_line(CONFIG, wires, qemu="q", kvm=False)
    assert option(args, "-chardev")[2:] == [
        "socket,id=dev0,path=/t/device0",
        "socket,id=dev1,path=/t/device1",
    ]
    assert option(args, "-device")[2:] == [
        "vhost-user-vsock-device,chardev=dev0",
        "vhost-user-rng,chardev=dev1",
    ]


@pytest.mark.parametrize(
    ("kvm", "khz", "there", "absent"),
    [
        (False, 2_600_000, "tsc_early_khz=2600000", "nothing"),
        (False, 0, "mitigations=off", "tsc_early_khz"),
        (True, 2_600_000, "panic=-1", "mitigations=off"),
    ],
)
def test_cmdline(kvm: bool, khz: int, there: str, absent: str) -> None:
    words = cmdline("quiet=no", kvm, khz).split()
    assert there in words
    assert not any(word.startswith(absent) for word in words)
    assert words[-1] == "quiet=no"  # the user has the last word


def test_cmdline_without_users_part_has_no_space_at_the_end() -> None:
    assert cmdline("", True, 0) == cmdline("", True, 0).strip()


def test_disks_flush_for_real() -> None:
    disks = (Disk(Path("/a,b.qcow2"), serial="x,y"), Disk(Path("/c"), read_only=True, direct=True))
    args = command_line(replace(CONFIG, disks=disks), Wires(5, 6), qemu="q", kvm=True)
    first, second = map(json.loads, option(args, "-blockdev"))
    assert (first["driver"], first["file"]["filename"]) == ("qcow2", "/a,b.qcow2")
    assert (second["driver"], second["read-only"]) == ("raw", True)
    assert first["cache"] == {"direct": False, "no-flush": False}
    assert second["file"]["cache"] == {"direct": True, "no-flush": False}
    assert first["discard"] == first["file"]["discard"] == "unmap"
    devices = [each for each in option(args, "-device") if "virtio-blk" in each]
    assert devices[0].startswith("virtio-blk-device,drive=disk0,num-queues=2,")
    assert devices[0].endswith(",serial=x,,y")
