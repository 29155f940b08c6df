"""Runs inside the nested machine: takes commands from a virtio port, gives back output and code.

A message is one line of JSON.  The host sends {"argv", "cwd", "environment", "timeout"}; the
answers are {"output": text}, as it comes, and at last {"code": number}, 124 at the deadline as
timeout(1) has it.  The first message is ours, {"ready": pid}.  While a command runs, empty lines
are answered by {"alive": seconds}.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

NAME = "trikit.nested"
DEADLINE = 124


def main() -> None:
    """Serve commands until the machine is killed."""
    with open(_port(), "r+b", buffering=0) as port:
        send(port.fileno(), {"ready": os.getpid()})
        pending = b""
        while True:
            line, newline, rest = pending.partition(b"\n")
            if newline:
                pending = rest
                if line:
                    serve(port.fileno(), json.loads(line))
            else:
                pending += os.read(port.fileno(), 65536)


def _port() -> Path:
    for entry in Path("/sys/class/virtio-ports").iterdir():
        if (entry / "name").read_text().strip() == NAME:
            return Path("/dev") / entry.name
    raise SystemExit(f"no virtio port is named {NAME}")


def send(port: int, message: dict[str, Any]) -> None:
    """Write one message, in as many pieces as the port takes."""
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(port, data) :]


def serve(port: int, request: dict[str, Any]) -> None:
    """Run one command to its end."""
    child = subprocess.Popen(
        request["argv"],
        cwd=request["cwd"],
        env={**os.environ, **request["environment"]},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert child.stdout is not None
    deadline = time.monotonic() + request["timeout"]
    while (left := deadline - time.monotonic()) > 0:
        ready = select.select([child.stdout, port], [], [], left)[0]
        if port in ready:
            os.read(port, 4096)
            send(port, {"alive": time.monotonic()})
        if child.stdout not in ready:
            continue
        data = os.read(child.stdout.fileno(), 65536)
        if not data:
            send(port, {"code": child.wait()})
            return
        send(port, {"output": data.decode("utf-8", "replace")})
    child.kill()
    child.wait()
    send(port, {"code": DEADLINE})


if __name__ == "__main__":
    sys.exit(main())
