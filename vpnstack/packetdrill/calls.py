"""The socket calls of a script, by name, over the sockets of `streams` and `sockets`."""

from __future__ import annotations

from collections.abc import Callable

from . import values
from .errors import Mismatch, ScriptError
from .flows import Flows
from .lab import Lab
from .names import CONSTANTS
from .script import ANY, Call, Expression, Struct
from .sockets import Endpoint, Fault, Socket, UdpSocket, WouldBlock
from .sockopt import get_option, set_option
from .streams import TcpSocket

C = CONSTANTS
FD_FIRST = 3
EPHEMERAL = 49152
ALWAYS = C["POLLERR"] | C["POLLHUP"] | C["POLLNVAL"]

Operation = Callable[[], int]


class Calls:
    """The descriptors of one script."""

    def __init__(self, lab: Lab, flows: Flows) -> None:
        self.lab = lab
        self.flows = flows
        self.fds: dict[int, Socket] = {}
        self.subject: TcpSocket | None = None  # whose TCP_INFO assertions see
        self._ports = EPHEMERAL

    def start(self, call: Call) -> Operation:
        """Return what does the call: it may raise `WouldBlock` and be tried again."""
        make = getattr(self, f"_do_{call.name}", None)
        if make is None:
            known = ", ".join(sorted(n[4:] for n in dir(self) if n.startswith("_do_")))
            raise ScriptError(f"expected a call of {known}, found {call.name}")
        return lambda: make(*call.args)

    def attempt(self, call: Call) -> Operation:
        """Like `start`, with a wrong number of arguments as an error of the script."""
        operation = self.start(call)

        def run() -> int:
            try:
                return operation()
            except TypeError as e:
                if "positional argument" not in str(e):
                    raise
                raise ScriptError(f"expected other arguments for {call.name}: {e}") from e

        return run

    # Helpers.

    def _socket(self, fd: Expression) -> Socket:
        found = self.fds.get(values.number(fd))
        if found is None:
            raise Fault("EBADF")
        return found

    def _stream(self, fd: Expression) -> TcpSocket:
        found = self._socket(fd)
        if not isinstance(found, TcpSocket):
            raise Fault("EOPNOTSUPP")
        return found

    def _add(self, sock: Socket) -> int:
        fd = FD_FIRST
        while fd in self.fds:
            fd += 1
        self.fds[fd] = sock
        return fd

    def _port(self) -> int:
        self._ports += 1
        return self._ports

    def _peer(self, e: Expression) -> Endpoint:
        s = self.lab.settings
        return values.address(e, (s.remote, s.connect_port))

    # Making and opening.

    def _do_socket(self, domain: Expression, kind: Expression, proto: Expression) -> int:
        flags = values.number(kind)
        stream = flags & 0xF == C["SOCK_STREAM"]
        sock: Socket = TcpSocket(self.lab) if stream else UdpSocket(self.lab)
        sock.nonblocking = bool(flags & C["SOCK_NONBLOCK"])
        return self._add(sock)

    def _do_bind(self, fd: Expression, addr: Expression, size: Expression) -> int:
        sock = self._socket(fd)
        anywhere = bytes(len(self.lab.settings.local))
        end = values.address(addr, (anywhere, self.lab.settings.bind_port))
        end = (end[0], end[1] or self._port())
        if sock.local is not None:
            raise Fault("EINVAL")
        if any(end[0]) and end[0] not in self.lab.stack.interface.local:
            raise Fault("EADDRNOTAVAIL")
        if isinstance(sock, UdpSocket):
            sock.bind(end)
        sock.local = end
        self.flows.bound(end[1])
        return 0

    def _do_listen(self, fd: Expression, backlog: Expression) -> int:
        return self._stream(fd).listen(values.number(backlog))

    def _do_accept(self, fd: Expression, addr: Expression, size: Expression) -> int:
        child = self._stream(fd).accept()
        self.subject = child
        return self._add(child)

    def _do_accept4(
        self, fd: Expression, addr: Expression, size: Expression, flags: Expression
    ) -> int:  # fmt: skip
        new = self._do_accept(fd, addr, size)
        self.fds[new].nonblocking = bool(values.number(flags) & C["SOCK_NONBLOCK"])
        return new

    def _do_connect(self, fd: Expression, addr: Expression, size: Expression) -> int:
        sock, peer = self._socket(fd), self._peer(addr)
        if isinstance(sock, UdpSocket):
            local = sock.ensure(self._port())
            sock.remote = peer
            self.flows.outbound(local[1], peer[1])
            return 0
        if not isinstance(sock, TcpSocket):
            raise Fault("EOPNOTSUPP")
        fresh = sock.flow is None
        self.subject = sock
        try:
            return sock.connect(peer, self._port() if fresh and sock.local is None else 0)
        finally:
            if fresh and sock.local is not None:
                self.flows.outbound(sock.local[1], peer[1])

    # Sending.

    def _do_write(self, fd: Expression, data: Expression, size: Expression) -> int:
        return self._do_send(fd, data, size, 0)

    def _do_writev(self, fd: Expression, parts: Expression, count: Expression) -> int:
        return self._do_send(fd, ANY, values.vector(parts), 0)

    def _do_sendmsg(self, fd: Expression, header: Expression, flags: Expression) -> int:
        name = header.members.get("msg_name", ANY) if isinstance(header, Struct) else ANY
        return self._send(fd, ANY, values.message(header), flags, name)

    def _do_send(
        self, fd: Expression, data: Expression, size: Expression, flags: Expression
    ) -> int:  # fmt: skip
        return self._send(fd, data, size, flags, None)

    def _do_sendto(
        self, fd: Expression, data: Expression, size: Expression, flags: Expression,
        addr: Expression, addr_size: Expression,
    ) -> int:  # fmt: skip
        return self._send(fd, data, size, flags, addr)

    def _send(
        self, fd: Expression, data: Expression, size: Expression, flags: Expression,
        addr: Expression | None,
    ) -> int:  # fmt: skip
        sock, bits = self._socket(fd), values.number(flags)
        body = values.octets(data, values.length(size))
        if isinstance(sock, UdpSocket):
            to = self._peer(addr) if addr is not None and sock.remote is None else None
            fresh = sock.local is None
            try:
                return sock.send(body, to, self._port() if fresh else 0)
            finally:
                if sock.local is not None and (to or sock.remote):
                    self.flows.outbound(sock.local[1], (to or sock.remote or (b"", 0))[1])
        if not isinstance(sock, TcpSocket):
            raise Fault("EOPNOTSUPP")
        self.subject = sock if sock.flow is not None else self.subject
        return self._send_stream(sock, body, bits)

    def _send_stream(self, sock: TcpSocket, body: bytes, bits: int) -> int:
        """Send all of it, as a call that blocks does; what is left waits in the socket."""
        done = sock.sending
        try:
            while done < len(body) or not body:
                done += sock.send(body[done:])
                if not body or sock.nonblocking or bits & C["MSG_DONTWAIT"]:
                    break
        except WouldBlock:
            if not sock.nonblocking and not bits & C["MSG_DONTWAIT"]:
                sock.sending = done
                raise
            if not done:
                raise Fault("EAGAIN") from None
        sock.sending = 0
        return done

    # Receiving.

    def _do_read(self, fd: Expression, data: Expression, size: Expression) -> int:
        return self._do_recv(fd, data, size, 0)

    def _do_readv(self, fd: Expression, parts: Expression, count: Expression) -> int:
        return self._do_recv(fd, ANY, values.vector(parts), 0)

    def _do_recvmsg(self, fd: Expression, header: Expression, flags: Expression) -> int:
        return self._do_recv(fd, ANY, values.message(header), flags)

    def _do_recvfrom(
        self, fd: Expression, data: Expression, size: Expression, flags: Expression,
        addr: Expression, addr_size: Expression,
    ) -> int:  # fmt: skip
        return self._do_recv(fd, data, size, flags)

    def _do_recv(
        self, fd: Expression, data: Expression, size: Expression, flags: Expression
    ) -> int:  # fmt: skip
        sock, bits = self._socket(fd), values.number(flags)
        n, peek = values.length(size), bool(bits & C["MSG_PEEK"])
        if isinstance(sock, UdpSocket | TcpSocket):
            try:
                return len(sock.recv(n, peek))
            except WouldBlock:
                if bits & C["MSG_DONTWAIT"]:
                    raise Fault("EAGAIN") from None
                raise
        raise Fault("EOPNOTSUPP")

    # Ending.

    def _do_close(self, fd: Expression) -> int:
        sock = self._socket(fd)
        del self.fds[values.number(fd)]
        return sock.close()

    def _do_shutdown(self, fd: Expression, how: Expression) -> int:
        return self._stream(fd).shutdown(values.number(how))

    # Control.

    def _do_setsockopt(
        self, fd: Expression, level: Expression, name: Expression, value: Expression,
        size: Expression,
    ) -> int:  # fmt: skip
        return set_option(self._socket(fd), values.number(level), values.number(name), value)

    def _do_getsockopt(
        self, fd: Expression, level: Expression, name: Expression, value: Expression,
        size: Expression,
    ) -> int:  # fmt: skip
        found = get_option(self._socket(fd), values.number(level), values.number(name))
        self._check("option", value, found)
        return 0

    def _check(self, what: str, want: Expression, found: int) -> None:
        """Compare what a call gives back through an argument."""
        if want is not ANY and values.number(want) != found:
            raise Mismatch(f"{what}: expected {values.number(want)}, found {found}")

    def _do_fcntl(self, fd: Expression, command: Expression, *args: Expression) -> int:
        sock, what = self._socket(fd), values.number(command)
        if what == C["F_SETFL"] and args:
            sock.nonblocking = bool(values.number(args[0]) & C["O_NONBLOCK"])
            return 0
        if what != C["F_GETFL"]:
            raise Fault("EINVAL")
        return C["O_RDWR"] | (C["O_NONBLOCK"] if sock.nonblocking else 0)

    def _do_ioctl(self, fd: Expression, request: Expression, value: Expression) -> int:
        sock, what = self._socket(fd), values.number(request)
        if what == C["FIONBIO"]:
            sock.nonblocking = bool(values.number(value))
            return 0
        self._check("ioctl", value, sock.queued(what))
        return 0

    def _do_poll(self, fds: Expression, count: Expression, timeout: Expression) -> int:
        if not isinstance(fds, tuple):
            raise ScriptError(f"expected [{{fd=3, events=POLLIN}}] for poll, found {fds}")
        found = [self._revents(entry) for entry in fds]
        hits = sum(1 for revents, _ in found if revents)
        if not hits and values.number(timeout):
            raise WouldBlock(values.number(timeout) / 1000)
        for revents, want in found:
            if want is not None:
                self._check("revents", want, revents)
        return hits

    def _revents(self, entry: Expression) -> tuple[int, Expression | None]:
        if not isinstance(entry, Struct):
            raise ScriptError(f"expected {{fd=3, events=POLLIN}}, found {entry}")
        sock = self.fds.get(values.number(entry.members.get("fd", -1)))
        wanted = values.number(entry.members.get("events", 0)) | ALWAYS
        revents = sock.readiness() & wanted if sock is not None else C["POLLNVAL"]
        return revents, entry.members.get("revents")
