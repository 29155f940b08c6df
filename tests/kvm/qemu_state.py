"""What a QEMU that does not answer is doing: its threads, its processors, interrupts that wait.

For the report on a stuck nested machine, to tell apart: the emulator stands still, a processor
sleeps though an interrupt waits for it (TCG loses some), or the machine is busy with something.
"""

from __future__ import annotations

import json
import re
import socket
import time
from pathlib import Path
from typing import Any

ANSWER = 5.0  # seconds
SAMPLE = 1.0  # seconds
QUESTIONS = ("info status", "info registers -a")


class Qmp:
    """A QMP connection of one question at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sock.settimeout(ANSWER)
        self._lines = sock.makefile("rb")
        self._execute("qmp_capabilities")

    def _execute(self, command: str, **arguments: str) -> Any:
        request = {"execute": command, "arguments": arguments}
        self._sock.sendall(json.dumps(request).encode() + b"\n")
        while line := self._lines.readline():
            message = json.loads(line)
            if "return" in message or "error" in message:
                return message.get("return", message.get("error"))
        raise ConnectionError("QEMU is gone")

    def ask(self, line: str) -> str:
        """Return what the human monitor says to `line`."""
        return str(self._execute("human-monitor-command", **{"command-line": line}))


def describe(sock: socket.socket, pid: int, cpus: int) -> str:
    """Say what QEMU does; `sock` is its QMP connection."""
    lines = [f"QEMU's threads, and seconds of processor time each used in {SAMPLE:g} s:"]
    before = _threads(pid)
    answers: list[str] = []
    try:
        qmp = Qmp(sock)
        waited = [_waiting(qmp, cpu) for cpu in range(cpus)]
        time.sleep(SAMPLE)
        answers += [_short(qmp.ask(question)) for question in QUESTIONS]
        answers += [_interrupts(qmp, cpu, waited[cpu]) for cpu in range(cpus)]
    except TimeoutError:
        answers.append(f"  QEMU's monitor is silent for {ANSWER:g} s: its main loop is stuck")
    except OSError as error:
        answers.append(f"  QEMU's monitor: {error}")
    for thread, (name, state, used) in sorted(_threads(pid).items()):
        passed = used - before.get(thread, (name, state, used))[2]
        lines.append(f"  {thread} {name} {state} {passed / 100:.2f}")
    return "\n".join([*lines, *answers])


def _threads(pid: int) -> dict[int, tuple[str, str, int]]:
    """Map each thread to its name, state and used hundredths of a second."""
    found = {}
    for task in Path(f"/proc/{pid}/task").glob("*/stat"):
        name, _, rest = task.read_text().partition("(")[2].rpartition(")")
        fields = rest.split()
        found[int(task.parent.name)] = name, fields[0], int(fields[11]) + int(fields[12])
    return found


def _short(answer: str) -> str:
    """Keep of the registers what says where a processor is and whether it sleeps."""
    kept = [line for line in answer.splitlines() if re.match(r"VM|CPU#|RIP|EIP|RAX", line)]
    return "\n".join(f"  {line.strip()}" for line in kept)


def _waiting(qmp: Qmp, cpu: int) -> set[str]:
    """Return the vectors that wait for a processor while it serves none."""
    answer = qmp.ask(f"info lapic {cpu}")
    found = re.search(r"^ISR\s+\(none\)\s+IRR\s+(.*)", answer, re.M)
    return set(re.findall(r"\d+", found[1])) if found else set()


def _interrupts(qmp: Qmp, cpu: int, before: set[str]) -> str:
    """Return a processor's timer and interrupts; `before` waited a while ago."""
    lines = qmp.ask(f"info lapic {cpu}").splitlines()
    kept = [line for line in lines if re.match(r"LVTT\s|Timer|ISR|IRR|APR", line)]
    if lost := before & _waiting(qmp, cpu):
        kept.append(f"lost by QEMU: vector {' '.join(sorted(lost))} waits, and none is served")
    return "\n".join(f"  lapic {cpu}: {' '.join(line.split())}" for line in kept)
