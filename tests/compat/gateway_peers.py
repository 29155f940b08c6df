"""Scripts for both ends of a gateway: `origin` on the host, `flows` in the guest; prints results.

origin: serves /SIZE (bytes of a fixed pattern) over HTTP on 127.0.0.1 and ::1, answers PUT with the
body's SHA-256, and swaps blobs on a second port; prints its ports.  flows: HOST PORT COUNT SIZE.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import sys


def blob(size: int, seed: int) -> bytes:
    """Return `size` bytes that belong to `seed`."""
    return random.Random(seed).randbytes(size)


async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request: GET /SIZE or PUT of a body."""
    method, path, _ = (await reader.readline()).split()
    length = 0
    while (line := await reader.readline()) not in (b"\r\n", b""):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
        if name.lower() == b"expect":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if method == b"PUT":
        body = hashlib.sha256(await reader.readexactly(length)).hexdigest().encode()
    else:
        size = int(path.rpartition(b"/")[2])
        body = b"x" * size if path.startswith(b"/text") else blob(size, 1)
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body))
    writer.write(body)
    await writer.drain()
    writer.close()


async def swap(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read a seed, a size and as many bytes; answer with as many others and their digest."""
    seed, size = (int(n) for n in (await reader.readline()).split())
    task = asyncio.ensure_future(reader.readexactly(size))
    writer.write(blob(size, seed))
    await writer.drain()
    writer.write(hashlib.sha256(await task).digest())
    writer.write_eof()
    await reader.read()
    writer.close()


async def origin() -> None:
    """Serve until standard input ends."""
    hosts = ["127.0.0.1", "::1"]
    web = await asyncio.start_server(http, hosts[0], 0)
    port = web.sockets[0].getsockname()[1]
    web6 = await asyncio.start_server(http, hosts[1], port)
    swapper = await asyncio.start_server(swap, hosts[0], 0, backlog=512)
    swap_port = swapper.sockets[0].getsockname()[1]
    swapper6 = await asyncio.start_server(swap, hosts[1], swap_port, backlog=512)
    print(port, swap_port, flush=True)
    async with web, web6, swapper, swapper6:
        await asyncio.to_thread(sys.stdin.read)


async def flow(host: str, port: int, seed: int, size: int) -> bool:
    """Swap blobs over one connection; tell whether both arrived as they were."""
    reader, writer = await asyncio.open_connection(host, port)
    mine = blob(size, seed + 1)
    writer.write(b"%d %d\n" % (seed, size) + mine)
    theirs, digest = await reader.readexactly(size), await reader.readexactly(32)
    writer.write_eof()
    rest = await reader.read()
    writer.close()
    return (theirs, digest, rest) == (blob(size, seed), hashlib.sha256(mine).digest(), b"")


async def flows(host: str, port: int, count: int, size: int) -> None:
    """Run `count` flows at once and print how many were right."""
    work = (flow(host, port, seed, size) for seed in range(count))
    print(sum([bool(ok is True) for ok in await asyncio.gather(*work, return_exceptions=True)]))


if __name__ == "__main__":
    if sys.argv[1] == "origin":
        asyncio.run(origin())
    else:
        asyncio.run(flows(sys.argv[2], *map(int, sys.argv[3:6])))
