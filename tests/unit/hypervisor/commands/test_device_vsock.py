"""The texts of --vsock."""

from pathlib import Path

import pytest

from hypervisor.commands.devices import parse_vsock
from hypervisor.errors import UsageError


def test_vsock() -> None:
    made = parse_vsock("cid=7,path=v,forwards=80;81", Path("/place"))
    assert (made.cid, made._directory, made._forwards) == (7, Path("/place/v"), (80, 81))
    made = parse_vsock("firecracker=/run/fc", Path("/place"))
    assert (made.cid, made._directory, made._firecracker) == (3, None, "/run/fc")


@pytest.mark.parametrize(
    "text", ["", "cid=x", "port=1", "cid=2", "forwards=1", "path=v,forwards=x", "cid"]
)
def test_bad_vsock(text: str) -> None:
    with pytest.raises(UsageError):
        parse_vsock(text, Path())
