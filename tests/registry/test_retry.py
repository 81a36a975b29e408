"""Limits for waiting: the retry budget, slow bodies, and endless heads."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

import pytest

from pyctrd.errors import NotFound, RegistryContentError, RegistryError, RegistryUnreachable
from pyctrd.ports import Remote
from pyctrd.registry.http.response import BodyProgress
from pyctrd.registry.http.retry import MIN_BYTES_PER_STALL, Budget, in_words
from tests.registry.conftest import RemoteMaker
from tests.registry.samples import BLOB, DIGEST, HEADERS, MANIFEST, TAG, blob_path, layer, read
from tests.registry.server import Answer, ScriptedServer, Seen, ranges


def test_a_budget_is_not_overspent_by_threads() -> None:
    budget = Budget(10)
    taken: list[bool] = []
    threads = [threading.Thread(target=lambda: taken.append(budget.spend(3))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 3
    assert budget.left == pytest.approx(1)
    assert not budget.spend(1.1)
    assert budget.spend(1)


def test_concurrent_waiting_counts_once() -> None:
    budget = Budget(10)
    for since, until in ((0, 3), (1, 3), (2, 4), (8, 7), (6, 8)):
        budget.charge(since, until)
    assert budget.left == pytest.approx(10 - 4 - 2)
    budget.charge(100, 105)
    assert budget.is_overdrawn
    assert not budget.spend(0)


def test_missing_responses_use_up_the_budget(remote: RemoteMaker, pauses: list[float]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel accepts, nothing responds
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        one = remote(f"{host}/team/app:v1", stall_timeout=0.5, retry_budget=0.6)
        with pytest.raises(RegistryUnreachable, match="timed out while waiting"):
            one.resolve()
    assert pauses == []  # less than the shortest pause, a quarter of a second, is left


def slow(status: int, seconds: float) -> Callable[[Seen], Answer]:
    def answer(_seen: Seen) -> Answer:
        time.sleep(seconds)
        return Answer(status, headers={"Location": f"{TAG}?again"} if status == 307 else {})

    return answer


def test_slow_errors_and_redirects_are_charged(
    server: ScriptedServer, remote: RemoteMaker, pauses: list[float]
) -> None:
    one = remote(stall_timeout=1, retry_budget=0.5)
    server.once("HEAD", TAG, slow(307, 0.4), slow(503, 0.4))
    with pytest.raises(RegistryError, match="status 503"):
        one.resolve()
    assert pauses == []


def tries_again(one: Remote, server: ScriptedServer) -> bool:
    """Whether there is anything left for waiting; the registry asks for no pause."""
    before = len(server.seen)
    server.once("HEAD", TAG, Answer(503, headers={"Retry-After": "0"}))
    with pytest.raises((NotFound, RegistryError)):  # after another try there is nothing in the script
        one.resolve()
    return len(server.seen) > before + 1


def test_a_missing_body_of_an_error_is_charged(server: ScriptedServer, remote: RemoteMaker) -> None:
    one = remote(stall_timeout=0.3, retry_budget=0.2)
    server.once("HEAD", TAG, Answer(405))
    server.once("GET", TAG, Answer(404, b"x", length=5))
    with pytest.raises(NotFound):
        one.resolve()
    assert not tries_again(one, server)


def test_a_slow_good_response_is_not_charged(server: ScriptedServer, remote: RemoteMaker) -> None:
    def answer(_seen: Seen) -> Answer:
        time.sleep(0.4)
        return Answer(200, MANIFEST, HEADERS)

    one = remote(stall_timeout=1, retry_budget=0.2)
    server.once("HEAD", TAG, answer)
    assert one.resolve().digest == DIGEST
    assert tries_again(one, server)


def test_durations_are_formatted() -> None:
    words = [in_words(seconds) for seconds in (1, 119, 120, 7200, 172_800)]
    assert words == ["1 s", "119 s", "120 s (2 minutes)", "7200 s (2 hours)", "172800 s (2 days)"]


def test_one_budget_for_all_requests(
    server: ScriptedServer, remote: RemoteMaker, pauses: list[float]
) -> None:
    busy = Answer(503, headers={"Retry-After": "4"})
    server.once("HEAD", TAG, busy, Answer(200, MANIFEST, HEADERS), busy, busy)
    one = remote(retry_budget=9)
    assert one.resolve().digest == DIGEST
    with pytest.raises(RegistryError, match="it asks to wait 4 s, and the retry budget has less left"):
        one.resolve()
    assert pauses == [4, 4]


def test_without_a_budget_nothing_is_retried(
    server: ScriptedServer, remote: RemoteMaker, pauses: list[float]
) -> None:
    descriptor = layer()
    server.once("HEAD", TAG, Answer(500))
    server.once("GET", blob_path(descriptor), ranges(BLOB, cut_after=1000))
    one = remote(retry_budget=0)
    with pytest.raises(RegistryError, match="status 500"):
        one.resolve()
    with pytest.raises(RegistryContentError, match="short read: expected 3000000 bytes but got 1000"):
        read(one, descriptor)
    assert pauses == []


def test_an_absurd_retry_after_is_in_the_error(server: ScriptedServer, remote: RemoteMaker) -> None:
    server.once("HEAD", TAG, Answer(429, headers={"Retry-After": "172800"}))
    with pytest.raises(RegistryError, match=r"it asks to wait 172800 s \(2 days\)") as caught:
        remote().resolve()
    assert "`retry_budget`" in str(caught.value.hint)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_slow_body_is_a_stall() -> None:
    clock = Clock()
    gathering = BodyProgress(10, clock)
    for _ in range(10):
        clock.now += 1
        gathering.add(1)
    clock.now += 0.5
    with pytest.raises(TimeoutError, match="only 11 bytes in 10 s"):
        gathering.add(1)


def test_a_slow_link_is_not_a_stall() -> None:
    clock = Clock()
    gathering = BodyProgress(10, clock)
    for _ in range(100):
        clock.now += 9
        gathering.add(MIN_BYTES_PER_STALL)
    clock.now += 99
    gathering.add(0)  # the end may come late


def test_bytes_are_yielded_each_second() -> None:
    clock = Clock()
    gathering = BodyProgress(60, clock)
    due = []
    for _ in range(5):
        clock.now += 0.5
        due.append(gathering.is_due())
    assert due == [False, True, False, True, False]


def test_a_missing_body_is_not_waited_for_to_keep_a_connection(
    server: ScriptedServer, remote: RemoteMaker
) -> None:
    """The connection is kept only if the rest of the body has arrived."""
    server.once("HEAD", TAG, Answer(405))
    server.once("GET", TAG, Answer(200, MANIFEST[:10], HEADERS, length=len(MANIFEST)))
    one = remote(stall_timeout=0.3, retry_budget=0)
    with pytest.raises(RegistryUnreachable, match="timed out while waiting"):
        one.resolve()
