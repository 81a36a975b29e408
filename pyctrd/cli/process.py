"""Settings of the process that only a program may make, not a library: what a short, busy life asks for."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
from typing import Final

_GARBAGE_THRESHOLD: Final = 100_000
_KEPT_BYTES: Final = 32 << 20
# mallopt(3)
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
# glibc gives every thread an arena of its own, each of which would keep what its thread once had.
_ARENAS: Final = 2


def tune() -> None:
    """Spend less on memory: measured by benchmarks/, a tenth of the time of a save.

    A start makes many objects and no garbage, so the collector looks for it less often. The chunks that go
    through a pull or a save have 1 MiB each, and glibc gives such pieces back to the system when they are
    freed, only to fault them in again: it keeps some now. Another C library stays as it is.
    """
    gc.set_threshold(_GARBAGE_THRESHOLD)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _ARENAS)
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def open_missing_streams() -> None:
    """Open what the caller closed (`pyctrd ... >&-`): the next file or socket would take the number.

    An archive, or a message of a library, would then be written into containerd's socket. As glibc does for
    privileged programs, stdout becomes something that cannot be written, so that the loss is noticed; what
    goes to stderr is lost.
    """
    for number, name, flags in (
        (0, "stdin", os.O_RDONLY),
        (1, "stdout", os.O_RDONLY),
        (2, "stderr", os.O_WRONLY),
    ):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # the lowest number that is free is this one
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def die_quietly() -> None:
    """Let Ctrl-C end the process without a traceback until the boundary is there to catch it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
