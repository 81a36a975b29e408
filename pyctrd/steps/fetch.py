"""Fetch single blobs from remote repositories into the content store.

As in containerd, the content service decides what is downloaded: open the ingest, resume at its offset, treat
"already exists" as success, and wait for a locked ingest (containerd core/remotes/handlers.go Fetch,
core/content/helpers.go OpenWriter). The store checks size and digest at the commit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, TypeVar

from pyctrd.errors import (
    AlreadyExists,
    ContentError,
    FailedPrecondition,
    IngestLocked,
    NotFound,
    RegistryContentError,
    RegistryError,
    RegistryUnreachable,
)
from pyctrd.oci import mediatypes
from pyctrd.oci.model import ContentInfo, Descriptor, Digest
from pyctrd.ports import ContentStore, Fetcher, Ingest, RepositoryName
from pyctrd.progress import Action, Progress, ProgressSink, no_progress
from pyctrd.steps import validate
from pyctrd.steps.validate import Validator

if TYPE_CHECKING:
    import tenacity

_T = TypeVar("_T")

REF_NAME: Final = "org.opencontainers.image.ref.name"
# The limit for the length of a label's key and value together (pkg/labels/validate.go).
MAX_LABEL_BYTES: Final = 4096
_CHUNK: Final = 1 << 20
# How often to retry when other clients interfere.
_TRIES: Final = 10


# Returns the labels that say where a blob came from.
SourceLabels: TypeAlias = Callable[[Digest, RepositoryName], Mapping[str, str]]


class Stopped(Exception):
    """Stops a worker after another one failed; never raised to a caller."""


class FetchResult(NamedTuple):
    """The bytes downloaded for a blob, and those that an interrupted download had already stored.

    Both are 0 for a blob that was in the store, or in another namespace.
    """

    downloaded: int = 0
    resumed: int = 0


def ingest_ref(descriptor: Descriptor) -> str:
    """Return a blob's ingest name, the same in all containerd clients, so that they can resume each other.

    Source: containerd core/remotes/handlers.go MakeRefKey.
    """
    name = descriptor.annotations.get(REF_NAME, "")
    what = f"{name}@{descriptor.digest}" if name else str(descriptor.digest)
    return f"{mediatypes.ingest_prefix(descriptor.media_type)}-{what}"


class Downloader:
    """Fetches single blobs, each from the first of several repositories that has it.

    `validator` checks documents before they are stored. `labels` returns the labels of each blob that say
    where it came from; with `claim_present`, which is for a pull, they are added to those that are already in
    the store, too. Setting `stop` stops the downloads in progress.
    """

    def __init__(
        self,
        content: ContentStore,
        fetchers: Sequence[Fetcher],
        *,
        claim_present: bool,
        progress: ProgressSink = no_progress,
        validator: Validator | None = None,
        labels: SourceLabels = lambda _digest, _source: {},
    ) -> None:
        self._validator = validator or Validator()
        self._labels = labels
        self._tainted: set[Digest] = set()
        self._present: dict[Digest, ContentInfo] = {}
        self._content = content
        self._fetchers = tuple(fetchers)
        self._claim_present = claim_present
        self._progress = progress
        self.stop = threading.Event()

    def fetch(self, descriptor: Descriptor, received: Callable[[], None] = lambda: None) -> FetchResult:
        """Make sure that the store and the current lease have a blob; return the bytes downloaded.

        `received` is called when all of it has been received, and only has to be committed.
        Raises RegistryError, RegistryContentError, DaemonError.
        """
        if descriptor.size == 0:
            raise RegistryContentError(
                f"unable to fetch descriptor ({descriptor.digest}) which reports content size of zero: "
                "invalid argument",
                hint="the manifest is broken: rebuild the image",
            )
        try:
            present = descriptor.digest in self._present
            result = FetchResult() if present else self._fetch(descriptor, received)
        except AlreadyExists:
            result = FetchResult()
        except RegistryContentError:
            if descriptor.digest in self._tainted:
                self._content.abort(ingest_ref(descriptor))
            raise
        if not any(result):
            self._claim(descriptor)
            self._report("exists", descriptor, descriptor.size)
        elif not result.downloaded:
            self._report("downloaded", descriptor, descriptor.size, resumed=result.resumed)
        return result

    def look_up(self, descriptors: Sequence[Descriptor]) -> None:
        """Look up blobs in few calls; those that the store has are not opened by `fetch`.

        Opening a blob adds it to the lease, so this is for children of leased content that has its gc labels.
        """
        self._present.update(self._content.infos([descriptor.digest for descriptor in descriptors]))

    def labels_in_store(self, digest: Digest) -> Mapping[str, str]:
        """Return the labels of a blob that was in the store before, as far as they were looked up."""
        found = self._present.get(digest)
        return found.labels if found else {}

    def _claim(self, descriptor: Descriptor) -> None:
        """Add its source labels to a blob that was in the store."""
        more = self._labels_of(descriptor, self._default_source)
        if more:
            found = self._present.get(descriptor.digest) or self._content.info(descriptor.digest)
            self._present[descriptor.digest] = found
            add_labels(self._content, found, more)

    def _labels_of(self, descriptor: Descriptor, source: Fetcher | None) -> Mapping[str, str]:
        return {} if source is None else self._labels(descriptor.digest, source)

    @property
    def _default_source(self) -> Fetcher | None:
        """The repository for the label of a blob that was not downloaded."""
        return self._fetchers[0] if self._claim_present and self._fetchers else None

    def _fetch(self, descriptor: Descriptor, received: Callable[[], None]) -> FetchResult:
        for _ in range(_TRIES):
            with self._open(descriptor) as ingest:
                start = ingest.offset
                complete = start == descriptor.size  # also for content of another namespace
                resumed = self._partial_bytes(descriptor) if complete else start
                fetcher = self._default_source
                try:
                    if not complete:
                        fetcher = self._download(descriptor, ingest)
                    received()
                    ingest.commit(labels=_short(self._labels_of(descriptor, fetcher)))
                    return FetchResult(descriptor.size - start, resumed)
                except AlreadyExists:
                    # Another client was faster. Opening its blob again adds it to our lease.
                    continue
                except FailedPrecondition as error:
                    failure = error
            # Otherwise every other client would try to commit the same wrong bytes.
            self._content.abort(ingest_ref(descriptor))
            if start == 0:
                raise _wrong_bytes(descriptor, fetcher, failure) from failure
            self._report("retrying", descriptor, 0, "the data of an earlier download was corrupt")
        raise ContentError(
            f"content {descriptor.digest} keeps disappearing while it is fetched",
            hint="another client is writing and deleting it at the same time; try again",
        )

    def _partial_bytes(self, descriptor: Descriptor) -> int:
        """Return how much of a complete write an earlier download has stored: all of it, or nothing.

        The write of content that another namespace has is complete, too, but its ingest is absent or
        incomplete (containerd core/metadata/content.go Writer).
        """
        ref = ingest_ref(descriptor)
        whole = any(one.ref == ref and one.offset == descriptor.size for one in self._content.ingests())
        return descriptor.size if whole else 0

    @contextmanager
    def _open(self, descriptor: Descriptor) -> Iterator[Ingest]:
        """Open the ingest; wait while another client writes the same one."""
        with ExitStack() as stack:

            def opened() -> Ingest:
                ref = ingest_ref(descriptor)
                return stack.enter_context(
                    self._content.open_ingest(ref, digest=descriptor.digest, size=descriptor.size)
                )

            try:
                ingest = opened()
            except IngestLocked:
                ingest = self._when_unlocked(descriptor, opened)
            yield ingest

    def _when_unlocked(self, descriptor: Descriptor, opened: Callable[[], Ingest]) -> Ingest:
        import tenacity

        other = _OtherClient(self._content, descriptor)

        def waiting(_state: tenacity.RetryCallState) -> None:
            self._report("waiting", descriptor, 0, "another client is downloading it")
            other.check()

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(IngestLocked),
            wait=tenacity.wait_random_exponential(multiplier=0.016, max=2),
            sleep=tenacity.sleep_using_event(self.stop),
            stop=tenacity.stop_when_event_set(self.stop),
            before_sleep=waiting,
            reraise=True,
        )
        return retrying(opened)

    def _download(self, descriptor: Descriptor, ingest: Ingest) -> Fetcher | None:
        resumed = ingest.offset
        if len(descriptor.data) == descriptor.size:
            if validate.is_document(descriptor):
                self._validator.check(descriptor, descriptor.data)
            ingest.write(descriptor.data[resumed:])
            self._report("downloaded", descriptor, descriptor.size, resumed=resumed)
            return self._default_source

        def copy(fetcher: Fetcher) -> Fetcher:
            self._copy(descriptor, fetcher, ingest, resumed)
            return fetcher

        return from_first(self._fetchers, descriptor, copy)

    def _copy(self, descriptor: Descriptor, fetcher: Fetcher, ingest: Ingest, resumed: int) -> None:
        self._report("downloading", descriptor, ingest.offset, resumed=resumed)
        if validate.is_document(descriptor):
            raw = self._validator.fetch(fetcher, descriptor)
            for start in range(ingest.offset, len(raw), _CHUNK):  # avoids a copy of a large document
                ingest.write(raw[start : start + _CHUNK])
            self._report("downloaded", descriptor, ingest.offset, resumed=resumed)
            return
        start = ingest.offset
        try:
            with fetcher.fetch(descriptor, start) as chunks:
                for chunk in chunks:
                    ingest.write(chunk)
                    self._report("downloading", descriptor, ingest.offset, resumed=resumed)
                    if self.stop.is_set():  # what was downloaded is kept for the next pull
                        raise Stopped
        except RegistryContentError as error:
            # The next pull must not resume from wrong bytes; those before a lost connection are good.
            if ingest.offset > start and not isinstance(error.__cause__, RegistryUnreachable):
                self._tainted.add(descriptor.digest)
            raise
        self._report("downloaded", descriptor, ingest.offset, resumed=resumed)

    def _report(
        self, action: Action, descriptor: Descriptor, offset: int, detail: str = "", *, resumed: int = 0
    ) -> None:
        self._progress(
            Progress(
                action=action,
                descriptor=descriptor,
                offset=offset,
                total=descriptor.size,
                resumed=resumed,
                detail=detail,
            )
        )


class _OtherClient:
    """Checks that the client that has locked an ingest makes progress."""

    def __init__(self, content: ContentStore, descriptor: Descriptor) -> None:
        self._content = content
        self._descriptor = descriptor
        self._offset = -1
        self._since = time.monotonic()

    def check(self) -> None:
        """Raise IngestLocked if it has written nothing for `stall_seconds`.

        Syncing a complete ingest to a slow disk may take ten times as long.
        """
        ref = ingest_ref(self._descriptor)
        offset = next((one.offset for one in self._content.ingests() if one.ref == ref), -1)
        now = time.monotonic()
        if offset != self._offset:
            self._offset, self._since = offset, now
        seconds = self._content.stall_seconds * (10 if offset == self._descriptor.size else 1)
        if now - self._since > seconds:
            raise IngestLocked(
                f"ref {ref} locked: another client of this containerd is writing it, but has written nothing "
                f"for {seconds:g} seconds",
                code="UNAVAILABLE",
                kind="ingest",
                name=ref,
                hint="find that client (pyctrd, ctr, nerdctl or a kubelet, perhaps stopped) and end it, then "
                "try again; the download resumes",
            )


def _wrong_bytes(
    descriptor: Descriptor, fetcher: Fetcher | None, failure: FailedPrecondition
) -> RegistryContentError:
    source = f"{fetcher.host}/{fetcher.repository}" if fetcher else "the manifest's inline data"
    hint = "the registry, or a proxy in front of it, serves wrong content; nothing of it was kept"
    if descriptor.digest.algorithm != "sha256" and "digest sha256:" in failure.message:
        hint = "this containerd only supports sha256: rebuild the image with sha256 digests"
    return RegistryContentError(
        f"{failure.message}: wrong content for {descriptor.digest} from {source}",
        host=fetcher.host if fetcher else "",
        repository=fetcher.repository if fetcher else "",
        hint=hint,
    )


def from_first(fetchers: Iterable[Fetcher], descriptor: Descriptor, fetch: Callable[[Fetcher], _T]) -> _T:
    """Return what `fetch` returns for the first repository that it does not raise a RegistryError for.

    Raises the first RegistryError if all repositories fail, that of an archive only if there is no other;
    NotFound if there is none.
    """
    failure: RegistryError | None = None
    for fetcher in fetchers:
        try:
            return fetch(fetcher)
        except RegistryError as error:
            failure = failure if failure is not None and failure.host else error
    raise failure or NotFound(
        f"content {descriptor.digest}: not found",
        kind="content",
        name=str(descriptor.digest),
        hint="no repository is known to have it: pull the image by its full name",
    )


def is_present(content: ContentStore, descriptor: Descriptor) -> bool:
    """Whether the store has a blob."""
    try:
        content.info(descriptor.digest)
    except NotFound:
        return False
    return True


def host_name(domain: str) -> str:
    """Return the host of `host[:port]`; an IPv6 address without its brackets."""
    if domain.startswith("["):
        return domain[1:].partition("]")[0]
    return domain.partition(":")[0]


def source_labels(_digest: Digest, source: RepositoryName) -> Mapping[str, str]:
    """Return the source label of a blob from a repository: several are joined with commas, and sorted.

    As in containerd, the key has the host without its port, so two registries on one host share a label
    (containerd core/remotes/docker/handler.go AppendDistributionSourceLabel). An archive has no host, so no
    label.
    """
    return (
        {f"{mediatypes.DISTRIBUTION_SOURCE}{host_name(source.host)}": source.repository}
        if source.host
        else {}
    )


def add_source_label(content: ContentStore, digest: Digest, source: RepositoryName) -> None:
    """Add a repository to the source label of a blob."""
    more = source_labels(digest, source)
    if more:
        add_labels(content, content.info(digest), more)


def labels_of(origin: ContentStore) -> SourceLabels:
    """Return the source labels that another store has of a blob, for each blob."""

    def labels(digest: Digest, _source: RepositoryName) -> Mapping[str, str]:
        found = origin.info(digest).labels
        return {key: value for key, value in found.items() if key.startswith(mediatypes.DISTRIBUTION_SOURCE)}

    return labels


def add_labels(content: ContentStore, blob: ContentInfo, more: Mapping[str, str]) -> None:
    """Add repositories to the source labels of a blob, unless they become too long."""
    changed = {}
    for key, added in more.items():
        repositories = {name for name in f"{blob.labels.get(key, '')},{added}".split(",") if name}
        changed[key] = ",".join(sorted(repositories))
    changed = {key: value for key, value in _short(changed).items() if value != blob.labels.get(key, "")}
    if changed:
        content.set_labels(blob.digest, changed)


def _short(labels: Mapping[str, str]) -> dict[str, str]:
    """Leave out labels that containerd would refuse."""
    return {key: value for key, value in labels.items() if len(key) + len(value) <= MAX_LABEL_BYTES}
