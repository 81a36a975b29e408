"""Fetch one blob into a store in memory: requests, and which bytes count as resumed."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from pyctrd.errors import AlreadyExists, ContentError, IngestLocked
from pyctrd.oci import mediatypes
from pyctrd.oci.model import Descriptor, Digest, IngestStatus
from pyctrd.progress import Progress
from pyctrd.steps.fetch import Downloader, FetchResult, ingest_ref
from pyctrd.steps.pool import DownloadPool
from tests.support.memory import MemoryStore
from tests.support.memory_content import MemoryContent, MemoryIngest, Unfinished

DATA = bytes(range(256)) * 64
LAYER = Descriptor(media_type=mediatypes.OCI_LAYER_GZIP, digest=Digest.of(DATA), size=len(DATA))


class Remote:
    """A repository with one layer, which records the requested offsets."""

    host = "registry.example"
    repository = "team/app"

    def __init__(self) -> None:
        self.offsets: list[int] = []

    @contextmanager
    def fetch(self, descriptor: Descriptor, offset: int = 0) -> Iterator[Iterator[bytes]]:
        self.offsets.append(offset)
        yield (DATA[start : start + 4096] for start in range(offset, len(DATA), 4096))


class Bench:
    """A store in which an earlier download left `left`."""

    def __init__(self, left: bytes = b"") -> None:
        self.store = MemoryStore()
        self.remote = Remote()
        self.events: list[Progress] = []
        if left:
            self.store.state.ingests[ingest_ref(LAYER)] = Unfinished(bytearray(left), len(DATA))

    def fetch(self) -> FetchResult:
        downloader = Downloader(
            self.store.content, [self.remote], claim_present=True, progress=self.events.append
        )
        result = downloader.fetch(LAYER)
        assert self.store.state.blobs == {LAYER.digest: DATA}
        assert self.store.state.ingests == {}
        return result

    def told(self) -> set[tuple[str, int]]:
        return {(event.action, event.resumed) for event in self.events}


@pytest.mark.parametrize("left", [1, 5000, len(DATA) - 1])
def test_an_interrupted_download_is_resumed_and_counted(left: int) -> None:
    bench = Bench(DATA[:left])
    assert bench.fetch() == FetchResult(len(DATA) - left, left)
    assert bench.remote.offsets == [left]
    assert bench.told() == {("downloading", left), ("downloaded", left)}


def test_a_download_that_only_lacked_its_commit_counts_as_resumed() -> None:
    bench = Bench(DATA)
    assert bench.fetch() == FetchResult(0, len(DATA))
    assert bench.remote.offsets == []
    assert bench.told() == {("downloaded", len(DATA))}


def test_a_new_download_resumes_nothing() -> None:
    bench = Bench()
    assert bench.fetch() == FetchResult(len(DATA), 0)
    assert bench.told() == {("downloading", 0), ("downloaded", 0)}
    assert bench.fetch() == FetchResult()
    assert bench.events[-1].action == "exists"


@pytest.mark.parametrize("left", [0, 100, len(DATA)])
def test_a_blob_is_received_before_it_is_committed(left: int) -> None:
    bench = Bench(DATA[:left])
    state = bench.store.state
    seen: list[tuple[int, bool]] = []

    def received() -> None:
        seen.append((len(state.ingests[ingest_ref(LAYER)].data), LAYER.digest in state.blobs))

    Downloader(bench.store.content, [bench.remote], claim_present=True).fetch(LAYER, received)
    assert seen == [(len(DATA), False)]


@pytest.mark.parametrize("left", [100, len(DATA)])
def test_corrupt_bytes_do_not_count_as_resumed(left: int) -> None:
    bench = Bench(b"x" * left)
    assert bench.fetch() == FetchResult(len(DATA), 0)
    assert bench.remote.offsets[-1] == 0
    assert bench.told() >= {("retrying", 0), ("downloaded", 0)}


@pytest.mark.parametrize("listed", [[], [IngestStatus(ref=ingest_ref(LAYER), offset=100, total=0)]])
def test_shared_content_of_another_namespace_does_not_count_as_resumed(
    listed: Sequence[IngestStatus], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ingest is complete when it is opened; a listed ingest (if any) is another one."""
    bench = Bench(DATA)
    monkeypatch.setattr(bench.store.content, "ingests", lambda: listed)
    assert bench.fetch() == FetchResult()
    assert bench.told() == {("exists", 0)}


