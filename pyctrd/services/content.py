"""ContentStore: the content store of one namespace, as `client.content`."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

from pyctrd import arguments
from pyctrd.archive.output import open_output
from pyctrd.archive.sink import Sink
from pyctrd.connection import Working
from pyctrd.errors import InvalidInput
from pyctrd.images import Images
from pyctrd.oci.model import ContentInfo, Digest
from pyctrd.oci.platforms import Platforms
from pyctrd.operations import content as _content
from pyctrd.operations import ingests as _ingests
from pyctrd.operations.content import blob_prefix, find_blob
from pyctrd.operations.ingests import AbortResult, Ingest
from pyctrd.operations.pull import PullResult
from pyctrd.ports import Chunk
from pyctrd.progress import ProgressSink, no_progress

if TYPE_CHECKING:
    import threading

_MAX_READ_BYTES = 64 << 20


class ContentStore:
    """The content store of one namespace, as `client.content`.

    `digest` is a digest, or a prefix of one if only one blob begins with it; without an algorithm, sha256 is
    meant. Methods that take one may raise NotFound (`content digest ...: not found`), AmbiguousReference and
    InvalidReference.
    """

    def __init__(self, working: Working, images: Images) -> None:
        self._working = working
        self._images = images

    def list(self, filters: str | Iterable[str] = ()) -> tuple[ContentInfo, ...]:
        """Return the blobs that match any of the filters, or all of them, sorted by digest.

        Filters have containerd's syntax, e.g. `digest~=^sha256:4a` or `labels."containerd.io/uncompressed"`.
        """
        wanted = arguments.texts("filters", filters)
        with self._working() as (daemon, _):
            return tuple(sorted(daemon.content.list(wanted), key=lambda info: info.digest))

    def find(self, digest: str) -> Digest:
        """Return the full digest for a prefix of it; a full one is returned as it is."""
        wanted = blob_prefix(arguments.text("digest", digest))
        with self._working() as (daemon, _):
            return find_blob(daemon.content, wanted)

    def get(self, digest: str) -> ContentInfo:
        """Return the size and labels of a blob."""
        wanted = blob_prefix(arguments.text("digest", digest))
        with self._working() as (daemon, _):
            return daemon.content.info(find_blob(daemon.content, wanted))

    def read(self, digest: str, *, limit: int = _MAX_READ_BYTES) -> bytes:
        """Return a blob's bytes. Raises ContentError for a blob larger than `limit` bytes.

        Raises DigestMismatch if the bytes no longer match the digest.
        """
        wanted = blob_prefix(arguments.text("digest", digest))
        with self._working() as (daemon, _):
            return daemon.content.read_all(find_blob(daemon.content, wanted), limit=limit)

    def open(self, digest: str, *, offset: int = 0) -> AbstractContextManager[Iterator[Chunk]]:
        """Open a blob at an offset; the context manager returns its bytes in chunks of at most 1 MiB.

        The bytes are not checked against the digest. Raises NotFound on entering the context or at the first
        chunk.
        """
        wanted = blob_prefix(arguments.text("digest", digest))
        arguments.count("offset", offset, least=0)
        with self._working() as (daemon, _):
            return daemon.content.read(find_blob(daemon.content, wanted), offset=offset)

    def is_document(self, digest: str) -> bool:
        """Whether a blob begins like a JSON document: an index, a manifest, a config, an attestation."""
        wanted = blob_prefix(arguments.text("digest", digest))
        with self._working() as (daemon, _):
            return _content.is_document(daemon.content, find_blob(daemon.content, wanted))

    def document(self, digest: str, *, indent: bool = True) -> str:
        """Return the text of a JSON document, indented, or with `indent` false as it is stored.

        Raises ContentError for anything else, DigestMismatch.
        """
        wanted = blob_prefix(arguments.text("digest", digest))
        with self._working() as (daemon, _):
            return _content.document(daemon.content, find_blob(daemon.content, wanted), indent=indent)

    def save(
        self,
        digest: str,
        output: str | os.PathLike[str] | IO[bytes],
        *,
        offset: int = 0,
        length: int | None = None,
        cancel: threading.Event | None = None,
    ) -> int:
        """Write a blob, or `length` bytes from `offset` on, to a file or a stream; return how many bytes.

        `output` is a path, which appears only when it is complete, `-` for stdout, or a binary stream. The
        bytes of a whole blob are checked against its digest. Raises DigestMismatch, ArchiveError,
        InvalidInput for an offset after the end, for a directory and for a terminal.
        """
        wanted = blob_prefix(arguments.text("digest", digest))
        arguments.count("offset", offset, least=0)
        if length is not None:
            arguments.count("length", length, least=0)
        with self._working(cancel) as (daemon, _):
            found = find_blob(daemon.content, wanted)
            daemon.content.info(found)  # raises NotFound before the output is opened
            with _opened(output) as stream:
                sink = Sink(stream, None, daemon.check_open, what="the blob")
                chunks = _content.chunks_of(daemon.content, found, offset=offset, length=length)
                written = _content.copied(chunks, sink.write, daemon)
                sink.flush()
                return written

    def label(self, digest: str, labels: Mapping[str, str], *, force: bool = False) -> ContentInfo:
        """Set labels of a blob, and return it; an empty value removes a label.

        Raises InvalidInput for labels of the garbage collector (`containerd.io/gc.*`) without `force`.
        """
        wanted = blob_prefix(arguments.text("digest", digest))
        made = arguments.labels("labels", labels)
        with self._working() as (daemon, _):
            return _content.label(daemon.content, find_blob(daemon.content, wanted), made, force=force)

    def remove(self, digests: str | Iterable[str], *, force: bool = False) -> tuple[ContentInfo, ...]:
        """Delete blobs, and return them.

        Without `force`, nothing is deleted if an image, a lease or a label protects one of them from the
        garbage collector. Raises InUse.
        """
        wanted = [blob_prefix(text) for text in arguments.texts("digests", digests)]
        with self._working() as (daemon, _):
            return _content.remove(daemon, wanted, force=force, now=dt.datetime.now(dt.UTC))

    def ingests(self) -> tuple[Ingest, ...]:
        """Return the unfinished writes, sorted by ref, with the leases that keep them."""
        with self._working() as (daemon, _):
            return _ingests.ingests(daemon)

    def abort(
        self,
        refs: str | Iterable[str] = (),
        *,
        older_than: dt.timedelta | None = None,
        everything: bool = False,
        force: bool = False,
    ) -> AbortResult:
        """Discard unfinished writes: those with these refs, those not written to for so long, or all.

        A write that a client has open right now is left alone without `force`. Raises NotFound for an unknown
        ref; IngestLocked if one of `refs` is open, after the others were aborted; InvalidInput unless exactly
        one way to choose is used.
        """
        wanted = arguments.texts("refs", refs)
        with self._working() as (daemon, _):
            return _ingests.abort(
                daemon,
                wanted,
                older_than=older_than,
                everything=everything,
                force=force,
                now=dt.datetime.now(dt.UTC),
            )

    def fetch(
        self,
        ref: str,
        *,
        platforms: Platforms | None = None,
        metadata: Literal["all", "selected"] = "all",
        metadata_only: bool = False,
        labels: Mapping[str, str] | None = None,
        concurrency: int = 3,
        progress: ProgressSink = no_progress,
        cancel: threading.Event | None = None,
    ) -> PullResult:
        """Fetch an image's content and record the image, without unpacking it, as `ctr content fetch` does.

        The arguments and errors are those of `client.images.pull`.
        """
        return self._images.pull(
            ref,
            platforms=platforms,
            metadata=metadata,
            metadata_only=metadata_only,
            unpack=False,
            labels=labels,
            concurrency=concurrency,
            progress=progress,
            cancel=cancel,
        )


def _opened(output: str | os.PathLike[str] | IO[bytes]) -> AbstractContextManager[IO[bytes]]:
    if isinstance(output, str | os.PathLike):
        if Path(output).is_dir():
            raise InvalidInput(f"{os.fspath(output)}: is a directory", hint="pass a file as `output`")
        return open_output(output)
    if not hasattr(output, "write"):
        raise InvalidInput(f"output={output!r}: must be a path or a binary stream")
    return nullcontext(output)
