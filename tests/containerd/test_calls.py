"""How calls end: on a closed client, from another thread, and if the daemon stops responding.

A call on a closed gRPC channel can crash the process; integration/test_lifecycle.py tests real daemons.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from pyctrd.containerd import Daemon, calls, channel
from pyctrd.errors import Cancelled, ClientClosed, DaemonError, DaemonUnreachable, PyctrdError
from pyctrd.oci.model import Descriptor, Digest
from tests.containerd.fake import FakeDaemon, serve

DIGEST = Digest.of(b"content")
LAYER = Descriptor(media_type="application/vnd.oci.image.layer.v1.tar", digest=DIGEST, size=7)
SECONDS = 20

CALLS: dict[str, Callable[[Daemon], object]] = {
    "version": lambda daemon: daemon.version(),
    "a unary call": lambda daemon: daemon.content.info(DIGEST),
    "work": lambda daemon: daemon.diffs.apply(LAYER, []),
    "a list": lambda daemon: list(daemon.content.list()),
    "a read": lambda daemon: daemon.content.read_all(DIGEST, limit=10),
    "several reads": lambda daemon: list(daemon.content.read_several([LAYER] * 100)),
    "a write": lambda daemon: daemon.content.open_ingest("ref", digest=DIGEST, size=7).__enter__(),
    "another namespace": lambda daemon: daemon.in_namespace("other").content.info(DIGEST),
    "a lease": lambda daemon: daemon.lease("test").__enter__(),
    "the end of a lease": lambda daemon: daemon.leases.delete("lease"),
}


@pytest.fixture
def hanging(fake: FakeDaemon) -> Iterator[Callable[[str], threading.Event]]:
    """Make a method hang until the end of the test; return an event that its call sets."""
    release = threading.Event()

    def hang(method: str) -> threading.Event:
        called = threading.Event()

        def script(_request: Any, _context: grpc.ServicerContext) -> None:
            called.set()
            release.wait(SECONDS)

        fake.faults[method] = script
        return called

    yield hang
    release.set()


def in_a_thread(work: Callable[[], object]) -> Future[object]:
    pool = ThreadPoolExecutor(1)
    future = pool.submit(work)
    pool.shutdown(wait=False)
    return future


@pytest.mark.parametrize("name", CALLS)
def test_a_closed_client_refuses_every_call(client: Daemon, name: str) -> None:
    client.close()
    with pytest.raises(ClientClosed, match="the client is closed"):
        CALLS[name](client)
    client.close()


@pytest.mark.parametrize(
    ("method", "name"),
    [("Info", "a unary call"), ("Read", "a read"), ("List", "a list"), ("STAT", "a write")],
)
@pytest.mark.parametrize(("end", "kind"), [("close", ClientClosed), ("cancel", Cancelled)])
def test_close_and_cancel_end_a_call_in_progress(
    client: Daemon,
    fake: FakeDaemon,
    hanging: Callable[[str], threading.Event],
    method: str,
    name: str,
    end: str,
    kind: type[PyctrdError],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calls, "GRACE_SECONDS", 0.2)  # the time that a write has to end by itself
    fake.blobs[DIGEST] = b"content"
    called = hanging(method)
    future = in_a_thread(lambda: CALLS[name](client))
    assert called.wait(SECONDS)
    getattr(client, end)()
    with pytest.raises(kind):
        future.result(SECONDS)
    with pytest.raises(kind):
        CALLS[name](client)


def test_close_waits_until_leases_are_deleted(
    client: Daemon,
    fake: FakeDaemon,
    hanging: Callable[[str], threading.Event],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`close` waits until the lease is deleted; a resumable lease stays, so that the next run can resume."""
    monkeypatch.setattr(calls, "GRACE_SECONDS", SECONDS)
    called = hanging("Info")

    def work(resumable: bool) -> None:
        with client.lease("test", resumable=resumable) as leased:
            leased.content.info(DIGEST)

    futures = [in_a_thread(lambda: work(resumable=False))]
    assert called.wait(SECONDS)
    called.clear()
    futures.append(in_a_thread(lambda: work(resumable=True)))
    assert called.wait(SECONDS)
    assert len(fake.leases) == 2
    client.close()
    assert len(fake.leases) == 1
    for future in futures:
        with pytest.raises(ClientClosed):
            future.result(SECONDS)


def test_a_cancelled_write_is_stored_up_to_its_last_byte(
    client: Daemon, fake: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "GRACE_SECONDS", SECONDS)
    writing, cancelled = threading.Event(), threading.Event()

    def work() -> None:
        with client.content.open_ingest("ref", digest=DIGEST, size=7) as ingest:
            ingest.write(b"con")
            writing.set()
            assert cancelled.wait(SECONDS)
            raise ZeroDivisionError

    future = in_a_thread(work)
    assert writing.wait(SECONDS)
    ending = in_a_thread(client.cancel)
    cancelled.set()
    with pytest.raises(ZeroDivisionError):
        future.result(SECONDS)
    ending.result(SECONDS)
    assert bytes(fake.ingests["ref"]) == b"con"


