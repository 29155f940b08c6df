"""`vpnstack.host.spawn` against the kernel: real namespaces, as root and as nobody."""

# ruff: noqa: ASYNC221, ASYNC240  (short commands; nothing else runs on these loops)

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import pty
import signal
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from vpnstack.host import resolver
from vpnstack.host.namespace import CommandError, NamespaceConfig, NamespaceError, Target
from vpnstack.host.spawn import Child, open_tap

DRIVER = Path(__file__).with_name("namespace_driver.py")
NOBODY = 65534
SETTINGS = {
    "addresses": ["192.168.127.2/24", "fd00:127::2/64"],
    "gateways": ["192.168.127.1", "fd00:127::1"],
    "dns": ["192.168.127.1"],
    "search": ["internal"],
    "mtu": 1400,
}
CONFIG = NamespaceConfig(
    addresses=("192.168.127.2/24", "fd00:127::2/64"),
    gateways=("192.168.127.1", "fd00:127::1"),
    mac=bytes.fromhex("525400010203"),
)
VNET_NEEDS_CSUM = 1


@pytest.fixture(autouse=True)
def _needs(require: Callable[..., None]) -> None:
    require("root", "/dev/net/tun", "ip", "ping", "unshare", "/usr/bin/python3")


@pytest.fixture(params=[0, NOBODY], ids=["root", "nobody"])
def uid(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def command(uid: int, argv: list[str], settings: dict[str, object] | None = None) -> list[str]:
    return [sys.executable, str(DRIVER), str(uid), json.dumps(settings or SETTINGS), *argv]


def environment() -> dict[str, str]:
    path = "/usr/sbin:/usr/bin:/sbin:/bin"  # directories that nobody may search
    return os.environ | {"PYTHONPATH": str(DRIVER.parents[2]), "PATH": path}


def drive(
    uid: int, *argv: str, settings: dict[str, object] | None = None, data: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the driver to its end."""
    line = command(uid, list(argv), settings)
    return subprocess.run(
        line, env=environment(), input=data, capture_output=True, text=True, timeout=30, check=False
    )


def inside(uid: int, *argv: str) -> str:
    done = drive(uid, *argv)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_addresses(uid: int) -> None:
    links = {link["ifname"]: link for link in json.loads(inside(uid, "ip", "-j", "addr"))}
    assert set(links) == {"lo", "tap0"}
    assert "UP" in links["lo"]["flags"]
    assert {"UP", "LOWER_UP"} <= set(links["tap0"]["flags"])
    assert links["tap0"]["mtu"] == 1400
    found = {f"{a['local']}/{a['prefixlen']}": a for a in links["tap0"]["addr_info"]}
    assert {"192.168.127.2/24", "fd00:127::2/64"} <= set(found)
    assert not any(address.get("tentative") for address in found.values())


@pytest.mark.parametrize(("family", "router"), [("-4", "192.168.127.1"), ("-6", "fd00:127::1")])
def test_default_route(uid: int, family: str, router: str) -> None:
    routes = json.loads(inside(uid, "ip", "-j", family, "route", "show", "default"))
    assert [(r["gateway"], r["dev"]) for r in routes] == [(router, "tap0")]


def test_resolv_conf_is_ours_inside_and_the_hosts_outside(uid: int) -> None:
    before = Path("/etc/resolv.conf").read_text()
    mounts = Path("/proc/self/mountinfo").read_text()
    text = inside(uid, "cat", "/etc/resolv.conf")
    assert text == "search internal\nnameserver 192.168.127.1\n"
    assert Path("/etc/resolv.conf").read_text() == before
    assert Path("/proc/self/mountinfo").read_text() == mounts


def test_scratch_mount_is_gone(uid: int, tmp_path: Path) -> None:
    """The command sees the host's /tmp, not the tmpfs that held resolv.conf for a moment."""
    assert inside(uid, "stat", "-c", "%d:%i", "/tmp") == "{0.st_dev}:{0.st_ino}\n".format(
        os.stat("/tmp")
    )


def test_ping_through_the_tap(uid: int) -> None:
    assert " 0% packet loss" in inside(uid, "ping", "-c", "2", "-i", "0.2", "192.168.127.1")


def test_command_is_root_inside(uid: int) -> None:
    assert inside(uid, "id", "-u") == "0\n"


def test_sysctls(uid: int) -> None:
    base = "/proc/sys/net/ipv6/conf/tap0"
    text = inside(uid, "cat", f"{base}/accept_ra", f"{base}/autoconf", f"{base}/accept_dad")
    assert text.split() == ["0", "0", "0"]


def test_not_configured(uid: int) -> None:
    settings: dict[str, object] = SETTINGS | {"configure": False}
    done = drive(uid, "sh", "-c", "ip -j addr; echo; cat /etc/resolv.conf", settings=settings)
    addresses, _, resolv = done.stdout.partition("\n")
    assert all("UP" not in link["flags"] for link in json.loads(addresses))
    assert [link["addr_info"] for link in json.loads(addresses)] == [[], []]
    assert resolv.strip() == Path("/etc/resolv.conf").read_text().strip()


@pytest.mark.parametrize("code", [0, 1, 77, 255])
def test_exit_code(uid: int, code: int) -> None:
    assert drive(uid, "sh", "-c", f"exit {code}").returncode == code


@pytest.mark.parametrize("name", ["KILL", "SEGV", "PIPE"])
def test_exit_code_of_a_signal(uid: int, name: str) -> None:
    done = drive(uid, "sh", "-c", f"ulimit -c 0; kill -{name} $$")
    assert done.returncode == 128 + signal.Signals[f"SIG{name}"]


def test_no_such_command(uid: int) -> None:
    done = drive(uid, "no-such-command")
    assert (done.returncode, done.stdout) == (127, "")
    assert done.stderr == "error: no-such-command: No such file or directory\n"


def test_command_not_executable(uid: int) -> None:
    done = drive(uid, "/etc/passwd")
    assert (done.returncode, done.stderr) == (126, "error: /etc/passwd: Permission denied\n")


def test_standard_streams(uid: int) -> None:
    done = drive(uid, "sh", "-c", "cat; echo problem >&2", data="one\ntwo\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "one\ntwo\n", "problem\n")


def test_no_descriptor_leaks_into_the_command(uid: int) -> None:
    """The fourth is the directory being read."""
    assert inside(uid, "ls", "/proc/self/fd").split() == ["0", "1", "2", "3"]


def test_signals_that_python_ignores_are_not_inherited(uid: int) -> None:
    """Others that are ignored, by `nohup` or a shell's background job, stay so."""
    (line,) = [t for t in inside(uid, "cat", "/proc/self/status").split("\n") if "SigIgn" in t]
    ignored = int(line.split()[1], 16)
    assert not ignored & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1)


def test_ignored_signals_stay_ignored(uid: int) -> None:
    line = command(uid, ["grep", "SigIgn", "/proc/self/status"])
    nohup = ["sh", "-c", "trap '' INT HUP; exec \"$@\"", "sh", *line]
    done = subprocess.run(nohup, env=environment(), capture_output=True, check=True, timeout=30)
    ignored = int(done.stdout.split()[1], 16)
    assert ignored & (1 << signal.SIGINT - 1)
    assert ignored & (1 << signal.SIGHUP - 1)


def test_arguments_and_environment_pass_unchanged(uid: int) -> None:
    text = inside(uid, "printf", "%s|", "a b", "", "ü", "--", "-I")
    assert text == "a b||ü|--|-I|"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
async def test_signal_forwarded(uid: int, name: str) -> None:
    script = f"trap 'echo got; exit 42' {name[3:]}; echo ready; while :; do sleep 0.05; done"
    process = await asyncio.create_subprocess_exec(
        *command(uid, ["sh", "-c", script]),
        env=environment(),
        stdout=subprocess.PIPE,
        start_new_session=True,  # no terminal
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    process.send_signal(signal.Signals[name])
    assert await process.stdout.readline() == b"got\n"
    assert await process.wait() == 42


async def test_untrapped_sigterm(uid: int) -> None:
    process = await asyncio.create_subprocess_exec(
        *command(uid, ["sh", "-c", "echo ready; exec sleep 60"]),
        env=environment(),
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    process.terminate()
    assert await process.wait() == 128 + signal.SIGTERM


def test_terminal_interrupt_arrives_once(uid: int) -> None:
    """Control-C goes to the whole job, so that forwarding it would make two of it."""
    script = (
        "import signal, sys, time\n"
        "count = []\n"
        "signal.signal(signal.SIGINT, lambda *_: count.append(1))\n"
        "print('ready', sys.stdin.isatty(), flush=True)\n"
        "end = time.monotonic() + 10\n"
        "while not count and time.monotonic() < end: time.sleep(0.01)\n"
        "time.sleep(0.3)\n"
        "print('count', len(count), flush=True)\n"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, command(uid, ["/usr/bin/python3", "-c", script]), environment())
    with open(terminal, "rb+", buffering=0) as tty:
        lines = _lines(tty.fileno())
        assert next(lines) == "ready True"
        tty.write(b"\x03")
        assert [line.removeprefix("^C") for line in lines if "count" in line] == ["count 1"]
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _lines(terminal: int) -> Iterator[str]:
    """Yield lines until the other side hangs up (EIO)."""
    text = b""
    with contextlib.suppress(OSError):
        while chunk := os.read(terminal, 4096):
            text += chunk
            *lines, text = text.split(b"\n")
            yield from (line.decode().strip() for line in lines)


def test_refused_where_user_namespaces_are_forbidden() -> None:
    """A user namespace has a limit of its own for those within it: zero, and no privilege."""
    script = (
        "echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set -all "
        "--inh-caps -all --no-new-privs " + " ".join(f"'{a}'" for a in command(0, ["true"]))
    )
    done = subprocess.run(
        ["unshare", "-U", "--map-root-user", "sh", "-c", script],
        env=environment(), capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 125, done.stderr
    assert done.stderr.count("\n") == 1
    assert "`sysctl -w user.max_user_namespaces=10000`" in done.stderr


@pytest_asyncio.fixture(params=["net", "user+net"])
async def stranger(request: pytest.FixtureRequest) -> AsyncIterator[int]:
    """A process in another network namespace, and perhaps another user namespace."""
    flags = ["-n"] if request.param == "net" else ["-n", "-U", "--map-root-user"]
    process = await asyncio.create_subprocess_exec(
        "unshare", *flags, "sh", "-c", "echo ready; exec sleep 60", stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()
    yield process.pid
    process.kill()
    await process.wait()
    process._transport.close()  # type: ignore[attr-defined]


def nsenter(pid: int, *argv: str) -> str:
    line = ["nsenter", "-t", str(pid), "-U", "-n", "--preserve-credentials", *argv]
    if os.path.samefile(f"/proc/{pid}/ns/user", "/proc/self/ns/user"):
        line.remove("-U")
    return subprocess.run(line, check=True, capture_output=True, text=True).stdout


def descriptors() -> set[str]:
    """What is open, without what only waits for the garbage collector."""
    gc.collect()
    return set(os.listdir("/proc/self/fd"))


async def test_attach_configures(stranger: int) -> None:
    before = descriptors()
    tap = await open_tap(Target(pid=stranger), CONFIG)
    assert descriptors() - before == {str(tap)}
    assert not os.get_inheritable(tap)
    assert not os.get_blocking(tap)
    (link,) = json.loads(nsenter(stranger, "ip", "-j", "addr", "show", "tap0"))
    assert link["address"] == "52:54:00:01:02:03"
    assert {"192.168.127.2", "fd00:127::2"} <= {a["local"] for a in link["addr_info"]}
    os.close(tap)
    links = json.loads(nsenter(stranger, "ip", "-j", "link"))
    assert [link["ifname"] for link in links] == ["lo"]


async def test_frames_both_ways(stranger: int) -> None:
    """A SYN comes out with its checksum left to us (12 octets of header say so)."""
    tap = await open_tap(Target(pid=stranger), CONFIG)
    ours = bytes.fromhex("020000000001")
    try:
        nsenter(stranger, "ip", "neigh", "add", "192.168.127.1", "lladdr", ours.hex(":"),
                "dev", "tap0")  # fmt: skip
        connect = "import socket; s = socket.socket(); s.setblocking(False); "
        connect += "s.connect_ex(('192.168.127.1', 80))"
        nsenter(stranger, "/usr/bin/python3", "-c", connect)
        frame = await _frame(tap, lambda f: f[12 + 12 : 12 + 14] == b"\x08\x00" and f[12 + 23] == 6)
        flags, gso, _, _, start, offset = struct.unpack_from("<BBHHHH", frame)
        assert (flags, gso, start, offset) == (VNET_NEEDS_CSUM, 0, 34, 16)
        assert frame[12:24] == ours + CONFIG.mac
        request = ours + struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + ours + bytes(
            [192, 168, 127, 1]) + bytes(6) + bytes([192, 168, 127, 2])  # fmt: skip
        os.write(tap, bytes(12) + b"\xff" * 6 + ours + b"\x08\x06" + request[6:])
        answer = await _frame(tap, lambda f: f[24:26] == b"\x08\x06" and f[33] == 2)
        assert answer[12 + 22 : 12 + 28] == CONFIG.mac
    finally:
        os.close(tap)


async def _frame(tap: int, wanted: Callable[[bytes], bool]) -> bytes:
    """Wait for the first frame, header included, that is `wanted`."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[bytes] = loop.create_future()

    def read() -> None:
        frame = os.read(tap, 1 << 17)
        if wanted(frame) and not found.done():
            found.set_result(frame)

    loop.add_reader(tap, read)
    try:
        return await asyncio.wait_for(found, 10)
    finally:
        loop.remove_reader(tap)


async def test_attach_twice_is_refused(stranger: int) -> None:
    tap = await open_tap(Target(pid=stranger), CONFIG)
    before = descriptors()
    with pytest.raises(NamespaceError, match="cannot create tap0: the namespace has"):
        await open_tap(Target(pid=stranger), CONFIG)
    with pytest.raises(NamespaceError, match="has a default route already"):
        await open_tap(
            Target(pid=stranger),
            NamespaceConfig(ifname="tap1", addresses=("10.0.0.2/24",), gateways=("10.0.0.1",)),
        )
    assert descriptors() <= before
    os.close(tap)


async def test_attach_gateway_out_of_reach(stranger: int) -> None:
    config = NamespaceConfig(addresses=("10.0.0.2/24",), gateways=("10.9.0.1",))
    with pytest.raises(NamespaceError, match=r"via 10\.9\.0\.1: no address of the interface"):
        await open_tap(Target(pid=stranger), config)


async def test_attach_by_name() -> None:
    name = f"trikit-test-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    config = NamespaceConfig(addresses=("10.0.0.2/24",), dns=("10.0.0.1",), accept_ra=True)
    target = Target(netns=name)
    done = resolver.install(target, config)
    try:
        tap = await open_tap(target, config)
        execute = ["ip", "netns", "exec", name]
        text = subprocess.check_output([*execute, "cat", "/etc/resolv.conf"], text=True)
        assert text == "nameserver 10.0.0.1\n"
        accept = "/proc/sys/net/ipv6/conf/tap0/accept_ra"
        assert subprocess.check_output([*execute, "cat", accept], text=True) == "2\n"
        os.close(tap)
    finally:
        done.remove()
        subprocess.run(["ip", "netns", "del", name], check=True)
    assert not Path(f"/etc/netns/{name}").exists()


async def test_child_in_process_leaks_nothing() -> None:
    before = descriptors()
    child = await Child.start(["true"], CONFIG)
    await child.release()
    assert await child.wait() == 0
    os.close(child.tap_fd)
    child.close()
    assert descriptors() <= before


async def test_child_refused_leaks_nothing() -> None:
    before = descriptors()
    config = NamespaceConfig(addresses=("10.0.0.2/24",), gateways=("10.9.0.1",))
    with pytest.raises(NamespaceError, match="no address of the interface"):
        await Child.start(["true"], config)
    assert descriptors() <= before


async def test_child_close_before_release_starts_nothing(tmp_path: Path) -> None:
    child = await Child.start(["touch", str(tmp_path / "started")], CONFIG)
    child.close()
    os.close(child.tap_fd)
    assert await child.wait() == 128 + signal.SIGKILL
    assert not (tmp_path / "started").exists()


async def test_child_waits_for_release(tmp_path: Path) -> None:
    child = await Child.start(["touch", str(tmp_path / "started")], CONFIG)
    assert Path(f"/proc/{child.pid}/comm").read_text().startswith("python")
    assert not (tmp_path / "started").exists()
    await child.release()
    assert await child.wait() == 0
    assert (tmp_path / "started").exists()
    os.close(child.tap_fd)


async def test_child_no_such_command() -> None:
    child = await Child.start(["no-such-command"], CONFIG)
    with pytest.raises(CommandError) as caught:
        await child.release()
    assert caught.value.exit_code == 127
    os.close(child.tap_fd)
