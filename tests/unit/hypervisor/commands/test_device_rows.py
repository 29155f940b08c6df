"""The texts of each device's option."""

from pathlib import Path

import pytest

from hypervisor import Disk
from hypervisor.commands.devices import parse_disk, parse_share
from hypervisor.errors import UsageError

PLACE = Path("/place")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.img", Disk(PLACE / "a.img")),
        ("/a.img,ro", Disk(Path("/a.img"), read_only=True)),
        ("a.img,size=10G,serial=x", Disk(PLACE / "a.img", size="10G", serial="x")),
        (
            "a,format=qcow2,direct,sector_size=4096",
            Disk(PLACE / "a", format="qcow2", direct=True, sector_size=4096),
        ),
    ],
)
def test_disk(text: str, expected: Disk) -> None:
    assert parse_disk(text, PLACE) == expected


@pytest.mark.parametrize("text", ["", ",ro", "a,fast", "a,size", "a,size=x", "a,sector_size=x"])
def test_bad_disk(text: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        parse_disk(text, PLACE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("src=.", ("src", "/place")),
        ("src=a", ("src", "/place/a")),
        ("src=/a=b", ("src", "/a=b")),
        ("src=ro:a", ("src", "ro:/place/a")),
        ("data=git:state.git", ("data", "git:/place/state.git")),
        ("x=unix:/run/s", ("x", "unix:/run/s")),
        ("x=tcp:127.0.0.1:564", ("x", "tcp:127.0.0.1:564")),
        ("x=a:b", ("x", "/place/a:b")),
    ],
)
def test_share(text: str, expected: tuple[str, str]) -> None:
    assert parse_share(text, PLACE) == expected


@pytest.mark.parametrize("text", ["", "src", "src=", "=."])
def test_bad_share(text: str) -> None:
    with pytest.raises(UsageError, match="expected TAG="):
        parse_share(text, PLACE)
