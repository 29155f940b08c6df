"""The 16550A by its data sheet (National Semiconductor PC16550D), in Python: what the C one is
compared with.  The line is infinitely fast, as there; see core/uart.c for what is left out.
"""

from __future__ import annotations

RING = 65536
FIFO = 16
DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR = range(8)
DLAB, LOOP, OUT2 = 0x80, 0x10, 0x08
RX_INTERRUPT, TX_INTERRUPT, LINE_INTERRUPT = 1, 2, 4


class Model:
    """Registers 0 to 7 by `read` and `write`, the host's side by `take` and `give`."""

    def __init__(self) -> None:
        self.ier = self.fcr = self.lcr = self.mcr = self.scr = self.dll = self.dlm = 0
        self.overrun = self.tx_pending = False
        self.starved = False  # the host has more than found room
        self.told = False  # what the eventfd says
        self.tx, self.rx, self.looped = bytearray(), bytearray(), bytearray()
        self.dropped = 0

    @property
    def loop(self) -> bool:
        """In loopback mode (8.6.7): what is sent comes back, and the pins are still."""
        return bool(self.mcr & LOOP)

    @property
    def tx_room(self) -> bool:
        """THR is empty."""
        return self.loop or len(self.tx) <= RING - FIFO

    @property
    def received(self) -> bytearray:
        """Where the receiver's next byte comes from."""
        return self.looped if self.loop else self.rx

    def identify(self) -> int:
        """Return the pending interrupt of highest priority (table IV), 1 for none."""
        if self.ier & LINE_INTERRUPT and self.overrun:
            return 6
        if self.ier & RX_INTERRUPT and self.received:
            return 4
        if self.ier & TX_INTERRUPT and self.tx_pending:
            return 2
        return 1

    @property
    def level(self) -> bool:
        """The interrupt as the controller sees it, gated by OUT2."""
        return bool(self.mcr & OUT2) and not self.loop and self.identify() != 1

    def read(self, register: int) -> int:
        """Return a register, with what reading does to it."""
        if register in (DATA, IER) and self.lcr & DLAB:
            return (self.dll, self.dlm)[register]
        if register == DATA:
            return self._receive()
        if register == IIR:
            found = self.identify()
            self.tx_pending &= found != 2
            return found | (0xC0 if self.fcr & 1 else 0)
        if register == LSR:
            overrun, self.overrun = self.overrun, False
            return bool(self.received) | overrun << 1 | (0x60 if self.tx_room else 0)
        if register == MSR:
            return self._modem()
        return {IER: self.ier, LCR: self.lcr, MCR: self.mcr, SCR: self.scr}[register]

    def _receive(self) -> int:
        if not self.received:
            return 0
        byte = self.received[0]
        del self.received[:1]
        self._tell_of_room()
        return byte

    def _tell_of_room(self) -> None:
        if self.starved and not self.loop and len(self.rx) <= RING // 2:
            self.starved, self.told = False, True

    def _modem(self) -> int:
        if not self.loop:
            return 0xB0
        dtr, rts, out1, out2 = (self.mcr >> bit & 1 for bit in range(4))
        return rts << 4 | dtr << 5 | out1 << 6 | out2 << 7

    def write(self, register: int, value: int) -> None:
        """Write a register."""
        if register in (DATA, IER) and self.lcr & DLAB:
            if register == DATA:
                self.dll = value
            else:
                self.dlm = value
        elif register == DATA:
            self.send(value)
        elif register == IER:
            if value & TX_INTERRUPT and not self.ier & TX_INTERRUPT:
                self.tx_pending = self.tx_room
            self.ier = value & 15
        elif register == IIR:
            self._control_fifo(value)
        elif register == LCR:
            self.lcr = value
        elif register == MCR:
            self.mcr = value & 31
        elif register == SCR:
            self.scr = value

    def _control_fifo(self, value: int) -> None:
        self.fcr = value
        if value & 2:
            del self.rx[:FIFO]
            self.looped.clear()
            if self.starved and len(self.rx) <= RING // 2:
                self.starved, self.told = False, True

    def send(self, byte: int, count: int = 1) -> None:
        """Transmit a byte, `count` times."""
        if self.loop:
            self.overrun |= count > FIFO - len(self.looped)
            self.looped += bytes([byte]) * min(count, FIFO - len(self.looped))
        else:
            put = min(count, RING - len(self.tx))
            self.told |= bool(put and not self.tx)
            self.tx += bytes([byte]) * put
            self.dropped += count - put
        self.tx_pending = self.tx_room

    def take(self, size: int) -> bytes:
        """Read output, on the host."""
        full = len(self.tx) > RING - FIFO
        data = bytes(self.tx[:size])
        del self.tx[:size]
        self.told = bool(self.tx)
        self.tx_pending |= full and len(self.tx) <= RING - FIFO
        return data

    def give(self, data: bytes) -> int:
        """Write input, on the host; returns how much found room."""
        taken = data[: RING - len(self.rx)]
        self.rx += taken
        self.starved |= len(taken) < len(data)
        return len(taken)