def test_close_does_not_wait_for_grpc_forever(
    client: Daemon, hanging: Callable[[str], threading.Event]
) -> None:
    """If a signal handler raises during a call, gRPC waits for that call forever."""
    called = hanging("Info")

    class Raised(Exception):
        pass

    def handle(_number: int, _frame: object) -> None:
        raise Raised

    previous = signal.signal(signal.SIGUSR1, handle)
    main = threading.get_ident()

    def interrupt() -> None:
        assert called.wait(SECONDS)
        signal.pthread_kill(main, signal.SIGUSR1)

    sender = threading.Thread(target=interrupt)
    sender.start()
    try:
        with pytest.raises(Raised):
            client.content.info(DIGEST)
    finally:
        sender.join()
        signal.signal(signal.SIGUSR1, previous)
    started = time.monotonic()
    client.close()
    assert time.monotonic() - started < SECONDS


# --- a daemon that does not respond ------------------------------------------------------------------------


@pytest.fixture
def impatient(fake: FakeDaemon, sockets: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """A client that waits half a second for a daemon."""
    monkeypatch.setattr(calls, "_ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(calls, "_BACK_SECONDS", 0.2)
    with Daemon.connect(str(sockets / "containerd.sock"), "testing", environ={}, stall_seconds=0.5) as daemon:
        fake.calls.clear()
        yield daemon


@pytest.mark.parametrize(
    ("method", "name"),
    [("Info", "a unary call"), ("Read", "a read"), ("STAT", "a write"), ("List", "a list")],
)
def test_a_daemon_that_stops_responding_is_an_error(
    impatient: Daemon,
    fake: FakeDaemon,
    hanging: Callable[[str], threading.Event],
    method: str,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake.blobs[DIGEST] = b"content"
    hanging("Version")
    hanging(method)
    with pytest.raises(
        DaemonUnreachable, match=r"accepts connections, but has not answered for 0\.5 seconds"
    ) as caught:
        CALLS[name](impatient)
    assert "SIGSTOP" in (caught.value.hint or "")
    fake.faults.clear()
    monkeypatch.setattr(calls, "_BACK_SECONDS", SECONDS)
    list(impatient.content.list())  # it responds again


def test_a_long_call_is_waited_for_while_the_daemon_responds_to_others(
    impatient: Daemon, fake: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here a layer is unpacked until the client has checked three times that the daemon is alive."""
    monkeypatch.setattr(calls, "_ANSWER_SECONDS", SECONDS)

    def until_asked(_request: Any, _context: grpc.ServicerContext) -> None:
        deadline = time.monotonic() + SECONDS
        while len(fake.requests("Version")) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    fake.blobs[DIGEST] = b"content"
    fake.faults["Info"] = until_asked
    assert impatient.content.info(DIGEST).size == 7


def test_a_stalled_stream_of_a_live_daemon_is_an_error(
    impatient: Daemon,
    fake: FakeDaemon,
    hanging: Callable[[str], threading.Event],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calls, "IDLE_SECONDS", 0.1)
    monkeypatch.setattr(calls, "_ANSWER_SECONDS", SECONDS)
    fake.blobs[DIGEST] = b"content"
    hanging("Read")
    with pytest.raises(DaemonError, match=r"has sent nothing for 0\.1 s on an open stream") as caught:
        impatient.content.read_all(DIGEST, limit=10)
    assert caught.value.code == "DEADLINE_EXCEEDED"


def test_an_exceeded_deadline_checks_whether_the_daemon_is_alive(
    impatient: Daemon,
    hanging: Callable[[str], threading.Event],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(channel, "UNARY_SECONDS", 0.1)
    for name in ("_ANSWER_SECONDS", "_BACK_SECONDS"):
        monkeypatch.setattr(calls, name, SECONDS)
    hanging("Info")
    with pytest.raises(DaemonError, match="Deadline Exceeded"):
        impatient.content.info(DIGEST)
    hanging("Version")
    monkeypatch.setattr(calls, "_BACK_SECONDS", 0.2)
    with pytest.raises(DaemonUnreachable, match="has not answered"):
        impatient.content.info(DIGEST)


def test_there_is_no_watch_thread_without_a_call(impatient: Daemon, fake: FakeDaemon) -> None:
    fake.blobs[DIGEST] = b"content"
    impatient.content.info(DIGEST)
    deadline = time.monotonic() + SECONDS
    while any(one.name == "pyctrd-watch" for one in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_calls_of_other_threads_survive_close(sockets: Path) -> None:
    """Each call succeeds or is refused; a failure would be a process that ends by SIGSEGV."""
    path = sockets / "many.sock"
    fake = FakeDaemon()
    fake.blobs[DIGEST] = b"content"
    server = serve(path, fake)
    try:
        for _ in range(20):
            daemon = Daemon.connect(str(path), environ={})
            begun = threading.Barrier(5)

            def work(daemon: Daemon = daemon, begun: threading.Barrier = begun) -> None:
                begun.wait()
                while True:
                    for name in ("a unary call", "a read", "a write", "another namespace"):
                        CALLS[name](daemon)

            futures = [in_a_thread(work) for _ in range(4)]
            begun.wait()
            daemon.close()
            for future in futures:
                with pytest.raises(ClientClosed):
                    future.result(SECONDS)
    finally:
        server.stop(None).wait()
