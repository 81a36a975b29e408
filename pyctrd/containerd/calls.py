"""The calls on one channel: known while they are under way, ended together, and refused afterwards.

gRPC crashes the process when a call is made on a closed channel, and waits for ever in `Channel.close` for a
call that nobody drives any more. So every call is started here, under a lock; all of them are driven by
gRPC's own thread, and have ended before the channel is closed. A daemon that has stopped (SIGSTOP, a dead
disk) keeps its socket open: whether it still answers is found out by asking it for its version.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Final

import grpc
from google.protobuf import empty_pb2

from pyctrd.errors import DaemonError, PyctrdError

STALL_SECONDS: Final = 60.0
# How long a stream may bring nothing although the daemon answers other calls.
IDLE_SECONDS: Final = 3600.0
# How long what was begun may be taken back after the end of the work.
GRACE_SECONDS: Final = 2.5
# How long to wait for gRPC itself: calls that are cancelled end at once.
_CLOSE_SECONDS: Final = 1.0
# A busy machine may take as long as this to answer, however short the stall time is.
_ANSWER_SECONDS: Final = 5.0
# It is asked no more often than this.
_LEAST_SECONDS: Final = 0.1
# What a daemon gets to show that it is back after it was silent.
_BACK_SECONDS: Final = 2.0

_VERSION: Final = "/containerd.services.version.v1.Version/Version"
# These take back what was begun, so they are let through for a moment when the work has been ended.
_UNDOING: Final = frozenset(
    {
        "/containerd.services.leases.v1.Leases/Delete",
        "/containerd.services.content.v1.Content/Abort",
        "/containerd.services.snapshots.v1.Snapshots/Remove",
    }
)
# One that is under way ends by itself, and brings what it has to the store before.
_FINISHING: Final = _UNDOING | {"/containerd.services.content.v1.Content/Write"}

Why = Callable[[], PyctrdError]


class Call:
    """A call that has been started: `result` of a unary one, an iterator over a stream's answers."""

    def __init__(self, raw: Any, method: str) -> None:
        self._raw = raw
        self._why: PyctrdError | None = None
        self._waits_since: float | None = None
        self.method = method

    def when_done(self, callback: Callable[[], None]) -> None:
        """Have a function called when the call has ended, at once when it has already."""
        if not self._raw.add_callback(callback):
            callback()

    def result(self) -> Any:
        """Wait for the answer; raises grpc.RpcError, or why the call was ended."""
        return self._waited(self._raw.result)

    def __iter__(self) -> Iterator[Any]:
        """Give the answers as they come."""
        return self

    def __next__(self) -> Any:
        """Wait for the next answer; raises grpc.RpcError, or why the call was ended."""
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
        """Cancel it, if it has not ended yet; never raises."""
        self._raw.cancel()

    def end(self, why: PyctrdError) -> None:
        """Cancel it, and have whoever waits for it get that error."""
        self._why = self._why or why
        self._raw.cancel()

    @property
    def is_idle(self) -> bool:
        """Whether somebody has waited for the next answer of a stream for too long."""
        since = self._waits_since
        return since is not None and time.monotonic() - since > IDLE_SECONDS


class Calls:
    """All calls of one channel. Thread safe.

    `silent` makes the error for a daemon that has not answered for `stall_seconds`.
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
        self._over = threading.Event()  # wakes the watching thread

    def scope(self) -> Calls:
        """Return calls on the same channel that can be ended by themselves; they end with these, too."""
        return Calls(self._base, self._silent_error, self.stall_seconds, parent=self)

    # --- what runs

    def start(self, method: str, begin: Callable[[float | None], Any], timeout: float | None) -> Call:
        """Start a call by `begin(timeout)`, which must not block.

        Raises why, when the work has been ended, and the error for a daemon that was silent and still is.
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
            ended = self._why if method not in _UNDOING else None
        if ended is not None:
            call.end(ended())
        call.when_done(lambda: self._forget(call))
        return call

    def _allowed(self, method: str, timeout: float | None) -> float | None:
        """Give the time that a new call may take; raises why, when it may not be made."""
        if self._why is None:
            return timeout
        left = self._until - time.monotonic()
        if self._closed or left <= 0 or method not in _UNDOING:
            raise self._why()
        return left if timeout is None else min(timeout, left)

    def _forget(self, call: Call) -> None:
        with self._changed:
            self._under_way.discard(call)
            self._changed.notify_all()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Mark work that takes back at its end what it has begun: `close` waits a moment for it."""
        with self._parent.working() if self._parent else nullcontext():
            with self._changed:
                self._work += 1
            try:
                yield
            finally:
                with self._changed:
                    self._work -= 1
                    self._changed.notify_all()

    # --- how it ends

    @property
    def is_over(self) -> bool:
        """Whether `end` or `close` has been called."""
        return self._why is not None or (self._parent is not None and self._parent.is_over)

    def check_open(self) -> None:
        """Raise why, when `end` or `close` has been called."""
        if self._why is not None:
            raise self._why()
        if self._parent is not None:
            self._parent.check_open()

    def end(self, why: Why) -> None:
        """Cancel all calls and refuse new ones, with the error that `why` makes.

        What takes back something begun goes on for GRACE_SECONDS in all; returns when it is done, or then.
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
        """End all calls, then close the channel. A second time does nothing."""
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
        # An exception that a signal handler of the caller's raises in the middle of gRPC may leave it waiting
        # for a call that is no more.
        closing = threading.Thread(target=self._base.close, name="pyctrd-close", daemon=True)
        closing.start()
        closing.join(_CLOSE_SECONDS)

    def _end_all(self, why: Why) -> None:
        with self._changed:
            calls = list(self._under_way)
        for call in calls:
            call.end(why())

    # --- whether the daemon still answers

    def _watch(self) -> None:
        """Ask the daemon again and again while there are calls; what it leaves unanswered ends."""
        while not self._over.wait(max(self.stall_seconds / 2, _LEAST_SECONDS)):
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
        """Whether the daemon does not even tell its version, as it does at once when it is alive."""
        if self._parent is not None:
            return self._parent.is_silent()
        return not self._answers(_BACK_SECONDS)

    def _answers(self, seconds: float) -> bool:
        """Ask for the version, whatever it is: that needs neither disk nor database."""
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
                # Unless it was us who were stopped meanwhile.
                self._silent = time.monotonic() - started < 2 * seconds + 1
                return not self._silent
        self._silent = False
        return True


def _idle(call: Call) -> DaemonError:
    return DaemonError(
        f"containerd has sent nothing for {IDLE_SECONDS:g} s on a stream that is open ({call.method})",
        code=grpc.StatusCode.DEADLINE_EXCEEDED.name,
        hint="it answers other calls, so its disk may hang: see its log (journalctl -u containerd)",
    )
