"""virtio-9p in front of an outside server: diod, by address, as HyperKit's bridge was used."""

import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from mmio_driver import Bench
from p9_driver import RREAD, TREAD, Mount, message, mount, string, tversion

from hypervisor.aio.p9 import Outside
from hypervisor.devices.p9 import P9

pytestmark = [
    pytest.mark.compat,
    pytest.mark.skipif(shutil.which("diod") is None, reason="needs the package diod"),
]
TATTACH, TWALK, TLOPEN = 104, 110, 12
NOFID = 0xFFFFFFFF


@pytest.fixture
def guest() -> Iterator[Mount]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    bench = Bench(P9("outside", Outside(f"tcp:127.0.0.1:{port}")))
    yield Mount(bench)
    bench.close()


@pytest.fixture
def diod(guest: Mount, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    assert isinstance(guest.device._server, Outside)
    address = guest.device._server.address.removeprefix("tcp:")
    argv = ["diod", "-f", "-n", "-c", "/dev/null", "-e", str(tmp_path), "-l", address]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as process:
        yield process
        process.kill()


def test_a_file_of_diod(guest: Mount, diod: subprocess.Popen[bytes], tmp_path: Path) -> None:
    data = os.urandom(50_000)
    (tmp_path / "file").write_bytes(data)
    guest = mount(guest.bench)  # it dials until diod is there
    body = struct.pack("<II", 0, NOFID) + string("root") + string(str(tmp_path))
    answer = guest.call(message(TATTACH, 1, body + struct.pack("<I", os.getuid())))
    assert answer[4] == TATTACH + 1
    walk = struct.pack("<IIH", 0, 1, 1) + string("file")
    assert guest.call(message(TWALK, 1, walk))[4] == TWALK + 1
    assert guest.call(message(TLOPEN, 1, struct.pack("<II", 1, os.O_RDONLY)))[4] == TLOPEN + 1
    read = message(TREAD, 1, struct.pack("<IQI", 1, 1000, 40_000))
    answer = guest.call(read, 11, *[4096] * 10)
    assert answer[4] == RREAD
    assert answer[11:] == data[1000:41_000]
    diod.kill()
    diod.wait()
    assert guest.call(read, 11, *[4096] * 10)[4] == 7, "EIO until it is mounted again"


def test_nobody_is_there(guest: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest.device._server, "_patience", 0)
    started = Mount.start(guest.bench)
    assert started.call(tversion())[4] == 7
