"""Keeps a program, and all that it starts, from lending rights to who runs the files it makes.

QEMU does what the guest's root asks for in a shared directory, as the user that runs QEMU: a file
with a set-user-ID bit would give that user's rights, root's even, to every user of the host.  Our
own server masks such bits (dataflow's `hostattr`); QEMU has no word for it but to map owners and
modes into attributes, upon which the host no longer sees the files as the guest does.

So QEMU starts behind this file, run as a script: a seccomp filter answers EPERM to chmod(2),
open(2), mknod(2) and their kind with a set-ID bit in the mode, and root's capabilities to make
device nodes and file capabilities are dropped.  It is a rule for what QEMU does by itself, not a
cage for a QEMU that was taken over.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Sequence

_SET_IDS = 0o6000
# x86-64 system calls and which argument is the mode: open, creat, chmod, fchmod, mknod, openat,
# mknodat, fchmodat, fchmodat2.
_MODES = {2: 2, 85: 1, 90: 1, 91: 1, 133: 1, 257: 3, 259: 2, 268: 2, 452: 2}

# linux/filter.h, linux/seccomp.h, linux/audit.h
_LOAD, _JUMP_EQUAL, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_INSTRUCTION = struct.Struct("<HBBI")
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # of struct seccomp_data
_X86_64 = 0xC000003E
_X32 = 1 << 30
_ALLOW, _DENY = 0x7FFF0000, 0x00050000 | errno.EPERM

# linux/prctl.h, linux/capability.h
_SET_SECCOMP, _FILTER = 22, 2
_CAPBSET_DROP, _NO_NEW_PRIVS = 24, 38
_MKNOD, _SETFCAP = 27, 31


def command(program: Sequence[str]) -> list[str]:
    """Return the command that runs `program` behind the filter."""
    return [sys.executable, "-I", "-S", __file__, *program]


def _filter() -> bytes:
    """Return the program: other ways to call the kernel than x86-64's are not there."""
    made = [
        _INSTRUCTION.pack(_LOAD, 0, 0, _ARCH),
        _INSTRUCTION.pack(_JUMP_EQUAL, 1, 0, _X86_64),
        _INSTRUCTION.pack(_RETURN, 0, 0, _DENY),
        _INSTRUCTION.pack(_LOAD, 0, 0, _NUMBER),
        _INSTRUCTION.pack(_JUMP_ANY_BIT, 0, 1, _X32),
        _INSTRUCTION.pack(_RETURN, 0, 0, _DENY),
    ]
    for number, argument in _MODES.items():
        made += [
            _INSTRUCTION.pack(_JUMP_EQUAL, 0, 4, number),
            _INSTRUCTION.pack(_LOAD, 0, 0, _ARGUMENTS + 8 * argument),
            _INSTRUCTION.pack(_JUMP_ANY_BIT, 0, 1, _SET_IDS),
            _INSTRUCTION.pack(_RETURN, 0, 0, _DENY),
            _INSTRUCTION.pack(_RETURN, 0, 0, _ALLOW),
        ]
    return b"".join([*made, _INSTRUCTION.pack(_RETURN, 0, 0, _ALLOW)])


def _main() -> None:
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for capability in (_MKNOD, _SETFCAP):
        prctl(_CAPBSET_DROP, capability, 0, 0, 0)  # an ordinary user has none to drop
    code = _filter()
    lines = ctypes.create_string_buffer(code, len(code))
    where = ctypes.addressof(lines)
    fprog = ctypes.create_string_buffer(struct.pack("@HP", len(code) // _INSTRUCTION.size, where))
    if os.geteuid() != 0:  # who may set a filter only by giving up set-ID programs
        prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    if prctl(_SET_SECCOMP, _FILTER, fprog, 0, 0):
        sys.exit(f"cannot filter system calls: {os.strerror(ctypes.get_errno())}")
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    _main()
