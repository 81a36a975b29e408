"""Wait for threads without delaying signals."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, Final

# The longest delay of a signal.
_POLL_SECONDS: Final = 0.5
_CANCEL_SECONDS: Final = 0.05
# The action has its own, shorter time limits.
_JOIN_SECONDS: Final = 5.0


def until_done(futures: Collection[concurrent.futures.Future[Any]]) -> None:
    """Block until all futures are done or one has failed, without raising their errors.

    Python runs signal handlers between bytecode instructions, so a signal that arrives just before the main
    thread starts to wait is only handled after the wait. Hence many short waits instead of one.
    """
    pending: Collection[concurrent.futures.Future[Any]] = futures
    while pending:
        done, pending = concurrent.futures.wait(
            futures, _POLL_SECONDS, return_when=concurrent.futures.FIRST_EXCEPTION
        )
        if any(future.cancelled() or future.exception() for future in done):
            return


@contextmanager
def on_cancel(cancel: threading.Event | None, action: Callable[[], None]) -> Iterator[None]:
    """Run an action in a separate thread as soon as `cancel` is set, while the context is open."""
    if cancel is None:
        yield
        return
    left = threading.Event()

    def watch() -> None:
        # Two events cannot be waited for at once; this way leaving the context takes no time.
        while not left.wait(_CANCEL_SECONDS):
            if cancel.is_set():
                action()
                return

    thread = threading.Thread(target=watch, name="pyctrd-cancel", daemon=True)
    thread.start()
    try:
        yield
    finally:
        left.set()
        if threading.current_thread() is not thread:
            thread.join(_JOIN_SECONDS)
