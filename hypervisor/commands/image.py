"""`hypervisor image`: guest kernels and initramfs from distribution packages."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console as Screen
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from ..image.build import Image, Spec, build, load
from . import base
from .base import cache_option, json_option


@click.group()
def image() -> None:
    """Guest kernels and initramfs from distribution packages; needs no root."""


@image.command("build")
@click.option("--kernel-package", help="[default: the distribution's generic kernel]")
@click.option("--package", "packages", multiple=True, help="Unpacked into the guest's root.")
@click.option("--module", "modules", multiple=True, help="Kernel module beside the default ones.")
@click.option("--file", "files", multiple=True, metavar="GUEST=HOST", help="Add a file.")
@click.option("--init", type=click.Path(path_type=Path), help="Replaces the default /init.")
@click.option("--compress", type=click.Choice(["none", "gzip"]), default="none")
@cache_option
@json_option
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
    built = with_progress(lambda progress: build(spec, base.cache(cache), progress))
    _show([built], as_json)


@image.command("list")
@cache_option
@json_option
def image_list(cache: Path | None, as_json: bool) -> None:
    """List the images in the cache.

    \b
    hypervisor image list --json
    """
    _show([load(path) for path in base.cache(cache).entries()], as_json)


@image.command("path")
@click.argument("key", default="")
@cache_option
def image_path(key: str, cache: Path | None) -> None:
    """Print the directory of the image whose key begins with KEY (default: the newest).

    \b
    ls "$(hypervisor image path)"
    """
    found = [path for path in base.cache(cache).entries() if path.name.startswith(key)]
    if not found:
        raise click.ClickException(f"no image {key or 'at all'}: run hypervisor image build")
    click.echo(found[-1])


@image.command("prune")
@click.option("--keep", multiple=True, metavar="KEY", help="An image to leave.")
@cache_option
def image_prune(keep: tuple[str, ...], cache: Path | None) -> None:
    """Remove images and downloaded packages.

    \b
    hypervisor image prune --keep 3f2a
    """
    freed = base.cache(cache).prune(frozenset(keep))
    click.echo(f"freed {freed / 1e6:.1f} MB")


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


def with_progress(work: Callable[[Callable[[str, int, int], None]], Image]) -> Image:
    """Do `work`, which fetches and builds, and show how far it is where there is a terminal."""
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
