"""Track the calls on a channel, so that they can be cancelled together before the channel is closed.

gRPC crashes the process if a call is made on a closed channel, and `Channel.close` waits forever for a call
that no thread drives any more. So every call is started here, under a lock; all of them are driven by gRPC's
own thread, and have ended before the channel is closed. A daemon that is stopped (SIGSTOP, a dead disk) keeps
its socket open, so asking for its version shows whether it still answers.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Final, TypeVar

import grpc
from google.protobuf import empty_pb2

from pyctrd.errors import DaemonError, PyctrdError

STALL_SECONDS: Final = 60.0
# The longest time without a message on a stream while the daemon answers other calls.
IDLE_SECONDS: Final = 3600.0
# How long leases, ingests and snapshots may still be removed after `end`.
GRACE_SECONDS: Final = 2.5
# How long to wait for gRPC itself: cancelled calls end at once.
_CLOSE_SECONDS: Final = 1.0
# A busy machine may take this long to answer, however short the stall time is.
_ANSWER_SECONDS: Final = 5.0
# The shortest interval between two version calls.
_MIN_INTERVAL_SECONDS: Final = 0.1
# How long a daemon that was silent may take to answer again.
_BACK_SECONDS: Final = 2.0

_VERSION: Final = "/containerd.services.version.v1.Version/Version"
# Calls that clean up: they are allowed for a moment after `end`.
_CLEANUP: Final = frozenset(
    {
        "/containerd.services.leases.v1.Leases/Delete",
        "/containerd.services.content.v1.Content/Abort",
        "/containerd.services.snapshots.v1.Snapshots/Remove",
    }
)
# Nothing may happen for hours.
_QUIET: Final = "/containerd.services.events.v1.Events/Subscribe"
# These are not cancelled at once: a Write first flushes what it has to the store.
_FINISHING: Final = _CLEANUP | {"/containerd.services.content.v1.Content/Write"}

Why = Callable[[], PyctrdError]
_T = TypeVar("_T")


class Call:
    """A call that has been started: `result` for a unary one, an iterator over the messages of a stream."""

    def __init__(self, raw: Any, method: str) -> None:
        self._raw = raw
        self._why: PyctrdError | None = None
        self._waits_since: float | None = None
        self.method = method

    def when_done(self, callback: Callable[[], None]) -> None:
        """Call a function when the call has ended, or now if it already has."""
        if not self._raw.add_callback(callback):
            callback()

    def result(self) -> Any:
        """Wait for the response. Raises grpc.RpcError, or the error that the call was ended with."""
        return self._waited(self._raw.result)

    def __iter__(self) -> Iterator[Any]:
        """Return the iterator over the messages."""
        return self

    def __next__(self) -> Any:
        """Wait for the next message. Raises grpc.RpcError, or the error that the call was ended with."""
        self._waits_since = time.monotonic()
        try:
            return self._waited(self._raw.__next__)
        finally:
            self._waits_since = None

    def _waited(self, wait: Callable[[], Any]) -> Any:
        try:
            return wait()
        except StopIteration:
            raise
        except (grpc.RpcError, grpc.FutureCancelledError) as error:
            if self._why is not None:
                raise self._why from error
            raise
        except BaseException:  # a signal handler of the caller's
            self.cancel()
            raise

    def cancel(self) -> None:
        """Cancel the call unless it has ended; never raises."""
        self._raw.cancel()

    def end(self, why: PyctrdError) -> None:
        """Cancel the call, and raise that error in the thread that waits for it."""
        self._why = self._why or why
        self._raw.cancel()

    @property
    def is_idle(self) -> bool:
        """Whether a thread has waited too long for the next message of a stream."""
        since = self._waits_since
        if since is None or self.method == _QUIET:
            return False
        return time.monotonic() - since > IDLE_SECONDS


def ahead(start: Callable[[_T], Call], items: Iterable[_T], most: int) -> Iterator[tuple[_T, Call]]:
    """Start calls for items, up to `most` before their results are needed; yield them in order.

    While a call is in progress, gRPC needs no new thread for the next one, which is most of a small call's
    cost.
    """
    waiting = deque[tuple[_T, Call]]()
    try:
        for item in items:
            waiting.append((item, start(item)))
            if len(waiting) >= most:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        for _, call in waiting:
            call.cancel()


class Calls:
    """All calls of one channel. Thread safe.

    `silent` returns the error for a daemon that has not answered for `stall_seconds`.
    """

    def __init__(
        self,
        base: grpc.Channel,
        silent: Why,
        stall_seconds: float = STALL_SECONDS,
        *,
        parent: Calls | None = None,
    ) -> None:
        self._base = base
        self._parent = parent
        self._silent_error = silent
        self.stall_seconds = stall_seconds
        self._changed = threading.Condition()
        self._under_way = set[Call]()
        self._work = 0
        self._why: Why | None = None
        self._until = 0.0
        self._closed = False
        self._silent = False
        self._watching: threading.Thread | None = None
        self._over = threading.Event()  # wakes up the watch thread

    def scope(self) -> Calls:
        """Return calls on the same channel that can be ended separately; ending these ends them as well."""
        return Calls(self._base, self._silent_error, self.stall_seconds, parent=self)

    # --- start calls

    def start(self, method: str, begin: Callable[[float | None], Any], timeout: float | None) -> Call:
        """Start a call with `begin(timeout)`, which must not block.

        Raises the error passed to `end` or `close`, and the error for a daemon that is still silent.
        """
        if self._parent is not None:
            return self._start_in_parent(self._parent, method, begin, timeout)
        if self._silent and not self._answers(_BACK_SECONDS):
            raise self._silent_error()
        with self._changed:
            call = Call(begin(self._allowed(method, timeout)), method)
            self._under_way.add(call)
            if self._watching is None:
                self._watching = threading.Thread(target=self._watch, name="pyctrd-watch", daemon=True)
                self._watching.start()
        call.when_done(lambda: self._forget(call))
        return call

    def _start_in_parent(
        self, parent: Calls, method: str, begin: Callable[[float | None], Any], timeout: float | None
    ) -> Call:
        with self._changed:
            allowed = self._allowed(method, timeout)
        call = parent.start(method, begin, allowed)
        with self._changed:
            self._under_way.add(call)
            ended = self._why if method not in _CLEANUP else None
        if ended is not None:
            call.end(ended())
        call.when_done(lambda: self._forget(call))
        return call

    def _allowed(self, method: str, timeout: float | None) -> float | None:
        """Return the timeout of a new call. Raises the error passed to `end` if the call is not allowed."""
        if self._why is None:
            return timeout
        left = self._until - time.monotonic()
        if self._closed or left <= 0 or method not in _CLEANUP:
            raise self._why()
        return left if timeout is None else min(timeout, left)

    def _forget(self, call: Call) -> None:
        with self._changed:
            self._under_way.discard(call)
            self._changed.notify_all()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Mark work that cleans up at its end: `end` and `close` wait a moment for it."""
        with self._parent.working() if self._parent else nullcontext():
            with self._changed:
                self._work += 1
            try:
                yield
            finally:
                with self._changed:
                    self._work -= 1
                    self._changed.notify_all()

    # --- end calls

    @property
    def is_over(self) -> bool:
        """Whether `end` or `close` has been called."""
        return self._why is not None or (self._parent is not None and self._parent.is_over)

    def check_open(self) -> None:
        """Raise the error passed to `end` or `close`, if one of them has been called."""
        if self._why is not None:
            raise self._why()
        if self._parent is not None:
            self._parent.check_open()

    def end(self, why: Why) -> None:
        """Cancel all calls and refuse new ones, with the error that `why` returns.

        Cleanup may continue for up to GRACE_SECONDS; returns when it is done.
        """
        with self._changed:
            if self._why is None:
                self._until = time.monotonic() + GRACE_SECONDS
            self._why = why
            at_once = [call for call in self._under_way if call.method not in _FINISHING]
        for call in at_once:
            call.end(why())
        with self._changed:
            left = self._until - time.monotonic()
            self._changed.wait_for(lambda: not self._under_way and not self._work, max(left, 0))
        self._end_all(why)

    def close(self, why: Why) -> None:
        """End all calls, then close the channel. Closing it again does nothing."""
        self.end(why)
        with self._changed:
            if self._closed:
                return
            self._closed = True
            watching = self._watching
        self._over.set()
        self._end_all(why)
        if watching is not None:
            watching.join(_CLOSE_SECONDS)
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way, _CLOSE_SECONDS)
        # In a thread: if a signal handler raises an exception inside gRPC, `close` may wait forever for a
        # call that no longer exists.
        closing = threading.Thread(target=self._base.close, name="pyctrd-close", daemon=True)
        closing.start()
        closing.join(_CLOSE_SECONDS)

    def _end_all(self, why: Why) -> None:
        with self._changed:
            calls = list(self._under_way)
        for call in calls:
            call.end(why())

    # --- check that the daemon still answers

    def _watch(self) -> None:
        """Ask for the version regularly while there are calls, and end them if the daemon does not answer."""
        while not self._over.wait(max(self.stall_seconds / 2, _MIN_INTERVAL_SECONDS)):
            with self._changed:
                if not self._under_way:
                    self._watching = None
                    return
            if not self._answers(max(self.stall_seconds / 2, _ANSWER_SECONDS)):
                self._end_all(self._silent_error)
                continue
            with self._changed:
                idle = [call for call in self._under_way if call.is_idle]
            for call in idle:
                call.end(_idle(call))

    def is_silent(self) -> bool:
        """Whether the daemon does not even answer a version call, which takes no time if it is alive."""
        if self._parent is not None:
            return self._parent.is_silent()
        return not self._answers(_BACK_SECONDS)

    def _answers(self, seconds: float) -> bool:
        """Ask for the version, which needs neither disk nor database; any response is good."""
        started = time.monotonic()
        try:
            with self._changed:
                if self._why is not None:
                    return True
                ask: Any = self._base.unary_unary(
                    _VERSION, request_serializer=empty_pb2.Empty.SerializeToString
                )
                call = ask.future(empty_pb2.Empty(), timeout=seconds)
            call.result()
        except grpc.FutureCancelledError:
            return True
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                # Unless this process was stopped in the meantime.
                self._silent = time.monotonic() - started < 2 * seconds + 1
                return not self._silent
        self._silent = False
        return True


def _idle(call: Call) -> DaemonError:
    return DaemonError(
        f"containerd has sent nothing for {IDLE_SECONDS:g} s on an open stream ({call.method})",
        code=grpc.StatusCode.DEADLINE_EXCEEDED.name,
        hint="it answers other calls, so its disk may hang: see its log (journalctl -u containerd)",
    )
