"""A directory of Python objects over 9P: run it, then `diodcat -s 127.0.0.1:5640 -a / now`.

Or mount it: mount -t 9p -o trans=tcp,port=5640,version=9p2000.L,cache=none 127.0.0.1 /mnt
"""

import asyncio
import time
from collections.abc import AsyncIterator

from dataflow.aio.server import Server
from dataflow.p9.nodes import ControlFile, StaticDir, StaticFile, StreamFile
from dataflow.p9.tree import Context


async def ticks(ctx: Context) -> AsyncIterator[bytes]:
    while True:
        yield f"{time.time():.0f}\n".encode()
        await asyncio.sleep(1)


async def shout(command: str, ctx: Context) -> str:
    return command.upper() + "\n"


async def main() -> None:
    root = StaticDir(
        {
            "hello": StaticFile(b"hello, world\n"),
            "now": StaticFile(lambda: time.ctime().encode() + b"\n"),
            "ticks": StreamFile(ticks),
            "shout": ControlFile(shout),
        }
    )
    async with Server(root) as server:
        print("serving on", await server.listen_tcp("127.0.0.1", 5640), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
