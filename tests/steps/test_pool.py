"""DownloadPool: what happens to the other downloads after an error."""

from __future__ import annotations

import concurrent.futures
import threading
from typing import Any

import pytest

from pyctrd.oci.model import Descriptor, Digest
from pyctrd.steps.fetch import FetchResult
from pyctrd.steps.pool import DownloadPool


def test_downloads_that_never_started_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    started, released = threading.Event(), threading.Event()
    waits: list[set[Any]] = []
    real = concurrent.futures.wait

    def wait(*arguments: Any, **how: Any) -> Any:
        released.set()
        found = real(*arguments, **how)
        waits.append(found.not_done)
        return found

    monkeypatch.setattr(concurrent.futures, "wait", wait)

    def fetch(_descriptor: Descriptor) -> FetchResult:
        started.set()
        released.wait()
        return FetchResult()

    def fail() -> None:
        with DownloadPool(fetch, threading.Event(), max_concurrent=1) as pool:
            pool.submit(blobs)
            started.wait()
            raise ValueError("another error")

    blobs = [Descriptor(media_type="", digest=Digest.of(bytes([number])), size=1) for number in range(3)]
    with pytest.raises(ValueError, match="another error"):
        fail()
    assert waits == [set()]