@pytest.mark.parametrize("collected", [False, True])
def test_content_that_another_client_commits_first_is_put_under_our_lease(
    collected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it was collected before that, it is fetched again."""
    bench = Bench()
    state = bench.store.state
    opened: list[str] = []
    fetch, open_ingest = Remote.fetch, MemoryContent.open_ingest

    def overtaken(remote: Remote, descriptor: Descriptor, offset: int = 0) -> Any:
        if not remote.offsets:
            state.blobs[LAYER.digest] = DATA
        return fetch(remote, descriptor, offset)

    def opening(content: MemoryContent, ref: str, **named: Any) -> Any:
        opened.append(ref)
        if collected and len(opened) == 2:
            state.collect()
        return open_ingest(content, ref, **named)

    monkeypatch.setattr(Remote, "fetch", overtaken)
    monkeypatch.setattr(MemoryContent, "open_ingest", opening)
    with bench.store.lease("pull") as leased:
        downloader = Downloader(leased.content, [bench.remote], claim_present=True)
        assert downloader.fetch(LAYER) == FetchResult(len(DATA) if collected else 0)
        assert len(opened) == 2
        state.collect()
        assert state.blobs == {LAYER.digest: DATA}


def test_a_blob_that_keeps_disappearing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()

    def overtaken(ingest: MemoryIngest, labels: Mapping[str, str]) -> None:
        raise AlreadyExists("blob with expected digest exists")

    monkeypatch.setattr(MemoryIngest, "commit", overtaken)
    with pytest.raises(ContentError, match="keeps disappearing while it is fetched"):
        bench.fetch()


def test_downloads_count_fetched_and_resumed_bytes() -> None:
    other = Descriptor(media_type="text/plain", digest=Digest.of(b"x"), size=1)
    amounts = {LAYER.digest: FetchResult(7, 3), other.digest: FetchResult()}
    with DownloadPool(
        lambda item, _received: amounts[item.digest], threading.Event(), max_concurrent=2
    ) as downloads:
        downloads.submit([LAYER, other, LAYER])
        downloads.join()
        assert downloads.downloaded() == {LAYER: 7}
        assert downloads.resumed() == {LAYER: 3}


# --- another client that has stopped ----------------------------------------------------------------------


def locked(left: int, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A store in which another client has written so many bytes, and has locked the ingest."""
    bench = Bench(DATA[:left])
    bench.store.state.open_refs.add(ingest_ref(LAYER))
    monkeypatch.setattr(MemoryContent, "stall_seconds", 0.2)
    return bench


@pytest.mark.parametrize("left", [0, 5000])
def test_a_client_that_has_stopped_is_not_waited_for_forever(
    left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = locked(left, monkeypatch)
    with pytest.raises(IngestLocked, match=r"has written nothing for 0\.2 seconds") as caught:
        bench.fetch()
    assert caught.value.name == ingest_ref(LAYER)
    assert "end it" in (caught.value.hint or "")
    assert {event.action for event in bench.events} == {"waiting"}


def test_a_client_that_makes_progress_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow it is; here it writes a byte at each look at its progress."""
    bench = locked(5000, monkeypatch)
    ref = ingest_ref(LAYER)
    monkeypatch.setattr(MemoryContent, "stall_seconds", 0.0)
    ingests = MemoryContent.ingests

    def growing(content: MemoryContent) -> Sequence[IngestStatus]:
        data = bench.store.state.ingests[ref].data
        if ref not in bench.store.state.open_refs:
            return ingests(content)
        data += DATA[len(data) : len(data) + 1]
        if len(data) == 5005:
            bench.store.state.open_refs.discard(ref)
        return ingests(content)

    monkeypatch.setattr(MemoryContent, "ingests", growing)
    assert bench.fetch() == FetchResult(len(DATA) - 5005, 5005)


def test_a_pending_commit_is_waited_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """All bytes have been received, but may still have to be written to the disk."""
    bench = locked(len(DATA), monkeypatch)
    monkeypatch.setattr(MemoryContent, "stall_seconds", 0.01)
    with pytest.raises(IngestLocked, match=r"for 0\.1 seconds"):
        bench.fetch()
