"""A hand-driven 9P connection for tests: frames in, parsed answers out."""

from dataflow.p9 import wire
from dataflow.p9.const import NOTAG, Dialect
from dataflow.p9.framer import Framer
from dataflow.p9.messages import Tversion
from dataflow.p9.server import Session


def pack(tag, message, dialect=Dialect.LINUX):
    return b"".join(wire.emit(tag, message, dialect))


def unpack(data, dialect=Dialect.LINUX):
    framer, out = Framer(1 << 30), []
    while data:
        room = framer.get_buffer()
        n = min(len(room), len(data))
        room[:n] = data[:n]
        data = data[n:]
        framer.received(n)
        while (f := framer.next_frame()) is not None:
            out.append((f.tag, wire.parse(f.kind, memoryview(bytes(f.body)), dialect)))
    return out


class Wire:
    """A session, with what came out of it."""

    def __init__(self, dialect=Dialect.LINUX, hello=True, **options):
        self.session = Session(**options)
        self.dialect = dialect
        if hello:
            self.send(NOTAG, Tversion(65536, dialect.value))
            self.answers()
            self.session.next_event()

    def send(self, tag, message):
        self.session.receive(pack(tag, message, self.dialect))

    def answers(self, dialect=None):
        return unpack(b"".join(self.session.data_to_send()), dialect or self.dialect)

    def events(self):
        found = []
        while (event := self.session.next_event()) is not None:
            found.append(event)
        return found
