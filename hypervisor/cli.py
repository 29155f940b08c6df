"""The `hypervisor` command: run a machine, build its image, and say what this host can do."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import uvloop
from rich.console import Console as Screen
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.table import Table

from .aio.terminal import Terminal
from .aio.window import Window
from .engine.choice import explain
from .engine.host import survey
from .engine.nic import parse_nic
from .engine.shares import parse
from .errors import HypervisorError
from .image.build import Image, Spec, build, load
from .image.cache import Cache, default_directory
from .machine import ENGINES, Machine


class Cli(click.Group):
    """Turns this kit's errors into one line on stderr and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except HypervisorError as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=Cli)
@click.version_option(package_name="trikit")
def main() -> None:
    """Lightweight machines from the command line.

    \b
    hypervisor doctor                       what this host can do
    hypervisor image build --package iperf3
    hypervisor run                          the default image, console on the terminal
    """


@main.command()
@click.option("-k", "--kernel", type=click.Path(path_type=Path), help="bzImage or ELF kernel.")
@click.option("-i", "--initrd", type=click.Path(path_type=Path), help="Initramfs.")
@click.option("--cmdline", default="", help="Added to the kernel's command line.")
@click.option("-m", "--memory", default="256M", show_default=True, help="Size, e.g. 1G.")
@click.option("-c", "--cpus", default=1, show_default=True, help="Virtual processors, 1 to 16.")
@click.option("--name", default="vm", show_default=True)
@click.option("--engine", type=click.Choice(sorted(ENGINES)), default="auto", show_default=True)
@click.option("--nic", "nics", multiple=True, help="tap:NAME or vhost-user:PATH; repeatable.")
@click.option("--share", multiple=True, metavar="TAG=WHAT", help="Guests mount TAG over 9P.")
@click.option("--console/--no-console", default=True, help="Console on the terminal (default).")
@click.option(
    "--hvc",
    is_flag=True,
    help="A virtio console, which follows the terminal's size, for the serial.",
)
@click.option("--console-log", type=click.File("wb"), help="Keep what the guest prints.")
@click.option("--stop-timeout", default=10.0, show_default=True, help="Seconds after SIGTERM.")
@click.option("--engine-arg", "engine_args", multiple=True, help="Passed to QEMU as it is.")
@click.option("--cache", type=click.Path(path_type=Path), help="Where images are kept.")
def run(
    kernel: Path | None,
    initrd: Path | None,
    cache: Path | None,
    console: bool,
    stop_timeout: float,
    share: tuple[str, ...],
    hvc: bool,
    nics: tuple[str, ...],
    **options: Any,
) -> None:
    """Boot a machine and end with it.

    Without --kernel, the default image is built (once) and booted.  SIGTERM presses the power
    button.  On a terminal, Ctrl-] detaches by asking the guest to power off; pressed again, it
    kills.

    --engine auto takes kvm, our own monitor, where this host's KVM runs kernels (see `hypervisor
    doctor`), and qemu elsewhere or with --engine-arg.

    \b
    --share TAG=WHAT: a directory (DIR, dir:DIR, read-only ro:DIR), a repository (git:PATH, or the
    PATH of a bare one), or a 9P server (unix:PATH, tcp:HOST:PORT).  The guest mounts it by
    `mount -t 9p -o trans=virtio,version=9p2000.L TAG DIR`.

    \b
    Exit code: 0 power-off, 2 reboot, 3 triple fault, 1 error or killed.

    \b
    hypervisor run -m 512M -c 2
    hypervisor run -k vmlinuz -i initrd.cpio --cmdline "root=/dev/vda"
    hypervisor run --nic tap:tap0,mac=02:00:00:00:00:01 --nic vhost-user:/run/switch.sock
    hypervisor run --engine-arg=-netdev --engine-arg=user,id=n \\
        --engine-arg=-device --engine-arg=virtio-net-device,netdev=n
    """
    options["nics"] = [parse_nic(text) for text in nics]
    if kernel is None:
        image = _with_progress(lambda progress: build(Spec(), _cache(cache), progress))
        kernel, initrd = image.kernel, initrd or image.initrd
    machine = Machine(
        kernel, initrd, shares=parse(share), console="virtio" if hvc else "serial", **options
    )
    sys.exit(uvloop.run(_run(machine, console, stop_timeout)))


async def _run(machine: Machine, console: bool, stop_timeout: float) -> int:
    async with machine:
        with (
            Terminal(machine, stop_timeout, sys.stdin, sys.stdout, console=console) as terminal,
            Window(sys.stdout.fileno(), machine.console),
        ):
            end = await machine.wait()
            await terminal.finished()
    if end.code:
        click.echo(f"{machine.name}: {end.reason.value}: {end.message}", err=True)
    return end.code


