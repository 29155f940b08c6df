"""Control of a running machine over a unix socket, and the other end of it.

    async with Machine(...) as vm, control.serve(vm, "/run/me/vm.sock"):
        await vm.wait()

    async with control.connect("/run/me/vm.sock") as client:
        print((await client.request("status"))["state"])

The protocol is lines of JSON.  A request is `{"op": NAME, ...}`; the answer `{"ok": VALUE}` or
`{"error": "one line"}`.  After `events` come events, one a line; after `console` the connection is
the console: what is sent is typed, what the guest prints is received, beginning with what it
printed last.  Only the machine's user and root are answered (SO_PEERCRED).
"""

from .client import Client, connect
from .server import Server, serve

__all__ = ["Client", "Server", "connect", "serve"]
