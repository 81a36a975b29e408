"""Repeat `close`, a timeout and an error during library calls, in a separate process.

    python -m integration.closing ADDRESS REFERENCE MISSING RUNS SEED

REFERENCE is an image whose registry is slow, MISSING one that lacks a layer in its registry. The failures it
tests for would end the process: a crash in gRPC, or a hanging thread. It prints a line for each run.
"""

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from pyctrd import Client, ClientClosed, DaemonError, NotFound, RegistryError

SECONDS = 5.0
"""The time limit for the end of a call after its client was closed."""
LATEST = 1.0
"""The latest time at which a client is closed: about as long as a complete call."""


class Calls:
    """Calls on a namespace, each of which is interrupted."""

    def __init__(self, client: Client, reference: str, folder: Path) -> None:
        self._client = client
        self._reference = reference
        self._folder = folder

    def pull(self) -> object:
        return self._client.images.pull(self._reference, platforms="all", unpack=True)

    def save(self) -> object:
        self.pull()
        return self._client.images.save([self._reference], self._folder / "image.tar", platforms="all")

    def verify(self) -> object:
        with suppress(NotFound):
            self._client.images.ensure(self._reference)
        return self._client.images.verify()

    def listing(self) -> object:
        while True:
            self._client.images.list()
            self._client.content.list()
            self._client.images.diagnose(self._reference)


def closed(client: Client, work: Callable[[], object], after: float) -> str:
    """Close or cancel in one thread while another one works; the call must raise the right error."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:  # noqa: BLE001 - it is looked at below
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(after)
    client.close()
    started = time.monotonic()
    thread.join(SECONDS)
    assert not thread.is_alive(), "the call continues after its client was closed"
    (found,) = outcome
    if isinstance(found, BaseException):
        assert isinstance(found, ClientClosed | NotFound), repr(found)
    return f"{type(found).__name__} after {time.monotonic() - started:.1f} s"


def timed_out(client: Client, work: Callable[[], object], after: float) -> str:
    """As in an async program: the thread is still working when the client is closed."""

    async def run() -> None:
        with client:
            await asyncio.wait_for(asyncio.to_thread(work), after)

    started = time.monotonic()
    try:
        asyncio.run(run())
    except TimeoutError:
        outcome = "TimeoutError"
    except (NotFound, ClientClosed) as error:
        outcome = type(error).__name__
    else:
        outcome = "done"
    assert time.monotonic() - started < after + SECONDS, "the thread continued after the timeout"
    return outcome


def failed(client: Client, missing: str) -> str:
    """Pull a layer that the registry lacks while others are unpacked, then close the client."""
    with client:
        try:
            client.images.pull(missing)
        except (RegistryError, NotFound, DaemonError) as error:
            outcome = type(error).__name__
        else:
            outcome = "done"
    assert outcome != "done"
    return outcome


def check_closed(client: Client, reference: str) -> None:
    """Every call on a closed client raises ClientClosed."""
    calls: list[Callable[[], object]] = [
        client.images.list,
        client.content.list,
        lambda: client.images.pull(reference),
    ]
    for call in calls:
        try:
            call()
        except ClientClosed:
            continue
        raise AssertionError("a closed client was asked, and answered")


def main() -> None:
    """Run the calls; an AssertionError or a signal is a failure."""
    address, reference, missing, runs, seed = sys.argv[1:]
    chance = random.Random(seed)
    for turn in range(int(runs)):
        client = Client(address, f"closing-{seed}-{turn}")
        after = chance.uniform(0, LATEST)
        with TemporaryDirectory() as folder:
            calls = Calls(client, reference, Path(folder))
            work = chance.choice((calls.pull, calls.save, calls.verify, calls.listing))
            kind = ("close", "timeout", "error")[turn % 3]
            if kind == "close":
                outcome = closed(client, work, after)
            elif kind == "timeout":
                outcome = timed_out(client, work, after)
            else:
                outcome = failed(client, missing)
            assert not list(Path(folder).glob(".*.part")), "a partial archive is left"
        check_closed(client, reference)
        print(f"{turn}: {kind} in {work.__name__} after {after:.3f} s: {outcome}", flush=True)


if __name__ == "__main__":
    main()
