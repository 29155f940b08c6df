"""The `hypervisor` command on QEMU with the distribution's kernel: a life from other terminals."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hypervisor.engine.host import QEMU
from hypervisor.errors import UsageError
from hypervisor.image.build import Image, Spec, build
from hypervisor.image.cache import Cache, default_directory

pytestmark = [
    pytest.mark.compat,
    pytest.mark.timeout(240),
    pytest.mark.skipif(shutil.which(QEMU) is None, reason="QEMU is not installed"),
]

BOOT = 90.0  # seconds; a boot takes two on an idle machine
NOBODY = 65534
PROMPT = b"/ # "


@pytest.fixture(scope="module")
def image() -> Image:
    try:
        return build(Spec(), Cache(default_directory(os.environ)))
    except UsageError as error:
        pytest.skip(f"no image: {error}")


class User:
    """Runs commands with a runtime directory of its own, as root or as an ordinary user."""

    def __init__(self, place: Path, uid: int) -> None:
        self.place = place
        self.uid = uid
        self.environ = {**os.environ, "XDG_RUNTIME_DIR": str(place), "HOME": str(place)}
        self.started: list[subprocess.Popen[bytes]] = []
        os.chown(place, uid, uid)

    def start(self, *arguments: object, **options: Any) -> "subprocess.Popen[bytes]":
        """Start `hypervisor` with arguments."""
        command = [sys.executable, "-m", "hypervisor.cli", *map(str, arguments)]
        if self.uid != os.getuid():
            ids = ["--reuid", str(self.uid), "--regid", str(self.uid), "--clear-groups"]
            command = ["setpriv", *ids, "--", *command]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(
            command, env=self.environ, cwd=self.place, **{**pipes, **options}
        )
        self.started.append(process)
        return process

    def __call__(self, *arguments: object, stdin: bytes = b"", code: int = 0) -> str:
        """Return what `hypervisor` prints; its exit code must be `code`."""
        process = self.start(*arguments)
        out, err = process.communicate(stdin, 60)
        assert process.returncode == code, (out, err)
        return (out + err).decode()

    def run(self, image: Image, *arguments: object) -> "subprocess.Popen[bytes]":
        """Start a machine in the background, and wait until it has its socket."""
        files = ["-k", self.place / "kernel", "-i", self.place / "initrd"]
        for path, name in ((image.kernel, "kernel"), (image.initrd, "initrd")):
            shutil.copy(path, self.place / name)
            (self.place / name).chmod(0o644)
        machine = self.start("run", "--engine", "qemu", *files, *arguments)
        self.wait(lambda: (self.sockets / "web.sock").exists(), machine)
        return machine

    @property
    def sockets(self) -> Path:
        """Where the sockets of this user's machines are."""
        return self.place / "trikit" / "hypervisor"

    def wait(self, condition: Any, machine: "subprocess.Popen[bytes]") -> None:
        """Wait for something outside of this process."""
        deadline = time.monotonic() + BOOT
        while not condition():
            assert machine.poll() is None, machine.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def until_booted(self, log: Path, machine: "subprocess.Popen[bytes]") -> None:
        """Wait for the guest's shell."""
        self.wait(lambda: log.exists() and PROMPT in log.read_bytes(), machine)


@pytest.fixture
def user(request: pytest.FixtureRequest) -> Iterator[User]:
    """Root by default; `uid` by parameter."""
    uid = getattr(request, "param", os.getuid())
    place = Path(tempfile.mkdtemp(prefix="trikit-cli-"))  # pytest's own is root's alone
    user = User(place, uid)
    yield user
    for process in user.started:
        process.kill()
        process.communicate()
    shutil.rmtree(place)


@pytest.mark.parametrize("user", [os.getuid(), NOBODY], indirect=True, ids=["self", "ordinary"])
def test_a_life_from_other_terminals(image: Image, user: User) -> None:
    """Start in the background, ps, console, publish, pause, resume, top, events, stop."""
    if user.uid != os.getuid() and not _may_read(user):
        pytest.skip("an ordinary user cannot read this checkout")
    log = user.place / "console.log"
    machine = user.run(
        image, "--name", "web", "--net", "-p", "0:80", "--no-console", "--console-log", log,
        "-F", user.place / "pid", "-l", "com1,log=ring,autopty=tty",
    )  # fmt: skip
    user.until_booted(log, machine)
    assert int((user.place / "pid").read_text()) == machine.pid
    (found,) = json.loads(user("ps", "--json"))
    assert (found["name"], found["state"], found["engine"]) == ("web", "running", "qemu")
    _serves_a_page(user, found["published"][0]["host"])
    _pauses_and_resumes(user)
    events = user.start("events", "web")
    assert events.stdout is not None
    (top,) = json.loads(user("top", "--once", "--json"))
    assert sum(top["vcpu_seconds"]) > 0.1
    assert 30 << 20 < top["resident"] < 300 << 20
    assert top["rx_octets"] > 0
    assert top["tx_octets"] > 0
    assert PROMPT in (user.place / "ring").read_bytes()
    assert Path((user.place / "tty").read_text()).is_char_device()
    assert "web: power-off" in user("stop", "web", "--timeout", "30")
    assert machine.wait(30) == 0
    kinds = [json.loads(line)["kind"] for line in events.communicate(timeout=30)[0].splitlines()]
    assert [*dict.fromkeys(kinds)] == ["power button", "ended"]  # a slow guest: pressed again
    assert not (user.place / "pid").exists()
    assert not list(user.sockets.iterdir())
    assert json.loads(user("ps", "--json")) == []


