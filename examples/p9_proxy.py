"""A 9P proxy: what one server serves, on a socket of our own.

p9_proxy.py tcp:127.0.0.1:5640 /run/near.sock
"""

import asyncio
import sys

from dataflow.aio.client import connect
from dataflow.aio.remote import remote_root
from dataflow.aio.server import Server


async def main(far_address: str, near_path: str) -> None:
    async with connect(far_address) as far, Server(remote_root(far)) as server:
        print("serving on", await server.listen_unix(near_path), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
