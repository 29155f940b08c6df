"""The main job, end to end: a stock Debian kernel on our network and our file tree, one loop.

Builds (or finds) an image, boots it, and lets the guest show with its own clients what works; the
host's side of the steps is here.  Prints a table; exits 0 only if every step passed.

    python examples/demo.py [--log FILE] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

import aiohttp
import uvloop
from aiohttp import web
from rich.console import Console as Screen
from rich.table import Table

from dataflow import Repository
from dataflow.aio.server import Server
from dataflow.views.root import repository_root
from hypervisor import Exit, ExitReason, Machine
from hypervisor.image.build import Image, Spec, build
from hypervisor.image.cache import Cache, default_directory
from vpnstack import Gateway

SIZE = 64 << 20
GUEST_STEPS = ("init", "dhcp", "ipv6", "dns", "ping", "ping6", "httpd", "download", "upload",
               "mount", "read", "commit", "watch")  # fmt: skip
HOST_STEPS = ("publish", "event", "power-off")
DEADLINE = 240.0  # seconds for the whole guest: emulation on a busy machine is slow


@dataclass(frozen=True, slots=True)
class Step:
    """One row of the table."""

    name: str
    side: str
    ok: bool
    seconds: float
    detail: str


class Demo:
    """Collects steps from both sides."""

    def __init__(self, screen: Screen, log: Path) -> None:
        self.screen = screen
        self.log = log
        self.steps: dict[str, Step] = {}
        self.payload = os.urandom(1 << 20) * (SIZE >> 20)
        self.done = asyncio.Event()

    def add(self, name: str, side: str, ok: bool, seconds: float, detail: str) -> None:
        """Note a step and show it at once."""
        self.steps[name] = Step(name, side, ok, seconds, detail)
        mark = "[green]ok  [/]" if ok else "[red]fail[/]"
        self.screen.print(f"  {mark} {side:5} {name:9} {seconds:6.2f} s  ", end="")
        self.screen.print(detail[:90], markup=False, highlight=False)

    async def host_step(self, name: str, work: AsyncIterator[str]) -> None:
        """Run one of the host's steps: `work` yields its detail or raises."""
        start = time.monotonic()
        try:
            async with asyncio.timeout(60):
                detail = [text async for text in work][-1]
            self.add(name, "host", True, time.monotonic() - start, detail)
        except Exception as e:  # a failing step is a row of the table, not the end of the others
            self.add(name, "host", False, time.monotonic() - start, f"{type(e).__name__}: {e}")

    # The host's HTTP server, on loopback.

    async def serve_http(self) -> tuple[web.AppRunner, int]:
        """Serve the download and take the upload; return the runner and its port."""
        app = web.Application(client_max_size=2 * SIZE)
        app.router.add_get("/download", self._download)
        app.router.add_put("/upload", self._upload)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return runner, runner.addresses[0][1]

    async def _download(self, request: web.Request) -> web.Response:
        digest = hashlib.sha256(self.payload).hexdigest()
        return web.Response(body=self.payload, headers={"X-SHA256": digest})

    async def _upload(self, request: web.Request) -> web.Response:
        digest = hashlib.sha256()
        async for chunk in request.content.iter_chunked(1 << 16):
            digest.update(chunk)
        return web.Response(text=digest.hexdigest() + "\n")

    # What the guest says.

    async def follow_console(self, vm: Machine, started: float) -> AsyncIterator[tuple[str, ...]]:
        """Copy the console to the log; yield the words of the guest's reports."""
        with self.log.open("wb") as log:
            while line := await vm.console.readline():
                log.write(line)
                log.flush()
                words = line.decode(errors="replace").strip().split(None, 4)
                if words[:1] == ["@@done"]:
                    return
                if words[:1] == ["@@step"] and len(words) >= 3:
                    yield tuple(words[1:])


async def fetch_published(port: int) -> AsyncIterator[str]:
    """Fetch the guest's page through the published port."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/") as response,
    ):
        text = await response.text()
        if response.status != 200 or not text.startswith("hello from"):
            raise RuntimeError(f"expected the guest's page, found {response.status} {text[:60]!r}")
        yield f"127.0.0.1:{port}: {text.strip()}"


async def wait_for_event(repo: Repository) -> AsyncIterator[str]:
    """Wait for the guest's commit on the stream of changes below results/."""
    async for change in repo.branch("main").watch("results/"):
        yield f"{change.commit[:12]} changed {change.path}"
        return


