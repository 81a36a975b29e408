"""Bring content from remote repositories into the content store: one blob, and several at once.

The content service's own protocol decides what is downloaded: ask first, go on at the offset that the store
has, take "already exists" for success, wait for a locked ingest (containerd core/remotes/handlers.go Fetch,
core/content/helpers.go OpenWriter). The store verifies size and digest at the commit.
"""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Final, Self

import tenacity

from pyctrd import documents, mediatypes
from pyctrd.documents import Documents
from pyctrd.errors import (
    AlreadyExists,
    FailedPrecondition,
    IngestLocked,
    NotFound,
    RegistryContentError,
    RegistryError,
    RegistryUnreachable,
)
from pyctrd.model import Descriptor, Digest
from pyctrd.ports import Action, ContentStore, Fetcher, Ingest, Progress, ProgressSink, no_progress

REF_NAME: Final = "org.opencontainers.image.ref.name"
# containerd refuses a label whose key and value together are longer (pkg/labels/validate.go).
MAX_LABEL_BYTES: Final = 4096
# How long a failed run waits for its threads: one that hangs in a dead connection must not hold up Ctrl-C.
_PATIENCE_SECONDS: Final = 2.0


class _Stopped(Exception):
    """Ends a worker after the run was given up; never reaches a caller."""


def ingest_ref(descriptor: Descriptor) -> str:
    """Give the ingest's name that every containerd client uses, so that one goes on where another stopped.

    Source: containerd core/remotes/handlers.go MakeRefKey.
    """
    name = descriptor.annotations.get(REF_NAME, "")
    what = f"{name}@{descriptor.digest}" if name else str(descriptor.digest)
    return f"{mediatypes.ingest_prefix(descriptor.media_type)}-{what}"


