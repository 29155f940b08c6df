"""The `vpnstack` command: the only place that reads arguments and the environment."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import click
import uvloop

from . import programs
from .config import ADDRESSES, BUSY_POLL, GatewayConfig
from .errors import VpnstackError
from .host.namespace import CommandError, Target
from .packetdrill.command import packetdrill

RUN_MTU = 65520  # as large as offloads allow: datagrams need not be cut

EXAMPLES = """\b
Examples:
  vpnstack run -- curl http://host.internal:8000/
  vpnstack run -p 8080:80 -- ./server
  vpnstack attach 4711
  vpnstack attach --netns blue --mtu 1500
  vpnstack serve --listen qemu:/run/vm.sock --listen vhost-user:/run/vhost.sock
"""


def echo(line: str) -> None:
    """Print one line for people, on standard error."""
    click.echo(f"vpnstack: {line}", err=True)


def plain(line: str) -> None:
    """Print one line for programs, on standard output."""
    click.echo(line)


def execute(work: Coroutine[Any, Any, int]) -> None:
    """Run a program on a new loop and exit with its code, or with one line that says why not."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            code = runner.run(work)
    except CommandError as e:
        echo(str(e))
        sys.exit(e.exit_code)
    except (VpnstackError, OSError) as e:
        echo(str(e))
        sys.exit(1)
    sys.exit(code)


def common(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that every network has."""
    options = (
        click.option(
            "--address", "addresses", multiple=True, metavar="ADDRESS/PREFIX",
            help=f"The gateway's own, one of a family.  [default: {', '.join(ADDRESSES)}]",
        ),
        click.option(
            "--no-host-loopback", is_flag=True,
            help="Do not let host.internal reach the host's loopback.",
        ),
        click.option(
            "--link-local", is_flag=True,
            help="Let link-local destinations (cloud metadata services) be reached.",
        ),
        click.option(
            "-p", "--publish", "forwards", multiple=True,
            metavar="[tcp:|udp:][ADDRESS:]PORT[:GUEST_PORT]",
            help="Forward a host port (on 127.0.0.1 by default) to the guest.",
        ),
        click.option(
            "--capture", metavar="FILE", type=click.Path(dir_okay=False, writable=True),
            help="Write every frame to a pcapng file.",
        ),
        click.option(
            "--busy-poll", metavar="USEC", default=BUSY_POLL, show_default=True,
            type=click.IntRange(0, 1000),
            help="Wait actively for answers, so long at most; 0 sleeps at once.",
        ),
        click.option("-v", "--verbose", count=True, help="Log more; -vv for everything."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def gateway_config(
    addresses: tuple[str, ...], mtu: int, no_host_loopback: bool, link_local: bool, busy_poll: int,
    verbose: int,
) -> GatewayConfig:  # fmt: skip
    """Make the frozen configuration and set the log level."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(level=level, format="vpnstack: %(message)s", stream=sys.stderr)
    return GatewayConfig(
        addresses=addresses or ADDRESSES,
        mtu=mtu,
        host_loopback=not no_host_loopback,
        link_local=link_local,
        busy_poll=busy_poll,
    )


@click.group(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="trikit")
def main() -> None:
    """A userspace TCP/IP network for containers, machines and programs, without root."""


@main.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="""\b
Examples:
  vpnstack run -- curl http://host.internal:8000/
  vpnstack run -p 8080:80 -p udp:5353:53 -- ./server
  vpnstack run --no-host-loopback -- bash
""",
)
@common
@click.option("--mtu", default=RUN_MTU, show_default=True, help="Bytes of an IP packet.")
@click.option("--ifname", default="tap0", show_default=True, help="Name of the interface inside.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    command: tuple[str, ...], ifname: str, mtu: int, forwards: tuple[str, ...],
    capture: str | None, **rest: Any,
) -> None:  # fmt: skip
    """Run COMMAND in a network of its own, served from here.

    It sees one interface, a gateway and a name server; `host.internal` is the host's loopback.
    The exit code is the command's.
    """
    config = gateway_config(mtu=mtu, **rest)
    execute(programs.run(command, config, forwards, ifname, echo, capture))


@main.command(
    epilog="""\b
Examples:
  vpnstack attach 4711 --ready-fd 3 3>ready
  vpnstack attach --netns blue -p 8080:80
"""
)
@common
@click.option("--netns", metavar="NAME|PATH", help="A network namespace by name or path.")
@click.option("--mtu", default=RUN_MTU, show_default=True, help="Bytes of an IP packet.")
@click.option("--ifname", default="tap0", show_default=True, help="Name of the interface inside.")
@click.option("--no-configure", is_flag=True, help="Only make the interface; leave it down.")
@click.option("--ready-fd", type=int, help="Write `ready` to this descriptor once it works.")
@click.option("--json", "as_json", is_flag=True, help="Print the ready line as JSON.")
@click.argument("pid", type=int, required=False)
def attach(
    pid: int | None, netns: str | None, mtu: int, ifname: str, no_configure: bool,
    ready_fd: int | None, as_json: bool, forwards: tuple[str, ...], capture: str | None,
    **rest: Any,
) -> None:  # fmt: skip
    """Give the namespace of process PID, or --netns, a network; ends on SIGTERM."""
    if (pid is None) == (netns is None):
        raise click.UsageError("expected either PID or --netns")
    config = gateway_config(mtu=mtu, **rest)
    execute(
        programs.attach(
            Target(netns=netns) if netns is not None else Target(pid=pid), config, forwards, ifname,
            configure=not no_configure, ready=programs.Ready(ready_fd, as_json=as_json),
            echo=plain if as_json else echo, capture=capture,
        )
    )  # fmt: skip


@main.command(
    epilog="""\b
Examples:
  vpnstack serve --listen qemu:/run/vm.sock
    qemu-system-x86_64 ... -netdev stream,id=n,server=off,addr.type=unix,addr.path=/run/vm.sock
  vpnstack serve --listen vhost-user:/run/vhost.sock -p 8080:80@192.168.127.2
"""
)
@common
@click.option(
    "--listen", "listens", multiple=True, required=True, metavar="KIND:PATH",
    help="Where machines connect: qemu:PATH, vhost-user:PATH; repeatable.",
)  # fmt: skip
@click.option("--mtu", default=1500, show_default=True, help="Bytes of an IP packet.")
@click.option("--ready-fd", type=int, help="Write `ready` to this descriptor once it works.")
@click.option("--json", "as_json", is_flag=True, help="Print the ready line as JSON.")
@click.option("--statistics", is_flag=True, help="Print counters as JSON at the end.")
def serve(
    listens: tuple[str, ...], mtu: int, ready_fd: int | None, as_json: bool, statistics: bool,
    forwards: tuple[str, ...], capture: str | None, **rest: Any,
) -> None:  # fmt: skip
    """Be the network of machines that were started elsewhere, all on one switch.

    To publish a port of a machine, name its address: -p 8080:80@192.168.127.2
    """
    config = gateway_config(mtu=mtu, **rest)
    execute(
        programs.serve(
            listens, config, forwards, ready=programs.Ready(ready_fd, as_json=as_json),
            echo=plain if as_json else echo, statistics=statistics, capture=capture,
        )
    )  # fmt: skip


main.add_command(packetdrill)
