"""Copy an image from one registry to another, or within one, without storing it.

Manifests are read into memory and checked against their digests; blobs are streamed. Nothing is uploaded
before all documents of the image have been read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Final

from pyctrd.errors import PyctrdError, RegistryContentError
from pyctrd.oci import graph
from pyctrd.oci.model import Descriptor, Digest
from pyctrd.oci.reference import Reference
from pyctrd.ports import Chunk, Remote, Uploader
from pyctrd.progress import Progress, ProgressSink, no_progress
from pyctrd.steps import upload_plan
from pyctrd.steps.targets import PlatformCheck
from pyctrd.steps.upload import SendOptions, SendResult, Upload

# The total size of the documents of an image, which are in memory at once; real images have much less.
MAX_DOCUMENTS_BYTES: Final = 64 << 20


def copy(
    source: Remote,
    source_name: str,
    target: Uploader,
    name: Reference,
    options: SendOptions,
    *,
    dry_run: bool = False,
    progress: ProgressSink = no_progress,
) -> SendResult:
    """Copy what `source` points at to the repository in `name`, and tag it there.

    `dry_run` reads the manifests, asks the target what it has, and uploads nothing. Raises RegistryNotFound
    if the source does not know the reference, NoMatchingPlatform, InvalidInput, RegistryError,
    RegistryContentError.
    """
    root = source.resolve()
    if not graph.has_children(root):
        raise RegistryContentError(
            f"{source_name} is {root.media_type}: neither a manifest nor an index",
            host=source.host,
            repository=source.repository,
        )
    progress(Progress(action="resolved", descriptor=root, total=root.size, detail=source_name))
    read = _Documents(source).read
    targets = options.platforms.resolve()
    required = PlatformCheck(root, targets.required)
    step = upload_plan.chosen(required.watch(graph.read_children(read)), targets.matcher)
    for _descriptor in graph.preorder(root, step):
        pass  # reads every document
    required.check()
    mountable = source.repository if source.host == target.host else ""
    upload = Upload(
        plan=upload_plan.pack(
            root, read, step, index=options.index, nondistributable=options.nondistributable
        ),
        source=source_name,
        target=target,
        name=name,
        blob=partial(_RemoteBlob, source),
        mount_from=lambda _blob: mountable if mountable != target.repository else "",
        max_concurrent=options.concurrency,
        progress=progress,
    )
    return upload.run(dry_run=dry_run)


class _Documents:
    """Reads manifests and indexes of a repository, each once."""

    def __init__(self, source: Remote) -> None:
        self._source = source
        self._read: dict[Digest, bytes] = {}
        self._bytes = 0

    def read(self, descriptor: Descriptor) -> bytes:
        if descriptor.digest not in self._read:
            self._bytes += descriptor.size
            if self._bytes > MAX_DOCUMENTS_BYTES:
                raise self._wrong(f"the manifests have more than {MAX_DOCUMENTS_BYTES} bytes in total")
            with self._source.fetch(descriptor) as chunks:
                raw = b"".join(chunks)
            if Digest.of(raw, descriptor.digest.algorithm) != descriptor.digest:
                raise self._wrong(f"wrong content for {descriptor.digest}")
            self._read[descriptor.digest] = raw
        return self._read[descriptor.digest]

    def _wrong(self, text: str) -> RegistryContentError:
        return RegistryContentError(
            f"{self._source.host}/{self._source.repository}: {text}",
            host=self._source.host,
            repository=self._source.repository,
        )


class _RemoteBlob:
    """A blob in another repository. Implements ports.BlobSource."""

    def __init__(self, source: Remote, descriptor: Descriptor) -> None:
        self._source = source
        self._descriptor = descriptor

    def open(self, offset: int) -> AbstractContextManager[Iterator[Chunk]]:
        data = self._descriptor.data
        if data and len(data) == self._descriptor.size:
            return nullcontext(iter([data[offset:]]))
        return self._source.fetch(self._descriptor, offset)

    def wrong(self, text: str) -> PyctrdError:
        return RegistryContentError(
            f"{self._source.host}/{self._source.repository}: {text}",
            host=self._source.host,
            repository=self._source.repository,
            hint="the registry, or a proxy in front of it, serves wrong content; nothing of it was kept",
        )