class Transfer:
    """Brings single blobs from the first of several repositories that has them.

    `claim_present` is for a pull: the reference's repository names the blobs, so it goes onto their label
    also when they were here before. `judge` reads documents before they are stored. `stop` ends all that is
    under way: set by whoever gives the run up.
    """

    def __init__(
        self,
        content: ContentStore,
        fetchers: Sequence[Fetcher],
        *,
        claim_present: bool,
        progress: ProgressSink = no_progress,
        judge: Documents | None = None,
    ) -> None:
        self._judge = judge or Documents()
        self._spoiled: set[Digest] = set()
        self._content = content
        self._fetchers = tuple(fetchers)
        self._claim_present = claim_present
        self._progress = progress
        self.stop = threading.Event()

    def bring(self, descriptor: Descriptor) -> int:
        """Make sure that the store (and the lease in force) has a blob; gives the bytes downloaded.

        Afterwards the blob's `containerd.io/distribution.source.<host>` label names the repository.
        Raises RegistryError, RegistryContentError, DaemonError.
        """
        if descriptor.size == 0:
            raise RegistryContentError(
                f"unable to fetch descriptor ({descriptor.digest}) which reports content size of zero: "
                "invalid argument",
                hint="the manifest that names this content is broken; it has to be built again",
            )
        try:
            downloaded, fetcher = self._bring(descriptor)
        except AlreadyExists:
            downloaded, fetcher = 0, self._claimant
        except RegistryContentError:
            if descriptor.digest in self._spoiled:
                self._content.abort(ingest_ref(descriptor))
            raise
        if not downloaded:
            self._report("exists", descriptor, descriptor.size)
        if fetcher is not None:
            add_source_label(self._content, descriptor.digest, fetcher)
        return downloaded

    @property
    def _claimant(self) -> Fetcher | None:
        """The repository to name on a blob that was not downloaded now."""
        return self._fetchers[0] if self._claim_present and self._fetchers else None

    def _bring(self, descriptor: Descriptor) -> tuple[int, Fetcher | None]:
        for _ in range(2):
            with self._open(descriptor) as ingest:
                start = ingest.offset
                complete = start == descriptor.size  # also content of another namespace
                fetcher = self._claimant if complete else self._download(descriptor, ingest)
                try:
                    ingest.commit()
                    return descriptor.size - start, fetcher
                except FailedPrecondition as error:
                    failure = error
            # Left to itself, a wrong ingest is committed again by every client that comes by, for ever.
            self._content.abort(ingest_ref(descriptor))
            if start == 0:
                break
            self._report("retrying", descriptor, 0, "what an earlier download left here was corrupt")
        raise _wrong_bytes(descriptor, fetcher, failure) from failure

    @contextmanager
    def _open(self, descriptor: Descriptor) -> Iterator[Ingest]:
        """Open the ingest, waiting while another client writes the same one."""

        def waiting(_state: tenacity.RetryCallState) -> None:
            self._report("waiting", descriptor, 0, "another client is downloading it")

        patiently = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(IngestLocked),
            wait=tenacity.wait_random_exponential(multiplier=0.016, max=2),
            sleep=tenacity.sleep_using_event(self.stop),
            stop=tenacity.stop_when_event_set(self.stop),
            before_sleep=waiting,
            reraise=True,
        )
        with ExitStack() as stack:
            yield patiently(
                lambda: stack.enter_context(
                    self._content.open_ingest(
                        ingest_ref(descriptor), digest=descriptor.digest, size=descriptor.size
                    )
                )
            )

    def _download(self, descriptor: Descriptor, ingest: Ingest) -> Fetcher | None:
        if len(descriptor.data) == descriptor.size:
            if documents.is_document(descriptor):
                self._judge.check(descriptor, descriptor.data)
            ingest.write(descriptor.data[ingest.offset :])
            return self._claimant
        failure: RegistryError | None = None
        for fetcher in self._fetchers:
            try:
                self._copy(descriptor, fetcher, ingest)
                return fetcher
            except RegistryError as error:
                failure = failure or error
        if failure is None:
            raise NotFound(
                f"content {descriptor.digest}: not found",
                kind="content",
                name=str(descriptor.digest),
                hint="no repository is known to have it: pull the image by its full name",
            )
        raise failure

    def _copy(self, descriptor: Descriptor, fetcher: Fetcher, ingest: Ingest) -> None:
        self._report("downloading", descriptor, ingest.offset)
        if documents.is_document(descriptor):
            ingest.write(self._judge.fetch(fetcher, descriptor)[ingest.offset :])
            self._report("downloaded", descriptor, ingest.offset)
            return
        start = ingest.offset
        try:
            with fetcher.fetch(descriptor, start) as chunks:
                for chunk in chunks:
                    if self.stop.is_set():
                        raise _Stopped
                    ingest.write(chunk)
                    self._report("downloading", descriptor, ingest.offset)
        except RegistryContentError as error:
            # Bytes of a liar are no start for the next pull; those before a cut, or of an earlier one, are.
            if ingest.offset > start and not isinstance(error.__cause__, RegistryUnreachable):
                self._spoiled.add(descriptor.digest)
            raise
        self._report("downloaded", descriptor, ingest.offset)

    def _report(self, action: Action, descriptor: Descriptor, offset: int, detail: str = "") -> None:
        self._progress(
            Progress(
                action=action, descriptor=descriptor, offset=offset, total=descriptor.size, detail=detail
            )
        )


def _wrong_bytes(
    descriptor: Descriptor, fetcher: Fetcher | None, failure: FailedPrecondition
) -> RegistryContentError:
    source = f"{fetcher.host}/{fetcher.repository}" if fetcher else "the manifest's inline data"
    hint = "the registry, or a proxy before it, serves other bytes than it names; nothing was kept of them"
    if descriptor.digest.algorithm != "sha256" and "digest sha256:" in failure.message:
        hint = "this containerd keeps content by sha256 only: build the image again with such digests"
    return RegistryContentError(
        f"{failure.message}: wrong content for {descriptor.digest} from {source}",
        host=fetcher.host if fetcher else "",
        repository=fetcher.repository if fetcher else "",
        hint=hint,
    )


