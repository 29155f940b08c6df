"""Package records, what they lead to, and the files of a .deb; no network, no real lists."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from hypervisor.errors import UsageError
from hypervisor.image import apt
from hypervisor.image.cache import Cache
from hypervisor.image.rootfs import from_package

RECORD = """\
Package: {name}
Version: 1:2.0-1
Architecture: amd64
Depends: {depends}
Description: a package
 Depends: not this one, which is a continuation
Size: 123
SHA256: {sha256}
"""


def record(name: str, depends: str = "", sha256: str = "00") -> str:
    return RECORD.format(name=name, depends=depends, sha256=sha256)


@pytest.fixture
def lists(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """An apt whose lists are the dictionary returned."""
    table: dict[str, str] = {}

    def run(command: list[str]) -> subprocess.CompletedProcess[str]:
        text = table.get(command[-1], "")
        return subprocess.CompletedProcess(command, 0 if text else 100, text, "")

    monkeypatch.setattr(apt, "_run", run)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    return table


def test_record_takes_first_alternatives_without_versions() -> None:
    package = apt.parse_record(record("p", "libc6 (>= 2.3), a:any | b, c"))
    assert package.depends == ("libc6", "a", "c")
    assert package.file_name == "p_1%3a2.0-1_amd64.deb"


def test_record_without_checksum_is_refused() -> None:
    with pytest.raises(UsageError, match="SHA256"):
        apt.parse_record(record("p").replace("SHA256", "MD5sum"))


def test_kernel_follows_a_meta_package(lists: dict[str, str], tmp_path: Path) -> None:
    lists["linux-image-amd64"] = record("linux-image-amd64", "linux-image-6.1.0-9-amd64 (= 1)")
    lists["linux-image-6.1.0-9-amd64"] = record(
        "linux-image-6.1.0-9-amd64", "kmod, initramfs-tools"
    )
    packages = apt.Apt(tmp_path / "lists.json").kernel("linux-image-amd64")
    assert [p.name for p in packages] == ["linux-image-6.1.0-9-amd64"]


def test_kernel_takes_separate_modules(lists: dict[str, str], tmp_path: Path) -> None:
    meta = "linux-image-6.8.0-1-generic, linux-modules-extra-6.8.0-1-generic, linux-firmware"
    lists["linux-image-generic"] = record("linux-image-generic", meta)
    lists["linux-image-6.8.0-1-generic"] = record(
        "linux-image-6.8.0-1-generic", "kmod, linux-modules-6.8.0-1-generic"
    )
    for name in ("linux-modules-6.8.0-1-generic", "linux-modules-extra-6.8.0-1-generic"):
        lists[name] = record(name, "linux-modules-6.8.0-1-generic")
    packages = apt.Apt(tmp_path / "lists.json").kernel("linux-image-generic")
    assert [p.name for p in packages] == [
        "linux-image-6.8.0-1-generic",
        "linux-modules-extra-6.8.0-1-generic",
        "linux-modules-6.8.0-1-generic",
    ]


def test_libraries_are_followed_and_services_are_not(lists: dict[str, str], tmp_path: Path) -> None:
    lists["iperf3"] = record("iperf3", "libiperf0, adduser, debconf")
    lists["libiperf0"] = record("libiperf0", "libc6")
    lists["libc6"] = record("libc6")
    packages = apt.Apt(tmp_path / "lists.json").with_libraries(["iperf3"])
    assert [p.name for p in packages] == ["iperf3", "libiperf0", "libc6"]


def test_records_are_remembered(
    lists: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists["libc6"] = record("libc6")
    apt.Apt(tmp_path / "lists.json").show("libc6")
    lists.clear()
    assert apt.Apt(tmp_path / "lists.json").show("libc6").name == "libc6"
    monkeypatch.setattr(apt, "_lists_stamp", lambda: [1])
    with pytest.raises(UsageError):
        apt.Apt(tmp_path / "lists.json").show("libc6")


@pytest.mark.parametrize("name", ["nosuch", "-o", "a b", "", "../x"])
def test_unknown_or_impossible_package(lists: dict[str, str], tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="package"):
        apt.Apt(tmp_path / "lists.json").show(name)


def test_no_apt_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UsageError, match="apt is not here"):
        apt.Apt(tmp_path / "lists.json")


def test_fetch_takes_apts_own_copy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(apt, "_ARCHIVES", tmp_path)
    package = apt.parse_record(record("p", sha256=hashlib.sha256(b"deb").hexdigest()))
    (tmp_path / package.file_name).write_bytes(b"deb")
    assert apt.fetch(package, Cache(tmp_path / "c"), lambda *a: None).parent == tmp_path


def test_failed_fetch_is_one_line_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool = tmp_path / "bin" / "apt-get"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho 'E: Failed to fetch x: no route'\nexit 100\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    monkeypatch.setattr(apt, "_ARCHIVES", tmp_path)
    with pytest.raises(UsageError, match=r"no route; check the network and run apt-get update$"):
        apt.fetch(apt.parse_record(record("p")), Cache(tmp_path / "c"), lambda *a: None)
    assert list((tmp_path / "c" / "debs").iterdir()) == []


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")
def test_files_of_a_real_deb(tmp_path: Path) -> None:
    root = tmp_path / "p"
    for name in ("DEBIAN", "bin", "usr/share/doc/p"):
        (root / name).mkdir(parents=True)
    (root / "DEBIAN/control").write_text(
        "Package: p\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: d\n"
    )
    (root / "bin/tool").write_bytes(b"\x7fELF")
    (root / "bin/tool").chmod(0o755)
    (root / "bin/link").symlink_to("tool")
    (root / "usr/share/doc/p/README").write_text("no use in a guest")
    deb = tmp_path / "p.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-b", root, deb], check=True, capture_output=True
    )
    entries = {e.name: e for e in from_package(apt.unpack(deb, tmp_path))}
    assert entries["usr/bin/tool"].data == b"\x7fELF"
    assert entries["usr/bin/tool"].mode & 0o777 == 0o755
    assert entries["usr/bin/link"].data == b"tool"
    assert not any("doc" in name for name in entries)


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")
def test_damaged_deb(tmp_path: Path) -> None:
    (tmp_path / "p.deb").write_bytes(b"!<arch>\nnonsense")
    with pytest.raises(UsageError, match=r"cannot read p\.deb"):
        apt.unpack(tmp_path / "p.deb", tmp_path)
