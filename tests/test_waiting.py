"""Waiting for threads: all of them, or the first that fails, without missing a signal."""

from __future__ import annotations

import concurrent.futures
import signal
import threading
from concurrent.futures import Future

import pytest

from pyctrd.waiting import until_done


def test_until_done_waits_for_all_or_the_first_failure() -> None:
    done: Future[int] = Future()
    done.set_result(1)
    until_done([])
    until_done([done])
    failed: Future[int] = Future()
    failed.set_exception(ZeroDivisionError())
    until_done([done, failed, Future()])  # the last one never finishes


def test_until_done_waits_for_a_running_thread() -> None:
    release = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        future = pool.submit(release.wait)
        threading.Timer(0.05, release.set).start()
        until_done([future])
        assert future.done()


def test_a_signal_delivered_to_another_thread_is_handled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may deliver a signal to any thread, which does not wake the main thread."""

    class Heard(Exception):
        pass

    def hear(_number: int, _frame: object) -> None:
        raise Heard

    previous = signal.signal(signal.SIGUSR1, hear)
    waiting = threading.Event()

    def send() -> None:
        waiting.wait(10)
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    real = concurrent.futures.wait

    def noted(*arguments: object, **named: object) -> object:
        waiting.set()
        return real(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(concurrent.futures, "wait", noted)
    sender = threading.Thread(target=send)
    sender.start()
    try:
        with pytest.raises(Heard):
            until_done([Future()])
    finally:
        sender.join()
        signal.signal(signal.SIGUSR1, previous)