def is_present(content: ContentStore, descriptor: Descriptor) -> bool:
    """Tell whether the store has a blob."""
    try:
        content.info(descriptor.digest)
    except NotFound:
        return False
    return True


def host_name(domain: str) -> str:
    """Give the host of `host[:port]`, an IPv6 address without its brackets."""
    if domain.startswith("["):
        return domain[1:].partition("]")[0]
    return domain.partition(":")[0]


def add_source_label(content: ContentStore, digest: Digest, fetcher: Fetcher) -> None:
    """Note on a blob which repository has it: comma-joined, sorted, each once.

    The host goes without its port, as in containerd, so two registries on one host share a label
    (containerd core/remotes/docker/handler.go AppendDistributionSourceLabel).
    """
    key = f"{mediatypes.DISTRIBUTION_SOURCE}{host_name(fetcher.host)}"
    known = content.info(digest).labels.get(key, "")
    repositories = {name for name in known.split(",") if name} | {fetcher.repository}
    value = ",".join(sorted(repositories))
    if value != known and len(key) + len(value) <= MAX_LABEL_BYTES:
        content.set_labels(digest, {key: value})


class Downloads:
    """Several blobs at once, each digest once; a context that ends its threads.

    The first failure stops all others: half an image is of no use, and what was committed is leased.
    """

    def __init__(
        self, bring: Callable[[Descriptor], int], stop: threading.Event, *, max_concurrent: int
    ) -> None:
        self._bring = bring
        self._stop = stop
        self._pool = concurrent.futures.ThreadPoolExecutor(max_concurrent, thread_name_prefix="pyctrd-fetch")
        self._futures: dict[Digest, concurrent.futures.Future[int]] = {}
        self._descriptors: dict[Digest, Descriptor] = {}

    def __enter__(self) -> Self:
        """Start with no download."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for all, or, after an error, stop all."""
        if kind is not None:
            self._stop.set()
            self._pool.shutdown(wait=False, cancel_futures=True)
            concurrent.futures.wait(self._futures.values(), timeout=_PATIENCE_SECONDS)
        self._pool.shutdown(wait=kind is None)

    def submit(self, descriptors: Sequence[Descriptor]) -> None:
        """Start bringing blobs; those that were submitted before are left alone."""
        for descriptor in descriptors:
            if descriptor.digest not in self._futures:
                self._descriptors[descriptor.digest] = descriptor
                self._futures[descriptor.digest] = self._pool.submit(self._guarded, descriptor)

    def _guarded(self, descriptor: Descriptor) -> int:
        if self._stop.is_set():
            raise _Stopped
        try:
            return self._bring(descriptor)
        except BaseException:
            self._stop.set()
            raise

    def wait(self, digest: Digest) -> None:
        """Block until a submitted blob is in the store; raises what its download raised."""
        self._futures[digest].result()

    def join(self) -> None:
        """Block until all submitted blobs are in the store; raises the first real error."""
        futures = self._futures.values()
        concurrent.futures.wait(futures, return_when=concurrent.futures.FIRST_EXCEPTION)
        errors = [future.exception() for future in futures if future.done() and future.exception()]
        for error in sorted(errors, key=lambda item: isinstance(item, _Stopped)):
            if error is not None:
                raise error

    @property
    def wanted(self) -> tuple[Descriptor, ...]:
        """All that was submitted, in order."""
        return tuple(self._descriptors.values())

    def downloaded(self) -> dict[Descriptor, int]:
        """Give the bytes that each blob cost, for those that cost any; only after `join`."""
        bytes_of = {self._descriptors[digest]: future.result() for digest, future in self._futures.items()}
        return {descriptor: count for descriptor, count in bytes_of.items() if count}
