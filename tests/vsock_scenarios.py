"""What guests do over vsock, whatever runs them: for tests/compat (QEMU) and tests/kvm (ours)."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from hypervisor import Machine, Vsock

PATIENCE = 5.0  # seconds: the kernel takes a moment to forget a thread that has been joined
BOOT = 120.0  # seconds; under emulation the guest of a guest takes 10 to 20
PROMPT = b"/ # "
BODY = random.Random(7).randbytes(3 << 20)
SUM = hashlib.sha256(BODY).hexdigest()
ZEROS = 4 << 20
ZEROS_SUM = hashlib.sha256(bytes(ZEROS)).hexdigest()
MANY = 40


async def prompt(vm: Machine, text: bytes = PROMPT) -> bytes:
    """Read the console up to `text`."""
    seen = b""
    try:
        async with asyncio.timeout(BOOT):
            while text not in seen:
                data = await vm.console.read()
                assert data, f"the console ended: {seen[-2000:]!r}, {await vm.wait()}"
                seen += data
    except TimeoutError:
        pytest.fail(f"no {text!r} on the console: {seen[-2000:]!r}")
    return seen


async def command(vm: Machine, line: str) -> str:
    """Type a command at the guest's shell and return what it printed."""
    vm.console.write(b"echo '=''begin''='; " + line.encode() + b"; echo '=''end''='\n")
    printed = (await prompt(vm, b"=end=")).decode().replace("\r", "")
    return printed.partition("=begin=\n")[2].partition("=end=")[0]


async def connect(vsock: Vsock, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a port on which the guest is about to listen."""
    async with asyncio.timeout(BOOT):
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                return await vsock.connect(port)


async def finish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> bytes:
    """Send `data`, close our half, and return all that comes back."""

    async def send() -> None:
        for at in range(0, len(data), 100_000):
            writer.write(data[at : at + 100_000])
            await writer.drain()
        writer.write_eof()

    async with asyncio.timeout(BOOT):
        _, answer = await asyncio.gather(send(), reader.read())
    writer.close()
    await writer.wait_closed()
    return answer


async def streams(vm: Machine) -> None:
    """Both ways, in bulk, with half closes, many at once, and to nobody."""
    vsock = vm.vsock
    server = await vsock.start_server(_checksum, 2048)
    line = f"head -c {ZEROS} /dev/zero | socat -b 65536 -t 60 - VSOCK-CONNECT:2:2048"
    assert ZEROS_SUM in await command(vm, line)
    vm.console.write(b"socat -t 60 -b 65536 VSOCK-LISTEN:1024,fork EXEC:sha256sum &\n")
    assert SUM.encode() in await finish(*await connect(vsock, 1024), BODY)
    await _many(vm)
    with pytest.raises(ConnectionRefusedError, match="refused"):
        await vsock.connect(9)
    server.close()
    assert "eset" in await command(vm, "socat - VSOCK-CONNECT:2:2048 </dev/null 2>&1")
    counted = vsock.statistics()
    assert counted.octets_in > ZEROS
    assert counted.violations == counted.misaddressed == 0


async def _checksum(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    digest = hashlib.sha256()
    while data := await reader.read(65536):
        digest.update(data)
    writer.write(digest.hexdigest().encode() + b"\n")
    writer.close()


async def _many(vm: Machine) -> None:
    """Echo over many connections at once, each more than the buffers hold in turn."""
    vm.console.write(b"socat -t 60 VSOCK-LISTEN:1025,fork,backlog=128 EXEC:cat &\n")
    first = await connect(vm.vsock, 1025)
    bodies = [random.Random(i).randbytes(20_000) for i in range(MANY)]
    ends = [first] + [await vm.vsock.connect(1025) for _ in bodies[1:]]
    answers = await asyncio.gather(
        *(finish(*end, body) for end, body in zip(ends, bodies, strict=True))
    )
    assert answers == bodies


async def pauses(vm: Machine) -> None:
    """A transfer goes on after a pause, and what is asked meanwhile is answered afterwards."""
    vm.console.write(b"socat -t 60 VSOCK-LISTEN:1024,fork EXEC:sha256sum &\n")
    reader, writer = await connect(vm.vsock, 1024)
    for at in range(0, len(BODY), 1 << 20):
        writer.write(BODY[at : at + (1 << 20)])  # more than the guest has room for
        await vm.pause()
        late = asyncio.create_task(vm.vsock.connect(1024))
        await asyncio.sleep(0)
        await vm.resume()
        async with asyncio.timeout(BOOT):
            (await late)[1].close()
    assert SUM.encode() in await finish(reader, writer, b"")


@contextlib.contextmanager
def names(place: Path) -> Iterator[Vsock]:
    """Give a vsock with sockets of both kinds of names."""
    yield Vsock(7, place / "v", place / "fc.sock", forwards=(1024,))
    assert {path.name for path in (place / "v").iterdir()} <= {"00000002.00000800"}
    assert not (place / "fc.sock").exists()


async def sockets(vm: Machine, place: Path) -> None:
    """HyperKit's and Firecracker's names, both ways."""
    for name in ("v/connect", "v/00000007.00000400", "fc.sock"):
        mode = (place / name).stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
    assert os.readlink(place / "v/guest.00000400") == "00000007.00000400"
    vm.console.write(b"socat -t 60 -b 65536 VSOCK-LISTEN:1024,fork EXEC:sha256sum &\n")
    (await connect(vm.vsock, 1024))[1].close()
    await _ask(place / "v/connect", b"00000007.00000400\n", b"")
    await _ask(place / "v/guest.00000400", b"", b"")
    await _ask(place / "fc.sock", b"CONNECT 1024\n", b"OK ")
    for name, port in (("v/00000002.00000800", 0x800), ("fc.sock_2049", 2049)):
        async with await asyncio.start_unix_server(_checksum, place / name):
            line = f"head -c {ZEROS} /dev/zero | socat -b 65536 -t 60 - VSOCK-CONNECT:2:{port}"
            assert ZEROS_SUM in await command(vm, line)


async def _ask(path: Path, request: bytes, answer: bytes) -> None:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(request)
    if answer:
        assert (await reader.readline()).startswith(answer)
    assert SUM.encode() in await finish(reader, writer, BODY)


@contextlib.contextmanager
def nothing_left() -> Iterator[None]:
    """No descriptor, thread or mapping of guest memory outlives what is done meanwhile."""
    uvloop.run(asyncio.sleep(0))  # libuv opens two descriptors for the life of the process
    before = _state()
    yield
    limit = time.monotonic() + PATIENCE
    while _state() != before and time.monotonic() < limit:
        os.sched_yield()
    assert _state() == before


def _state() -> tuple[int, int, int]:
    with open("/proc/self/maps") as maps:
        guests = sum("memfd:" in line for line in maps)
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), guests
