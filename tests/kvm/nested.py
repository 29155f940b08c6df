"""A machine in which KVM runs stock kernels, on hosts where it does not: QEMU's TCG emulates SVM.

    with Nested() as machine:
        print(machine.run([machine.python, "-c", "print(open('/dev/kvm'))"]).output)

It boots the distribution's kernel with an initramfs made by `hypervisor.image`, sees the host's
root read-only over 9P, this checkout with its .venv included, and needs no root.  What is written
goes to /run, which is the machine's own.

QEMU 7.2's emulation of SVM has faults of its own.  VMRUN with a virtual interrupt pending changes
the processor's set of pending interrupts without the lock (`helper_vmrun`; mended upstream later):
an interrupt that comes at that moment is lost, for ever when it is the timer's that the kernel
sleeps for.  And with two processors under guests that exit all the time, the machine's kernel died
of a corrupted stack (twice in three runs of a minute; never with one).  So the machine has one
processor, and is pinged: a ping's interrupt makes it look for others that wait, too.  Silence in
spite of it, or a kernel that died, is a `NestedError` with all that QEMU says of its state.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from qemu_state import describe

from hypervisor.engine import qemu_args, tsc
from hypervisor.engine.host import QEMU
from hypervisor.image.build import Image, Spec, build
from hypervisor.image.cache import Cache, default_directory

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv/bin/python"
AGENT = Path(__file__).with_name("agent.py")
BOOT = 120.0  # seconds to the agent's first word; 10 on an idle machine
SPARE = 20.0  # seconds beyond a command's own deadline
PING = 0.5  # seconds of silence after which the agent is asked for a sign of life
SILENCE = 60.0  # seconds of it after which the machine is dead
CPUS = 1
CONSOLE = 5000  # characters, the end of it
PORT = "trikit.nested"  # as agent.py names it
INIT = b"""#!/bin/sh
. /lib/trikit/setup.sh
modprobe -a kvm_amd virtio_console 9p 9pnet_virtio tun vhost_vsock
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 host /mnt || poweroff -f
for each in proc sys dev dev/pts; do mount --bind /$each /mnt/$each; done
mount -t tmpfs tmpfs /mnt/run
mkdir -p /mnt/run/tmp /dev/shm
mount -t tmpfs tmpfs /mnt/dev/shm
word() { tr ' ' '\\n' </proc/cmdline | sed -n "s/^nested\\.$1=//p"; }
export HOME=/run TMPDIR=/run/tmp PYTHONDONTWRITEBYTECODE=1 TRIKIT_NESTED=1
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
chroot /mnt "$(word python)" "$(word agent)"
poweroff -f
"""


class NestedError(Exception):
    """The nested machine did not come up, or is gone; the message ends with its console."""


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended: its exit code (124: at its deadline) and all it printed."""

    code: int
    output: str


