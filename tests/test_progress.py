"""Progress: events are delivered one at a time, whatever thread they come from."""

from __future__ import annotations

import threading
import time

from pyctrd.progress import Progress, no_progress, one_at_a_time


def test_a_sink_is_called_from_one_thread_at_a_time() -> None:
    inside, most, count = 0, 0, 0

    def sink(_event: Progress) -> None:
        nonlocal inside, most, count
        inside += 1
        most = max(most, inside)
        time.sleep(0.0005)
        count += 1
        inside -= 1

    report = one_at_a_time(sink)
    threads = [
        threading.Thread(target=lambda: [report(Progress(action="writing")) for _ in range(10)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, count) == (1, 80)


def test_no_progress_is_not_wrapped() -> None:
    assert one_at_a_time(no_progress) is no_progress
