"""The table of device options: texts on the command line and in files become arguments."""

from pathlib import Path

import pytest

from hypervisor.commands import devices, settings
from hypervisor.commands.config import check
from hypervisor.commands.devices import DeviceOption, Shape, machine_arguments
from hypervisor.commands.settings import SettingError, Settings, apply
from hypervisor.errors import UsageError

OPTIONS = (
    DeviceOption("disk", "disks", "PATH", "", lambda text, place: place / text),
    DeviceOption("nic", "nics", "KIND", "", lambda text, place: text),
    DeviceOption("tap", "nics", "NAME", "", lambda text, place: f"tap {text}"),
    DeviceOption(
        "share", "shares", "TAG=DIR", "", lambda text, place: text.split("="), Shape.MAPPING
    ),
    DeviceOption("vsock", "vsock", "CID", "", lambda text, place: int(text), Shape.ONE),
)


@pytest.fixture(autouse=True)
def _table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "DEVICE_OPTIONS", OPTIONS)
    names = tuple(option.name for option in OPTIONS)
    monkeypatch.setattr(settings, "DEVICES", names)
    monkeypatch.setattr(settings, "_KINDS", settings._KINDS | dict.fromkeys(names, settings._LIST))


def made(**values: object) -> dict[str, object]:
    asked = apply(Settings(), values, Path("/place"))
    return machine_arguments(asked.devices, asked.directory)


def test_shapes() -> None:
    assert made(disk=["a", "b"], share={"src": "x"}, vsock="3") == {
        "disks": [Path("/place/a"), Path("/place/b")],
        "shares": {"src": "x"},
        "vsock": 3,
    }
    assert made(share=["a=1", "b=2"]) == {"shares": {"a": "1", "b": "2"}}
    assert made() == {}


def test_two_options_of_one_keyword_add_up() -> None:
    assert made(nic="jack", tap="tap0") == {"nics": ["jack", "tap tap0"]}


def test_texts_are_checked_before_anything_is_made() -> None:
    asked = apply(Settings(), {"vsock": "three"}, Path())
    with pytest.raises(ValueError, match="three"):
        check(asked)
    with pytest.raises(SettingError, match="two --share are called src") as caught:
        check(apply(Settings(), {"share": ["src=a", "src=b"]}, Path()))
    assert caught.value.key == "share"


def test_one_is_one() -> None:
    with pytest.raises(UsageError, match="--vsock was given 2 times"):
        made(vsock=["3", "4"])


def test_a_name_twice() -> None:
    with pytest.raises(UsageError, match="two --share are called src"):
        made(share=["src=a", "src=b"])


def test_paths_are_relative_to_where_they_were_written() -> None:
    file = apply(Settings(), {"disk": "a", "vsock": "3"}, Path("/file"))
    asked = apply(file, {"disk": ("b",)}, Path("/here"))
    assert machine_arguments(asked.devices, asked.directory) == {
        "disks": [Path("/here/b")],
        "vsock": 3,
    }
    assert file.directory("disk") == Path("/file")


def test_the_kind_is_checked() -> None:
    with pytest.raises(SettingError, match="disk is 3, expected a list of strings"):
        made(disk=3)
