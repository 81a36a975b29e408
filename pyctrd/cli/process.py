"""Process settings for a short-lived program; a library must not change them."""

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
# By default glibc has an arena per thread, and each would keep the memory that its thread has freed.
_ARENAS: Final = 2


def tune() -> None:
    """Reduce the cost of memory management; benchmarks/ measured 10 % of a save's time.

    Startup creates many objects and no garbage, so the garbage collector runs less often. Pull and save use
    chunks of 1 MiB, which glibc would return to the system when freed and fault in again: it now keeps some.
    Other C libraries are left as they are.
    """
    gc.set_threshold(_GARBAGE_THRESHOLD)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _ARENAS)
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def open_missing_streams() -> None:
    """Open the standard streams that the caller closed (`pyctrd ... >&-`).

    The next file or socket would get the stream's number, and an archive or a message could be written to
    containerd's socket. As glibc does for privileged programs, stdout becomes a file that cannot be written,
    so that the loss is noticed. Output to stderr is discarded.
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


def use_default_sigint() -> None:
    """Let Ctrl-C end the process without a traceback until `boundary` handles signals."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
