"""`hypervisor run`: its options, from the command line and machine files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import uvloop
from click.core import ParameterSource

from ..errors import UsageError
from ..image.build import Spec, build
from ..machine import ENGINES
from . import base, checks, hyperkit, launch
from .config import check, read
from .devices import DEVICE_OPTIONS
from .image import with_progress
from .settings import Settings, apply

_PATH = click.Path(path_type=Path)


def machine_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the settings of one machine."""
    made: list[Callable[[Callable[..., None]], Callable[..., None]]] = [
        click.option("-k", "--kernel", type=_PATH, help="bzImage or ELF kernel."),
        click.option("-i", "--initrd", type=_PATH, help="Initramfs."),
        click.option("--cmdline", help="Added to the kernel's command line."),
        click.option("-m", "--memory", help="Size, e.g. 1G; MiB without a unit.  [default: 256M]"),
        click.option("-c", "--cpus", type=int, help="Virtual processors, 1 to 16.  [default: 1]"),
        click.option("--name", help="For ps, console, stop, ...  [default: vm, or vm2, ...]"),
        click.option("-U", "--uuid", help="The machine's id; its MAC address is made from it."),
        click.option("-A", "--acpi/--no-acpi", default=None,
                     help="ACPI tables (default).  Without, devices are found by kernels with"
                     " VIRTIO_MMIO_CMDLINE_DEVICES alone, as Debian's are not."),
        click.option("--engine", type=click.Choice(sorted(ENGINES)), help="[default: auto]"),
        click.option("--engine-arg", multiple=True, help="Passed to QEMU as it is."),
        click.option("--console/--no-console", default=None, help="On the terminal (default)."),
        click.option("--hvc/--no-hvc", default=None, help="A virtio console, which follows the"
                     " terminal's size, for the serial."),
        click.option("--console-log", type=_PATH, help="Keep what the guest prints."),
        click.option("-l", "--serial", multiple=True, metavar="com1,stdio|null|log=PATH|...",
                     help="Where the serial port leads; also autopty[=FILE], /dev/ttyX."),
        click.option("--net", is_flag=False, flag_value="", metavar="[ADDRESS/PREFIX]",
                     help="A network with DHCP, DNS and a way out; needs no root."),
        click.option("-p", "--publish", multiple=True, metavar="[ADDRESS:]PORT:GUEST_PORT[/udp]",
                     help="Let a host port lead to the guest's; implies --net."),
        *(option.option() for option in DEVICE_OPTIONS),
        click.option("--stop-timeout", type=float, help="Seconds after SIGTERM.  [default: 10]"),
    ]  # fmt: skip
    for option in reversed(made):
        command = option(command)
    return command


@click.command(context_settings=base.HELP)
@click.argument("file", type=_PATH, required=False)
@click.option("--config", "config_file", type=_PATH, help="The machine file, as FILE.")
@machine_options
@hyperkit.options
@click.option("-F", "--pidfile", type=_PATH, help="Made with our process id, removed at the end.")
@click.option("-M", "--print-mac", is_flag=True, help="Print the MAC address on --net, and end.")
@click.option("--control/--no-control", default=True, help="Serve ps, console, ... (default).")
@click.option("--cache", type=_PATH, help="Where images are kept.")
def run(
    file: Path | None,
    config_file: Path | None,
    firmware: str | None,
    slots: tuple[str, ...],
    pidfile: Path | None,
    print_mac: bool,
    control: bool,
    cache: Path | None,
    **options: Any,
) -> None:
    """Boot machines and end with them.

    Without FILE, a TOML file with one machine or several, it is one machine, of the command line.
    With it, options override what it says, for each of its machines.  Without --kernel, the default
    image is built (once) and booted.

    SIGTERM presses the power button, SIGUSR1 pauses, SIGUSR2 resumes.  On a terminal, Ctrl-] asks
    the guest to power off; pressed again, it kills.  Other terminals: `hypervisor console`.

    --engine auto takes kvm, our own monitor, where this host's KVM runs kernels (see `hypervisor
    doctor`), and qemu elsewhere or with --engine-arg.  HyperKit's -c -m -U -A -F -l -f -s -M -u
    mean what they mean there.

    \b
    Exit code: 0 power-off, 2 reboot, 3 triple fault, 1 error or killed; of several machines, the
    worst.

    \b
    hypervisor run -m 512M -c 2
    hypervisor run --net --publish 8080:80 --share src=. --name web
    hypervisor run -k vmlinuz -i initrd.cpio --cmdline "root=/dev/vda"
    hypervisor run machines.toml --no-console
    hypervisor run -A -u -c 2 -m 1G -f "kexec,vmlinuz,initrd.cpio,quiet" -l com1,autopty=tty
    hypervisor run --engine-arg=-netdev --engine-arg=user,id=n \\
        --engine-arg=-device --engine-arg=virtio-net-device,netdev=n
    """
    machines = _settings(file or config_file, _given(options), firmware, slots)
    if print_mac:
        click.echo("\n".join(uvloop.run(launch.macs(machines))))
        return
    _check_host(machines)
    if any(each.kernel is None for each in machines):
        image = with_progress(lambda progress: build(Spec(), base.cache(cache), progress))
        machines = [_with_image(each, image.kernel, image.initrd) for each in machines]
    for each in machines:
        kernel = checks.kernel(each.kernel)
        if not each.acpi and (warning := checks.without_acpi(kernel, each.initrd)):
            base.say(warning)
    place = base.sockets() if control else None
    sys.exit(uvloop.run(launch.run(machines, place, pidfile)))


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given, not defaulted."""
    source = click.get_current_context().get_parameter_source
    return {
        name: value
        for name, value in options.items()
        if source(name) is not ParameterSource.DEFAULT
    }


def _settings(
    file: Path | None, given: dict[str, Any], firmware: str | None, slots: tuple[str, ...]
) -> list[Settings]:
    """Return the machines that were asked for: the file's, then HyperKit's words, then options."""
    machines = [Settings()] if file is None else read(file)
    if firmware and "kernel" in given:
        raise UsageError("both -f and --kernel name a kernel: leave one out")
    single = {"name", "uuid"} & given.keys()
    if len(machines) > 1 and single:
        raise UsageError(f"--{single.pop()} is one machine's, {file} has {len(machines)}")
    asked = hyperkit.merged(hyperkit.settings(firmware, slots), given)
    made = [apply(each, asked, Path.cwd()) for each in machines]
    for each in made:
        check(each)
    return made


def _with_image(settings: Settings, kernel: Path, initrd: Path) -> Settings:
    if settings.kernel is not None:
        return settings
    values = {"kernel": kernel, "initrd": settings.initrd or initrd}
    return apply(settings, values, Path())


def _check_host(machines: list[Settings]) -> None:
    for each in machines:
        checks.engine(each.engine)
    checks.host_memory(sum(launch.memory(each) for each in machines), base.say)
