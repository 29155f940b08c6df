"""QEMU's command line for a machine: pure functions, so that every choice can be tested.

The `microvm` board is used: no firmware tables to walk, no PCI to scan, virtio over MMIO found
through ACPI.  Measured under emulation with Debian's 6.1 kernel as ELF: 1.8 s to init against
2.3 s on `q35`; and QEMU 7.2's crash with vhost-user interrupts over PCI (MSI-X without KVM)
cannot happen.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass

from ..devices.disk import Disk
from .base import Config
from .nic import Tap, VhostUser

# What every guest gets: a console, an end at panic instead of a wait, and no probing for what the
# board does not have.  A reboot is ACPI's: one by triple fault would look like a crash.
CMDLINE = "console=ttyS0 panic=-1 reboot=a quiet pci=off random.trust_cpu=on"
# Emulated processors have no speculation to guard against, and a clock that is right.
CMDLINE_TCG = "mitigations=off tsc=reliable no_timer_check"
# The TSC that TCG shows is the host's.  A guest that measures it against the emulated PIT fails on
# a busy host, and hangs: one boot in three here, none with the frequency given.
CMDLINE_TSC = "tsc_early_khz={khz}"

# QEMU's front-ends for devices that are ours, by virtio's numbers (virtio 1.2, chapter 5).
FRONT_ENDS = {4: "vhost-user-rng", 19: "vhost-user-vsock-device"}


@dataclass(frozen=True, slots=True)
class Share:
    """A directory of the host that the guest mounts by its tag; see `confine` for set-ID bits."""

    tag: str
    directory: str
    read_only: bool
    keep_setuid: bool = False


@dataclass(frozen=True, slots=True)
class Wires:
    """What connects QEMU with us: inherited descriptors, and where each NIC leads, with its MAC: to
    a socket that we serve, an inherited TAP device, or what is not ours.

    `log` has the arguments for a log of resets, under emulation.
    """

    qmp: int
    console: int
    nics: Sequence[tuple[str | int | Tap | VhostUser, bytes]] = ()
    log: Sequence[str] = ()
    terminal: int = -1  # of a virtio console
    shares: Sequence[Share] = ()
    devices: Sequence[tuple[int, str]] = ()  # of ours over vhost-user: virtio's number and a path


def command_line(
    config: Config, wires: Wires, *, qemu: str, kvm: bool, tsc_khz: int = 0
) -> list[str]:
    """Return the program and its arguments; `tsc_khz` as `tsc.frequency_khz` gives it."""
    args = [qemu, "-name", f"{quoted(config.name)},debug-threads=on"]  # named, for `usage`
    args += ["-nodefaults", "-no-user-config"]
    args += ["-uuid", config.uuid] if config.uuid else []
    args += ["-display", "none", "-no-reboot"]
    acpi = "on" if config.acpi else "off"  # off: QEMU itself adds virtio_mmio.device=
    args += ["-machine", f"microvm,acpi={acpi},pcie=off,rtc=on,memory-backend=ram"]
    args += ["-accel", "kvm", "-cpu", "host"] if kvm else ["-accel", "tcg,thread=multi"]
    args += ["-smp", str(config.cpus), "-m", f"size={config.memory >> 20}M"]
    # Shared, so that a vhost-user device model outside QEMU can map it.
    args += ["-object", f"memory-backend-memfd,id=ram,size={config.memory},share=on"]
    args += ["-chardev", f"socket,id=qmp,fd={wires.qmp}", "-mon", "chardev=qmp,mode=control"]
    args += ["-chardev", f"socket,id=com1,fd={wires.console}", "-serial", "chardev:com1"]
    args += [*wires.log, "-device", "pvpanic", "-device", "virtio-rng-device"]
    if wires.terminal >= 0:
        args += ["-chardev", f"socket,id=hvc0,fd={wires.terminal}"]
        args += ["-device", "virtio-serial-device", "-device", "virtconsole,chardev=hvc0"]
    for number, (where, mac) in enumerate(wires.nics):
        args += nic(number, where, mac)
    for number, disk in enumerate(config.disks):
        args += block(number, disk, config.cpus)
    for number, (device_id, path) in enumerate(wires.devices):
        args += ["-chardev", f"socket,id=dev{number},path={quoted(path)}"]
        args += ["-device", f"{FRONT_ENDS[device_id]},chardev=dev{number}"]
    for number, each in enumerate(wires.shares):
        args += share(number, each)
    args += ["-kernel", str(config.kernel), "-append", cmdline(config.cmdline, kvm, tsc_khz)]
    if config.initrd is not None:
        args += ["-initrd", str(config.initrd)]
    return [*args, *config.engine_args]


def nic(number: int, where: str | int | Tap | VhostUser, mac: bytes) -> list[str]:
    """Return the arguments of a virtio NIC."""
    args: list[str] = []
    if isinstance(where, str):
        args += ["-chardev", f"socket,id=nic{number},path={quoted(where)}"]
        netdev = f"vhost-user,id=net{number},chardev=nic{number}"
    elif isinstance(where, VhostUser):
        # Connecting, QEMU tries again each second when the back-end goes; listening, it waits.
        how = "server=on" if where.listen else "reconnect=1"
        path = quoted(os.fspath(where.path))
        args += ["-chardev", f"socket,id=nic{number},path={path},{how}"]
        netdev = f"vhost-user,id=net{number},chardev=nic{number}{_queues(where)}"
    elif isinstance(where, Tap):
        names = f"ifname={quoted(str(where.name))},script=no,downscript=no"
        netdev = f"tap,id=net{number},{names}{_queues(where)}"
    else:
        netdev = f"tap,id=net{number},fd={where}"
    device = f"virtio-net-device,netdev=net{number},mac={mac.hex(':')}"
    if isinstance(where, VhostUser):
        device += f",host_mtu={where.mtu}"
    if isinstance(where, Tap | VhostUser) and where.queues > 1:
        device += ",mq=on"
    return [*args, "-netdev", netdev, "-device", device]


def _queues(where: Tap | VhostUser) -> str:
    return f",queues={where.queues}" if where.queues > 1 else ""


def block(number: int, disk: Disk, queues: int) -> list[str]:
    """Return the arguments of a virtio disk; a flush of the guest's is one of the file's."""
    node = {
        "driver": "qcow2" if disk.is_qcow2 else "raw",
        "node-name": f"disk{number}",
        "read-only": disk.read_only,
        "discard": "unmap",
        "cache": {"direct": disk.direct, "no-flush": False},
        "file": {
            "driver": "host_device" if disk.path.is_block_device() else "file",
            "filename": str(disk.path.absolute()),
            "discard": "unmap",
            "cache": {"direct": disk.direct, "no-flush": False},
        },
    }
    device = f"virtio-blk-device,drive=disk{number},num-queues={queues}"
    device += f",logical_block_size={disk.sector_size},physical_block_size=4096"
    device += f",serial={quoted(disk.serial)}" if disk.serial else ""
    return ["-blockdev", json.dumps(node), "-device", device]


def share(number: int, what: Share) -> list[str]:
    """Return the arguments of a directory that QEMU shares over virtio-9p.

    QEMU walks it without following links.  Owners are not changed for the guest ("none"), as in
    our own server, and inodes of several file systems stay apart ("remap").  Mapping them into
    attributes instead would hide from the host's users what guests make: files of mode 0600, and
    links that are files.
    """
    access = ",readonly=on" if what.read_only else ""
    return [
        "-fsdev",
        f"local,id=share{number},path={quoted(what.directory)},security_model=none,"
        f"multidevs=remap{access}",
        "-device",
        f"virtio-9p-device,fsdev=share{number},mount_tag={quoted(what.tag)}",
    ]


def cmdline(users: str, kvm: bool, tsc_khz: int) -> str:
    """Return the kernel's command line: ours, then the user's, who so has the last word."""
    parts = [CMDLINE]
    if not kvm:
        parts.append(CMDLINE_TCG)
        parts += [CMDLINE_TSC.format(khz=tsc_khz)] if tsc_khz else []
    return " ".join([*parts, *([users] if users else [])])


def quoted(value: str) -> str:
    """Return `value` as QEMU's option parser takes it: a comma is written twice."""
    return value.replace(",", ",,")
