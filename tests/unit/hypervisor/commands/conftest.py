"""What all tests of the commands need."""

import asyncio

import uvloop

# libuv opens two descriptors for the life of the process: before leaks.py looks for the first time.
uvloop.run(asyncio.sleep(0))