def _may_read(user: User) -> bool:
    process = user.start("--version")
    process.communicate()
    return process.returncode == 0


def _serves_a_page(user: User, host: str) -> None:
    """Type at the guest's shell through `console`; fetch through the published port."""
    console = user.start("console", "web")
    assert console.stdin is not None
    assert console.stdout is not None
    console.stdin.write(b"echo the-page > /index.html; httpd -p 80 -h /; echo ser''ving\n")
    console.stdin.flush()
    seen = b""
    while b"serving" not in seen:
        data = os.read(console.stdout.fileno(), 4096)
        assert data, (seen, console.communicate())
        seen += data
    console.stdin.write(b"\x1d")  # Ctrl-]
    _, err = console.communicate(timeout=30)
    assert b"detached" in err
    assert urllib.request.urlopen(f"http://{host}/", timeout=30).read() == b"the-page\n"


def _pauses_and_resumes(user: User) -> None:
    assert user("pause", "web") == "web: paused\n"
    assert json.loads(user("stats", "--json", "web"))["state"] == "paused"
    assert user("resume", "web") == "web: running\n"


def test_three_kits_on_one_line(image: Image, user: User) -> None:
    """`--net --publish --share`: a page that is served from a file of the host's."""
    (user.place / "src").mkdir()
    (user.place / "src" / "index.html").write_text("from the host\n")
    log = user.place / "console.log"
    machine = user.run(
        image, "--name", "web", "--net", "--publish", "0:80", "--share", "src=src",
        "--disk", "data.img,size=16M", "--no-console", "--console-log", log,
    )  # fmt: skip
    user.until_booted(log, machine)
    console = user.start("console", "web")
    assert console.stdin is not None
    console.stdin.write(
        b"mkdir /src; mount -t 9p -o trans=virtio,version=9p2000.L src /src; httpd -p 80 -h /src;"
        b" cat /sys/block/vda/size > /src/size; echo do''ne\n"
    )
    console.stdin.flush()
    user.wait(lambda: b"done" in log.read_bytes(), machine)
    (found,) = json.loads(user("ps", "--json"))
    page = f"http://{found['published'][0]['host']}/"
    assert urllib.request.urlopen(page, timeout=30).read() == b"from the host\n"
    assert int((user.place / "src" / "size").read_text()) * 512 == 16 << 20
    user("stop", "web", "--timeout", "30")
    assert machine.wait(30) == 0


def test_signals_are_buttons(image: Image, user: User) -> None:
    log = user.place / "console.log"
    machine = user.run(image, "--name", "web", "--no-console", "--console-log", log)
    user.until_booted(log, machine)
    for number, state in ((signal.SIGUSR1, "paused"), (signal.SIGUSR2, "running")):
        machine.send_signal(number)
        user.wait(lambda s=state: json.loads(user("ps", "--json"))[0]["state"] == s, machine)
    machine.send_signal(signal.SIGTERM)
    assert machine.wait(30) == 0


def test_sigterm_before_the_guest_hears_the_power_button(image: Image, user: User) -> None:
    log = user.place / "console.log"
    options = ("--no-console", "--console-log", log, "--stop-timeout", 120)
    machine = user.run(image, "--name", "web", *options)
    user.wait(lambda: json.loads(user("ps", "--json"))[0]["state"] == "running", machine)
    machine.send_signal(signal.SIGTERM)  # whether or not: its kernel has hardly begun
    out, err = machine.communicate(timeout=150)
    assert machine.returncode == 0, (out, err, log.read_bytes())


