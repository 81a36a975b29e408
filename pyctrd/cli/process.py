"""Process settings for a short-lived program; a library must not change them."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType
from typing import Final

_GARBAGE_THRESHOLD: Final = 100_000
_KEPT_BYTES: Final = 32 << 20
# mallopt(3)
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
# By default glibc has an arena per thread, and each would keep the memory that its thread has freed. With
# two, a save may take 17 MiB more, and no less time.
_ARENAS: Final = 1
# The newest release of gRPC that is known to have the experiment: a later one may print that it is unknown.
_EXPERIMENT_UNTIL: Final = (1, 85)
# What grpc and protobuf import and no command uses: the asynchronous client, and messages without the C code.
_UNUSED: Final = ("asyncio", "grpc.aio", "google.protobuf.internal.python_message")


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


@contextmanager
def importing_grpc() -> Iterator[None]:
    """Import grpc in this context: modules that it imports and no command uses are loaded on first use.

    They take a tenth of a short command's time.
    """
    tune_grpc()
    vars(logging)["logAsyncioTasks"] = False  # since Python 3.12, each log record would load asyncio
    sys.meta_path.insert(0, _Later)
    try:
        yield
    finally:
        sys.meta_path.remove(_Later)


class _Later:
    """Finds the modules that are loaded on first use."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _UNUSED:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec


def tune_grpc() -> None:
    """Let gRPC use its older poller; before grpc is imported, which reads the variable.

    Its event engine passes each read of a socket to another thread, with five times as many context switches:
    a save then takes a third more CPU time, a pull a fifth more. GRPC_EXPERIMENTS is left as it is if it is
    set.
    """
    if () < grpc_release() <= _EXPERIMENT_UNTIL:
        os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client")


def grpc_release() -> tuple[int, ...]:
    """Return the first two numbers of grpc's version, without importing grpc; () if they are unknown.

    importlib.metadata would take 20 ms.
    """
    package = PathFinder.find_spec("grpc")
    spec = package and PathFinder.find_spec("_grpcio_metadata", package.submodule_search_locations)
    if not spec or not spec.loader:
        return ()
    module = ModuleType(spec.name)
    spec.loader.exec_module(module)
    return tuple(map(int, module.__version__.split(".")[:2]))


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
