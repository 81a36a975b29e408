"""Waiting for threads without being deaf meanwhile."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, Final

# How long a signal may go unseen.
_LOOK_SECONDS: Final = 0.5
_CANCEL_SECONDS: Final = 0.05
# An action that is under way has limits of its own, which are shorter.
_JOIN_SECONDS: Final = 5.0


def until_done(futures: Collection[concurrent.futures.Future[Any]]) -> None:
    """Block until all are done or one has failed; their errors stay in them.

    Python runs signal handlers between two of its own instructions: one that comes just before the main
    thread begins to wait without an end would be seen at that end only. So the wait has many.
    """
    pending: Collection[concurrent.futures.Future[Any]] = futures
    while pending:
        done, pending = concurrent.futures.wait(
            futures, _LOOK_SECONDS, return_when=concurrent.futures.FIRST_EXCEPTION
        )
        if any(future.cancelled() or future.exception() for future in done):
            return


@contextmanager
def on_cancel(cancel: threading.Event, action: Callable[[], None]) -> Iterator[None]:
    """Run an action in a thread of its own as soon as `cancel` is set, while the context is open."""
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
