"""Published ports and the network's addresses, as they are written."""

import pytest

from hypervisor.commands.network import Publication, addresses, find, parse_publish
from hypervisor.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8080:80", Publication("tcp", ("127.0.0.1", 8080), 80)),
        ("80", Publication("tcp", ("127.0.0.1", 80), 80)),
        ("0:80", Publication("tcp", ("127.0.0.1", 0), 80)),
        ("5353:53/udp", Publication("udp", ("127.0.0.1", 5353), 53)),
        ("0.0.0.0:8080:80/tcp", Publication("tcp", ("0.0.0.0", 8080), 80)),
        ("[::1]:8080:80", Publication("tcp", ("::1", 8080), 80)),
    ],
)
def test_publish(text: str, expected: Publication) -> None:
    assert parse_publish(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "x", "80:0", "0", "1:2:3", "8080:80/sctp", "8080:80/", "65536:1", "1:-2", "1.2.3.999:1:2",
     "[::g]:1:2", "8080:80:", "²:80"],
)  # fmt: skip
def test_bad_publish(text: str) -> None:
    with pytest.raises(UsageError, match=r"expected .*such as 8080:80"):
        parse_publish(text)


def test_addresses() -> None:
    assert addresses(None) == []
    assert addresses("") == []
    assert addresses("10.1.0.1/16,fd00::1/64") == ["10.1.0.1/16", "fd00::1/64"]
    assert addresses("10.1.0.0/16") == ["10.1.0.1/16"]


@pytest.mark.parametrize("text", ["10.0.0.1", "machines.toml", "10.0.0.1/31", "10.0.0.1/33"])
def test_bad_addresses(text: str) -> None:
    with pytest.raises(UsageError, match="expected ADDRESS/PREFIX"):
        addresses(text)


async def test_the_network_is_found_and_seeds_give_macs() -> None:
    async with find()("10.9.0.1/24") as net:
        macs = [net.port("a").mac, net.port("b", seed="x").mac, net.port("c", seed="x").mac]
        assert macs[0] != macs[1] == macs[2]
        assert net.port("a").mac == macs[0]


def test_without_a_kit_that_brings_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hypervisor.commands.network.entry_points", lambda group: ())
    with pytest.raises(UsageError, match="--net needs a kit"):
        find()