@main.group()
def image() -> None:
    """Guest kernels and initramfs from distribution packages; needs no root."""


_cache_option = click.option(
    "--cache", type=click.Path(path_type=Path), help="Directory [default: ~/.cache/trikit]."
)
_json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")


@image.command("build")
@click.option("--kernel-package", help="[default: the distribution's generic kernel]")
@click.option("--package", "packages", multiple=True, help="Unpacked into the guest's root.")
@click.option("--module", "modules", multiple=True, help="Kernel module beside the default ones.")
@click.option("--file", "files", multiple=True, metavar="GUEST=HOST", help="Add a file.")
@click.option("--init", type=click.Path(path_type=Path), help="Replaces the default /init.")
@click.option("--compress", type=click.Choice(["none", "gzip"]), default="none")
@_cache_option
@_json_option
def image_build(
    files: tuple[str, ...], init: Path | None, cache: Path | None, as_json: bool, **options: Any
) -> None:
    """Build an image, or find it in the cache.

    \b
    hypervisor image build
    hypervisor image build --package iperf3 --module wireguard
    hypervisor image build --init my-init.sh --file /etc/motd=motd.txt
    """
    spec = Spec(
        files=dict(_file(pair) for pair in files),
        init=None if init is None else _bytes(init),
        **options,
    )
    built = _with_progress(lambda progress: build(spec, _cache(cache), progress))
    _show([built], as_json)


@image.command("list")
@_cache_option
@_json_option
def image_list(cache: Path | None, as_json: bool) -> None:
    """List the images in the cache."""
    _show([load(path) for path in _cache(cache).entries()], as_json)


@image.command("path")
@click.argument("key", default="")
@_cache_option
def image_path(key: str, cache: Path | None) -> None:
    """Print the directory of the image whose key begins with KEY (default: the newest)."""
    found = [path for path in _cache(cache).entries() if path.name.startswith(key)]
    if not found:
        raise click.ClickException(f"no image {key or 'at all'}: run hypervisor image build")
    click.echo(found[-1])


@image.command("prune")
@click.option("--keep", multiple=True, metavar="KEY", help="An image to leave.")
@_cache_option
def image_prune(keep: tuple[str, ...], cache: Path | None) -> None:
    """Remove images and downloaded packages."""
    freed = _cache(cache).prune(frozenset(keep))
    click.echo(f"freed {freed / 1e6:.1f} MB")


@main.command()
@_json_option
def doctor(as_json: bool) -> None:
    """Say what this host can do for machines, and why not.

    Exit code 0 when machines can run, by KVM or by emulation.
    """
    facts = [explain(), *survey()]
    by_name = {fact.name: fact for fact in facts}
    if as_json:
        click.echo(json.dumps([asdict(fact) for fact in facts], indent=1))
    else:
        table = Table("", "what", "found", "what to do", box=None)
        for fact in facts:
            mark = "[green]yes[/]" if fact.good else "[red]no[/]"
            table.add_row(mark, fact.name, fact.found, fact.advice)
        Screen().print(table)
    emulation = by_name["qemu-system-x86_64"].good and by_name["setpriv"].good
    sys.exit(0 if by_name["kvm"].good or emulation else 1)


def _cache(directory: Path | None) -> Cache:
    return Cache(directory or default_directory(os.environ))


def _file(pair: str) -> tuple[str, bytes]:
    guest, equals, path = pair.partition("=")
    if not equals or not guest:
        raise click.BadParameter(f"{pair!r}, expected GUEST=HOST", param_hint="--file")
    return guest, _bytes(Path(path))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise click.ClickException(f"cannot read {path}: {error.strerror}") from None


def _with_progress(work: Callable[[Callable[[str, int, int], None]], Image]) -> Image:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    screen = Screen(stderr=True)
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("looking up packages", total=None)

        def progress(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        return work(progress)


def _show(images: list[Image], as_json: bool) -> None:
    if as_json:
        rows = [
            {
                **asdict(image),
                "directory": str(image.directory),
                "kernel": str(image.kernel),
                "initrd": str(image.initrd),
                "size": image.size,
            }
            for image in images
        ]
        click.echo(json.dumps(rows, indent=1))
        return
    for image in images:
        click.echo(f"{image.key}  {image.release}  {image.size / 1e6:.1f} MB  {image.directory}")


if __name__ == "__main__":
    main()