class Nested:
    """One nested machine, for use in a `with` statement; commands run one after the other."""

    python = str(PYTHON)

    def __init__(self, *, cpus: int = CPUS, memory: int = 2048) -> None:
        self._cpus = cpus
        self._memory = memory
        self._image = _image()
        self._start()

    def _start(self) -> None:
        self._place = tempfile.TemporaryDirectory(prefix="trikit-nested-")
        self._log = Path(self._place.name) / "console"
        self._sock, theirs = socket.socketpair()
        self._qmp, their_qmp = socket.socketpair()
        self._pending = b""
        with theirs, their_qmp, open(self._log, "ab") as log:
            wires = theirs.fileno(), their_qmp.fileno()
            command = _command(self._image, wires, self._log, self._cpus, self._memory)
            self._qemu = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=wires,
                start_new_session=True,
            )

    def restart(self) -> None:
        """Kill the machine, whatever its state, and start it anew."""
        self.close()
        self._start()
        self.__enter__()

    def __enter__(self) -> Self:
        try:
            self._receive(time.monotonic() + BOOT, silence=BOOT)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float = 120.0,
        environment: dict[str, str] | None = None,
    ) -> Done:
        """Run a command in the checkout; NestedError when the machine does not answer."""
        output = []
        for part in self.stream(argv, timeout=timeout, environment=environment):
            if isinstance(part, Done):
                return Done(part.code, "".join(output))
            output.append(part)
        raise AssertionError("a stream ends with how the command ended")

    def stream(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        environment: dict[str, str] | None = None,
    ) -> Iterator[str | Done]:
        """Run a command and yield its output as it comes, then its end; to be read to the end."""
        request = {
            "argv": list(argv),
            "cwd": str(ROOT),
            "environment": environment or {},
            "timeout": timeout,
        }
        self._sock.settimeout(SPARE)
        self._sock.sendall(json.dumps(request).encode() + b"\n")
        deadline = time.monotonic() + timeout + SPARE
        while "code" not in (message := self._receive(deadline)):
            yield message["output"]
        yield Done(message["code"], "")

    def _receive(self, deadline: float, silence: float = SILENCE) -> dict[str, Any]:
        """Return the agent's next message; its signs of life only put off the silence's end."""
        silent = time.monotonic() + silence
        while True:
            line, newline, rest = self._pending.partition(b"\n")
            if newline:
                self._pending = rest
                message: dict[str, Any] = json.loads(line)
                if "alive" not in message:
                    return message
                silent = time.monotonic() + silence
            elif time.monotonic() > deadline:
                raise self._dead("does not answer in time")
            else:
                self._pending += self._more(min(deadline, silent))

    def _more(self, deadline: float) -> bytes:
        while (left := deadline - time.monotonic()) > 0:
            self._sock.settimeout(min(left, PING))
            try:
                if data := self._sock.recv(65536):
                    return data
                raise self._dead("is gone")
            except TimeoutError:
                self._ping()
            except ConnectionError:
                raise self._dead("is gone") from None
        raise self._dead("is silent")

    def _ping(self) -> None:
        """Ask for a sign of life; the interrupt alone shows the machine any that it has missed."""
        with contextlib.suppress(TimeoutError, ConnectionError):  # `recv` tells
            self._sock.sendall(b"\n")

    def _dead(self, how: str) -> NestedError:
        """Make the error that says all that can be found out."""
        try:
            state = f"QEMU ended with {self._qemu.wait(1.0)}"
        except subprocess.TimeoutExpired:
            state = self.state()
        return NestedError(f"the nested machine {how}\n{state}\nits console:\n{self.console}")

    def state(self) -> str:
        """Say what QEMU and its processors do."""
        return describe(self._qmp, self._qemu.pid, self._cpus)

    @property
    def console(self) -> str:
        """The end of what the machine's kernel printed."""
        text = self._log.read_bytes().decode("utf-8", "replace")
        lines = [line for line in text.splitlines() if "TCG doesn't support" not in line]
        return "\n".join(lines)[-CONSOLE:]

    def close(self) -> None:
        """Kill the machine; nothing of it is left."""
        self._qemu.kill()
        self._qemu.wait(SPARE)
        self._sock.close()
        self._qmp.close()
        self._place.cleanup()


def _image() -> Image:
    spec = Spec(modules=("kvm_amd", "tun", "vhost_vsock"), init=INIT)
    return build(spec, Cache(default_directory(os.environ)))


def _command(image: Image, wires: tuple[int, int], log: Path, cpus: int, memory: int) -> list[str]:
    program = shutil.which(QEMU)
    if program is None:
        raise NestedError(f"{QEMU} is not here")
    words = qemu_args.cmdline(f"nested.python={PYTHON} nested.agent={AGENT}", False, 0)
    words += " " + qemu_args.CMDLINE_TSC.format(khz=tsc.frequency_khz())
    args = ["setpriv", "--pdeathsig", "KILL", "--", program]
    args += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    args += ["-accel", "tcg,thread=multi", "-cpu", "EPYC,+svm,+npt", "-machine", "q35"]
    args += ["-smp", str(cpus), "-m", str(memory), "-serial", "chardev:com1"]
    args += ["-chardev", f"file,id=com1,path={log},append=on"]
    args += ["-chardev", f"socket,id=port,fd={wires[0]}", "-device", "virtio-serial-pci"]
    args += ["-chardev", f"socket,id=qmp,fd={wires[1]}", "-mon", "chardev=qmp,mode=control"]
    args += ["-device", f"virtserialport,chardev=port,name={PORT}", "-device", "virtio-rng-pci"]
    share = "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"
    args += ["-virtfs", share, "-kernel", str(image.kernel), "-initrd", str(image.initrd)]
    # "pci=off" is for boards without: the last word counts only if the first is not there.
    return [*args, "-append", words.replace("pci=off ", "")]
