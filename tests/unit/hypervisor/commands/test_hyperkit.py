"""HyperKit's options in the words of this command."""

import pytest

from hypervisor.commands.hyperkit import (
    Serial,
    merged,
    parse_firmware,
    parse_serial,
    parse_slot,
    settings,
)
from hypervisor.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kexec,vmlinuz", {"kernel": "vmlinuz"}),
        ("kexec,vmlinuz,initrd", {"kernel": "vmlinuz", "initrd": "initrd"}),
        ("kexec,k,,quiet", {"kernel": "k", "cmdline": "quiet"}),
        (
            "kexec,k,i,console=ttyS0,115200 quiet",
            {"kernel": "k", "initrd": "i", "cmdline": "console=ttyS0,115200 quiet"},
        ),
        ('kexec,k,i,"a b"', {"kernel": "k", "initrd": "i", "cmdline": "a b"}),
    ],
)
def test_firmware(text: str, expected: dict[str, object]) -> None:
    assert parse_firmware(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bootrom,uefi.fd", "-f bootrom is not here: .* -f kexec,KERNEL"),
        ("fbsd,userboot.so,vol", "-f fbsd is not here"),
        ("multiboot,k", "-f multiboot is not here"),
        ("kexec", "expected kexec,KERNEL"),
        ("kexec,", "expected kexec,KERNEL"),
        ("vmlinuz", "expected kexec,KERNEL"),
    ],
)
def test_bad_firmware(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_firmware(text)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ((), None),
        (("com1,stdio",), Serial(stdio=True)),
        (("com1,null",), Serial()),
        (("com1,autopty",), Serial(pty="")),
        (("com1,autopty=tty,log=ring",), Serial(pty="tty", log="ring")),
        (("com1,/dev/ttyS1",), Serial(device="/dev/ttyS1")),
        (("com1,stdio", "com1,log=ring"), Serial(stdio=True, log="ring")),
    ],
)
def test_serial(texts: tuple[str, ...], expected: Serial | None) -> None:
    assert parse_serial(texts) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("com2,stdio", r"expected com1 \(the only one\)"),
        ("com1", "expected com1"),
        ("stdio", "expected com1"),
        ("com1,asl", "use log=PATH"),
        ("com1,log=", "expected stdio"),
        ("com1,autopty=", "expected stdio"),
        ("com1,/etc/passwd", "expected stdio"),
    ],
)
def test_bad_serial(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_serial((text,))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0:0,hostbridge", {}),
        ("31,lpc", {}),
        ("0:5:0,virtio-rnd", {}),
        ("4,virtio-blk,disk.img", {"disk": ("disk.img",)}),
        ("4,virtio-blk,file:///d.img?sync=os,ro,nocache,format=raw", {"disk": ("/d.img,ro",)}),
        ("4,ahci-hd,disk.img", {"disk": ("disk.img",)}),
        ("4,ahci-cd,cd.iso", {"disk": ("cd.iso,ro",)}),
        ("2:0,virtio-net", {"net": ""}),
        ("2:0,virtio-vpnkit,path=/run/s,uuid=abc", {"net": "", "uuid": "abc"}),
        ("7,virtio-9p,path=/run/9p.sock,tag=src", {"share": ("src=unix:/run/9p.sock",)}),
        ("7,virtio-9p,port=564,tag=src", {"share": ("src=tcp:127.0.0.1:564",)}),
        ("8,virtio-sock,guest_cid=3,path=/run/v", {"vsock": ("cid=3,path=/run/v",)}),
        (
            "8,virtio-sock,guest_cid=3,path=/v,guest_forwards=1;2",
            {"vsock": ("cid=3,path=/v,forwards=1;2",)},
        ),
        ("2,virtio-tap,tap0,mac=02:0:0:0:0:1", {"nic": ("tap:tap0,mac=02:0:0:0:0:1",)}),
    ],
)
def test_slot(text: str, expected: dict[str, object]) -> None:
    assert parse_slot(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("virtio-rnd", "expected SLOT,DRIVER"),
        ("x,virtio-rnd", "expected SLOT,DRIVER"),
        ("3,virtio-gpu", "-s virtio-gpu, expected one of ahci-cd"),
        ("3,virtio-tap", "a TAP without a name"),
        ("3,uart", "-l com1"),
        ("3,virtio-blk", "a disk without a path"),
        ("3,virtio-blk,d,format=qcow", "qemu-img convert"),
        ("3,virtio-blk,d,sectorsize=4096", "leave it out"),
        ("3,virtio-blk,d,fast", "expected ro, nocache"),
        ("3,virtio-9p,port=564,path=/s,tag=t", "expected path=SOCKET,tag=TAG or port"),
        ("3,virtio-9p,path=/s", "expected path=SOCKET,tag=TAG"),
        ("3,virtio-sock,path=/s", "expected guest_cid=N"),
        ("3,virtio-net,mac=02:00:00:00:00:01", "comes of -U UUID"),
    ],
)
def test_bad_slot(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_slot(text)


def test_slots_and_firmware_add_up() -> None:
    slots = ("0:0,hostbridge", "1,virtio-blk,a", "2,virtio-blk,b,ro", "3,virtio-net")
    assert settings("kexec,k", slots) == {"kernel": "k", "disk": ("a", "b,ro"), "net": ""}


def test_what_comes_later_wins_but_for_lists() -> None:
    assert merged({"a": 1, "b": (1,)}, {"a": 2, "b": (2,), "c": (3,)}) == {
        "a": 2,
        "b": (1, 2),
        "c": (3,),
    }