async def run_guest(demo: Demo, image: Image, state: Path) -> Exit | None:
    """Boot the guest and play the host's part until it is done."""
    runner, http_port = await demo.serve_http()
    async with Repository.open(state / "state.git") as repo, Gateway() as net:
        main = repo.branch("main")
        async with main.transaction(message="Start", author="host <host@demo>") as t:
            t.write("README", b"shared with the guest\n")
        async with Server(repository_root(repo)) as tree:
            await net.start_server(tree.handle, 564)
            nic = net.port("vm1")
            page = await net.publish("tcp", host=("127.0.0.1", 0), guest=("vm1", 80))
            started = time.monotonic()
            machine = Machine(
                kernel=image.kernel, initrd=image.initrd, memory="512M", nics=[nic],
                cmdline=f"quiet demo.http={http_port}", name="vm1",
            )  # fmt: skip
            event = asyncio.create_task(demo.host_step("event", wait_for_event(repo)))
            async with machine as vm:
                await converse(demo, vm, repo, page.address[1], started)
                ended = await asyncio.wait_for(vm.wait(), 30)
            await event
    await runner.cleanup()
    return ended


async def converse(
    demo: Demo, vm: Machine, repo: Repository, published: int, started: float
) -> None:
    """Note the guest's steps, and do the host's when their time has come."""
    async for name, what, *rest in demo.follow_console(vm, started):
        if name == "watch" and what == "waiting":
            author = "host <host@demo>"
            async with repo.branch("main").transaction(message="Wake up", author=author) as t:
                t.write("wake", b"now\n")
        if what not in ("ok", "fail"):
            continue
        seconds = time.monotonic() - started if name == "init" else float(rest[0])
        demo.add(name, "guest", what == "ok", seconds, " ".join(rest[1:]))
        if name == "httpd":
            await demo.host_step("publish", fetch_published(published))


def build_image(screen: Screen) -> Image:
    """Build the demonstration's image, with progress, or find it in the cache."""
    script = resources.files("hypervisor.image").joinpath("demo.sh").read_bytes()
    shown: set[str] = set()

    def progress(what: str, done: int, total: int | None) -> None:
        if what not in shown:
            shown.add(what)
            screen.print(f"  {what}", markup=False, highlight=False)

    return build(Spec(init=script), Cache(default_directory(os.environ)), progress)


def missing(demo: Demo) -> Iterator[str]:
    """Name the steps that never came."""
    return (name for name in (*GUEST_STEPS, *HOST_STEPS) if name not in demo.steps)


async def demonstrate(screen: Screen, log: Path) -> Demo:
    """Run everything; the rows are in the demo that is returned."""
    demo = Demo(screen, log)
    start = time.monotonic()
    image = await asyncio.to_thread(build_image, screen)
    detail = f"Linux {image.release}, {image.size / 1e6:.0f} MB"
    demo.add("image", "host", True, time.monotonic() - start, detail)
    with tempfile.TemporaryDirectory(prefix="trikit-demo-") as state:
        start = time.monotonic()
        try:
            async with asyncio.timeout(DEADLINE):
                ended = await run_guest(demo, image, Path(state))
            ok = ended is not None and ended.reason is ExitReason.POWER_OFF
            demo.add("power-off", "host", ok, time.monotonic() - start, str(ended))
        except TimeoutError:
            demo.add("power-off", "host", False, DEADLINE, "the guest did not end in time")
    for name in list(missing(demo)):
        demo.add(name, "guest", False, 0.0, f"never reported; see {log}")
    return demo


def show(screen: Screen, demo: Demo, seconds: float) -> None:
    """Print the table."""
    table = Table("step", "side", "time", "result", title="trikit demo")
    for step in demo.steps.values():
        colour = "green" if step.ok else "red"
        verdict = f"[{colour}]{'ok' if step.ok else 'FAIL'}[/]"
        table.add_row(step.name, step.side, f"{step.seconds:.2f} s", verdict)
    screen.print(table)
    failed = [step.name for step in demo.steps.values() if not step.ok]
    verdict = f"failed: {', '.join(failed)}" if failed else "every step passed"
    screen.print(f"{verdict} in {seconds:.1f} s; the guest's console is in {demo.log}")


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description="Boot a guest and show that everything works.")
    parser.add_argument("--log", type=Path, default=Path("demo-console.log"))
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args()
    screen = Screen(stderr=options.json, soft_wrap=True)
    start = time.monotonic()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        demo = runner.run(demonstrate(screen, options.log.absolute()))
    if options.json:
        print(json.dumps([asdict(step) for step in demo.steps.values()], indent=1))
    else:
        show(screen, demo, time.monotonic() - start)
    return 0 if all(step.ok for step in demo.steps.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
