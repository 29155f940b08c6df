"""HyperKit's options (`-f`, `-l`, `-s`) in the words of this command.

What has no meaning here is refused with what to use instead; what is always so is accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import click

from ..errors import UsageError

_KEXEC_PARTS = 3

# Flags that change nothing here, and why; and those that cannot be, with what to use.
ACCEPTED = {
    "-u": "the clock keeps UTC, always",
    "-H": "processors leave the host's alone when they halt, always",
    "-P": "KVM decides about PAUSE",
    "-w": "KVM answers unknown MSRs",
    "-W": "virtio devices are not on PCI: they need no MSI",
    "-x": "x2APIC is there, always",
}
REFUSED = {
    "-b": "a bvmconsole is FreeBSD's: use -l com1,...",
    "-C": "guest memory is never in a core dump of ours: dump it inside the guest (kdump)",
    "-e": "unknown I/O ports read as all ones, always: leave -e out",
    "-Y": "the MP table comes with --no-acpi alone: leave -Y out",
}


def parse_firmware(text: str) -> dict[str, object]:
    """Read `kexec,KERNEL[,INITRD][,CMDLINE]`; the command line may have commas."""
    kind, _, rest = text.partition(",")
    if kind in {"fbsd", "bootrom", "multiboot"}:
        raise UsageError(f"-f {kind} is not here: kernels are started directly, -f kexec,KERNEL")
    if kind != "kexec" or not rest:
        raise UsageError(f"the firmware {text!r}, expected kexec,KERNEL[,INITRD][,CMDLINE]")
    kernel, *more = rest.split(",", _KEXEC_PARTS - 1)
    settings: dict[str, object] = {"kernel": kernel}
    if more and more[0]:
        settings["initrd"] = more[0]
    if len(more) > 1:
        settings["cmdline"] = more[1].strip('"')
    return settings


@dataclass(frozen=True, slots=True)
class Serial:
    """Where the serial port leads; `pty` None: no pseudo-terminal, "": one that is printed."""

    stdio: bool = False
    pty: str | None = None
    device: str = ""
    log: str = ""


def parse_serial(texts: Sequence[str]) -> Serial | None:
    """Read `com1,WORD[,WORD...]`; None without any."""
    if not texts:
        return None
    found: dict[str, object] = {}
    for text in texts:
        port, *words = text.split(",")
        if port != "com1" or not words:
            raise UsageError(
                f"the serial port {text!r}, expected com1 (the only one) and"
                " stdio, null, log=PATH, autopty[=FILE] or /dev/ttyX"
            )
        for word in words:
            found.update(_serial_word(word))
    return Serial(**found)  # type: ignore[arg-type]


def _serial_word(word: str) -> dict[str, object]:
    name, equals, value = word.partition("=")
    if word == "stdio":
        return {"stdio": True}
    if word == "null":
        return {}
    if name == "autopty" and bool(value) == bool(equals):
        return {"pty": value}
    if name == "log" and value:
        return {"log": value}
    if word.startswith("/dev/"):
        return {"device": word}
    if word == "asl":
        raise UsageError("-l com1,asl is macOS's log: use log=PATH, or --console-log FILE")
    raise UsageError(f"-l com1,{word}, expected stdio, null, log=PATH, autopty[=FILE] or /dev/ttyX")


Words = Mapping[str, str]  # of a slot's configuration; what has no "=" maps to ""


def parse_slot(text: str) -> dict[str, object]:
    """Read `SLOT,DRIVER[,CONF]` and return the settings that it stands for."""
    slot, comma, rest = text.partition(",")
    driver, _, conf = rest.partition(",")
    if not comma or not slot.replace(":", "").isdigit():
        raise UsageError(
            f"the device {text!r}, expected SLOT,DRIVER[,CONF], such as 2:0,virtio-rnd"
        )
    if driver in _REFUSED_DRIVERS:
        raise UsageError(f"-s {driver} is not here: {_REFUSED_DRIVERS[driver]}")
    if driver not in _DRIVERS:
        raise UsageError(f"-s {driver}, expected one of {', '.join(sorted(_DRIVERS))}")
    return _DRIVERS[driver](conf)


def _words(conf: str) -> dict[str, str]:
    return {key: value for key, _, value in (word.partition("=") for word in conf.split(","))}


def _nothing(conf: str) -> dict[str, object]:
    return {}


def _disk(conf: str) -> dict[str, object]:
    path, *words = conf.split(",")
    path = path.removeprefix("file://").partition("?")[0]
    if not path:
        raise UsageError("a disk without a path, expected -s SLOT,virtio-blk,PATH")
    for word in words:
        if word.startswith(("format=qcow", "qcow-")):
            raise UsageError(f"{word}: convert it first, qemu-img convert -O raw {path} disk.img")
        if word.startswith("sectorsize="):
            raise UsageError(f"{word}: disks have the sectors of their file here, leave it out")
        if word not in {"nocache", "sync", "direct", "ro", "format=raw"}:
            raise UsageError(f"{word!r} of the disk {path}, expected ro, nocache, sync or direct")
    return {"disk": (f"{path},ro" if "ro" in words else path,)}


def _compact_disc(conf: str) -> dict[str, object]:
    path = conf.partition(",")[0]
    return _disk(f"{path},ro")


def _share(conf: str) -> dict[str, object]:
    words = _words(conf)
    path, port, tag = (words.get(name, "") for name in ("path", "port", "tag"))
    if not tag or bool(path) == bool(port):
        raise UsageError(f"virtio-9p,{conf}, expected path=SOCKET,tag=TAG or port=PORT,tag=TAG")
    return {"share": (f"{tag}=unix:{path}" if path else f"{tag}=tcp:127.0.0.1:{port}",)}


def _vsock(conf: str) -> dict[str, object]:
    words = _words(conf)
    if not words.get("guest_cid") or not words.get("path"):
        raise UsageError(f"virtio-sock,{conf}, expected guest_cid=N,path=DIRECTORY")
    text = f"cid={words['guest_cid']},path={words['path']}"
    forwards = words.get("guest_forwards", "")
    return {"vsock": (f"{text},forwards={forwards}" if forwards else text,)}


def _tap(conf: str) -> dict[str, object]:
    if not conf:
        raise UsageError("a TAP without a name, expected -s SLOT,virtio-tap,tap0")
    return {"nic": (f"tap:{conf}",)}


def _network(conf: str) -> dict[str, object]:
    words = _words(conf)
    for word in words:
        if word in {"mac", "macfile", "preferred_ipv4"}:
            raise UsageError(f"{word}=: the MAC comes of -U UUID and the address of the network")
    made: dict[str, object] = {"net": ""}
    return {**made, "uuid": words["uuid"]} if words.get("uuid") else made


_DRIVERS: Mapping[str, Callable[[str], dict[str, object]]] = {
    **dict.fromkeys(("hostbridge", "amd_hostbridge", "lpc", "virtio-rnd"), _nothing),
    **dict.fromkeys(("virtio-blk", "ahci-hd"), _disk),
    **dict.fromkeys(("virtio-net", "virtio-vpnkit"), _network),
    "ahci-cd": _compact_disc,
    "virtio-9p": _share,
    "virtio-sock": _vsock,
    "virtio-tap": _tap,
}
_REFUSED_DRIVERS = {
    "uart": "there is one serial port, -l com1,...",
    "dummy": "leave it out",
}


def settings(firmware: str | None, slots: Sequence[str]) -> dict[str, object]:
    """Return the settings that `-f` and all `-s` stand for."""
    made = parse_firmware(firmware) if firmware else {}
    for text in slots:
        made = merged(made, parse_slot(text))
    return made


def merged(first: Mapping[str, object], then: Mapping[str, object]) -> dict[str, object]:
    """Return both, lists added up, of everything else the last."""
    made = dict(first)
    for key, value in then.items():
        before = made.get(key, ())
        both = isinstance(value, tuple) and isinstance(before, tuple)
        made[key] = (*before, *value) if both else value  # type: ignore[misc]
    return made


def options(command: Callable[..., None]) -> Callable[..., None]:
    """Add HyperKit's short options that a command has no long names for."""
    made = [
        click.option(
            "-f", "--firmware", metavar="kexec,KERNEL[,INITRD][,CMDLINE]", help="As HyperKit's."
        ),
        click.option(
            "-s", "slots", multiple=True, metavar="SLOT,DRIVER[,CONF]",
            help="A device as HyperKit names it, where there is one like it.",
        ),
        click.option("-g", "gdb", hidden=True, expose_value=False, callback=_no_gdb),
    ]  # fmt: skip
    made += [
        click.option(flag, f"accepted_{flag[1:]}", is_flag=True, hidden=True, expose_value=False)
        for flag in ACCEPTED
    ]
    made += [
        click.option(
            flag, f"refused_{flag[1:]}", is_flag=True, hidden=True, expose_value=False,
            callback=_refuse,
        )
        for flag in REFUSED
    ]  # fmt: skip
    for option in reversed(made):
        command = option(command)
    return command


def _refuse(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        flag = parameter.opts[0]
        raise UsageError(f"{flag} is not here: {REFUSED[flag]}")


def _no_gdb(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        raise UsageError(
            "-g is not here: use --engine qemu --engine-arg=-gdb --engine-arg=tcp::PORT"
        )
