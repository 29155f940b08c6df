"""What the tests of DataKit's tree share.

Texts travel in 9P2000.u only, so refusals are checked there by text and by number elsewhere.
"""

from __future__ import annotations

import pytest

from dataflow.p9.errors import P9Error

MAIN = "branch/main"
ZERO = "0" * 40


async def said(awaitable) -> str:
    """Return the text of a refusal."""
    try:
        await awaitable
    except P9Error as err:
        return err.text
    except ExceptionGroup as group:
        return group.exceptions[0].text
    pytest.fail("expected an error, found none")


async def commit(c, files: dict[str, bytes], *, branch: str = "main", name: str = "t") -> str:
    """Commit files, made or replaced, through a transaction of the tree."""
    t = f"branch/{branch}/transactions/{name}"
    await c.mkdir(t)
    await put(c, f"{t}/rw", files)
    return (await c.command(f"{t}/ctl", "commit")).decode().strip()


async def put(c, rw: str, files: dict[str, bytes]) -> None:
    for path, data in files.items():
        above = path.rpartition("/")[0]
        if above and above not in await c.listdir(rw):
            await c.mkdir(f"{rw}/{above}")
        await c.write(f"{rw}/{path}", data)


async def file_qid(c, path: str):
    async with await c.open(path) as f:
        return f.qid