def test_sigterm_whatever_the_terminals_do(image: Image, user: User) -> None:
    """A flood that nobody reads: on this terminal, on one that is stopped, on a half-closed one."""
    log = user.place / "console.log"
    machine = user.run(image, "--name", "web", "--console-log", log)
    user.until_booted(log, machine)
    stopped = user.start("console", "web")
    user.start("console", "web", "--read-only", stdin=subprocess.DEVNULL)
    assert machine.stdin is not None
    machine.stdin.write(b"yes\n")
    machine.stdin.flush()
    user.wait(lambda: len(log.read_bytes()) > 1 << 18, machine)
    stopped.send_signal(signal.SIGSTOP)
    machine.send_signal(signal.SIGTERM)
    assert machine.wait(60) in {0, 1}  # 1: a flooded guest was too slow, and was killed


def test_reboot_is_exit_code_2_and_kill_1(image: Image, user: User) -> None:
    log = user.place / "console.log"
    machine = user.run(image, "--name", "web", "--console-log", log)
    user.until_booted(log, machine)
    out, err = machine.communicate(b"reboot -f\n", 60)  # the console is on stdin and stdout
    assert machine.returncode == 2, (out, err)
    assert b"reboot -f" in out
    assert b"web: reboot" in err
    machine = user.run(image, "--name", "web", "--no-console")
    assert user("stop", "--kill", "web") == "web: killed\n"
    assert machine.wait(30) == 1


def test_without_acpi_a_guest_boots_and_is_told_of_its_devices(image: Image, user: User) -> None:
    log = user.place / "console.log"
    machine = user.run(
        image, "--name", "web", "--no-acpi", "--net", "--no-console", "--console-log", log
    )
    user.until_booted(log, machine)
    console = user.start("console", "web")
    # Without ACPI, QEMU's board cannot turn itself off, and reset itself by a triple fault alone.
    out, _ = console.communicate(b"cat /proc/cmdline; ls /sys/firmware; reboot -f\n", 60)
    assert b" virtio_mmio.device=" in out  # which Debian's kernels are not configured to hear
    assert b"\nacpi" not in out
    _, err = machine.communicate(timeout=30)
    assert b"without ACPI this guest will find no devices" in err
    assert machine.returncode == 3


def test_names_pidfiles_and_ports_in_use(image: Image, user: User) -> None:
    port = ["-p", "0:80"]
    user.run(image, "--name", "web", "--no-console", "-F", user.place / "pid", *port)
    kernel = ["run", "--engine", "qemu", "-k", user.place / "kernel"]
    assert "a machine web runs already" in user(*kernel, "--name", "web", code=1)
    assert "pidfile" in user(*kernel, "-F", user.place / "pid", code=1)
    (found,) = json.loads(user("ps", "--json"))
    taken = found["published"][0]["host"].rpartition(":")[2]
    assert f"127.0.0.1:{taken}: Address already in use" in user(
        *kernel, "-p", f"{taken}:80", code=1
    )


def test_what_a_killed_one_left_is_cleaned(image: Image, user: User) -> None:
    machine = user.run(image, "--name", "web", "--no-console")
    machine.send_signal(signal.SIGKILL)
    machine.wait(30)
    assert (user.sockets / "web.sock").exists()
    assert json.loads(user("ps", "--json")) == []
    assert not (user.sockets / "web.sock").exists()


def test_two_machines_of_a_file_see_each_other(image: Image, user: User) -> None:
    (user.place / "machines.toml").write_text(
        'engine = "qemu"\nkernel = "kernel"\ninitrd = "initrd"\nnet = true\n'
        '[machine.client]\nconsole-log = "client.log"\n'
        '[machine.web]\npublish = ["0:80"]\nconsole-log = "web.log"\n'
    )
    shutil.copy(image.kernel, user.place / "kernel")
    shutil.copy(image.initrd, user.place / "initrd")
    machine = user.start("run", "machines.toml")
    for name in ("client", "web"):
        user.until_booted(user.place / f"{name}.log", machine)
    console = user.start("console", "client")
    assert console.stdin is not None
    # Its shell may be there before DHCP is done, on a busy host.
    reached = b"until ping -c 1 web.internal >/dev/null 2>&1; do sleep 1; done"
    console.stdin.write(reached + b"; ping -c 3 web.internal; echo fin''ished\n")
    console.stdin.flush()
    log = user.place / "client.log"
    user.wait(lambda: b"finished" in log.read_bytes(), machine)
    assert b" 0% packet loss" in log.read_bytes()
    assert [each["name"] for each in json.loads(user("ps", "--json"))] == ["client", "web"]
    user("stop", "client", "web", "--timeout", "30")
    out, err = machine.communicate(timeout=30)
    assert machine.returncode == 0, err
    assert b"client | " in out
    assert b"web | " in out
