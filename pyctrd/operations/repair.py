"""Repair: replace a damaged blob by a good copy.

containerd returns "already exists" for a write of a blob that it has, even if that is damaged, and removes
its file only when no namespace has the blob any more and the garbage collector has run. So the good bytes are
first written to another ingest, then the damaged blob is deleted from all namespaces, then the ingest is
committed. If this is interrupted, the blob is either in the store or missing, and nothing else is lost.

Source: containerd core/metadata/content.go (Writer, Delete, garbageCollect), core/metadata/gc.go.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import takewhile
from typing import Final

from pyctrd.errors import AlreadyExists, NotFound, RegistryContentError
from pyctrd.oci.model import Descriptor, Digest
from pyctrd.ports import ContentStore, Fetcher, Ingest, Store
from pyctrd.progress import Progress, ProgressSink, no_progress
from pyctrd.steps.fetch import add_source_label, from_first

_REF: Final = "pyctrd-repair-"


def replace(
    store: Store,
    descriptor: Descriptor,
    fetchers: Sequence[Fetcher],
    *,
    others: Sequence[Store] = (),
    progress: ProgressSink = no_progress,
) -> None:
    """Fetch a blob by its digest and replace it in this namespace and in the others that have it.

    Labels are kept. Nothing is deleted before the good copy is in the store and checked. Raises NotFound if
    no repository is known, RegistryError, RegistryContentError, DaemonError.
    """
    ref = f"{_REF}{descriptor.digest}"
    store.content.abort(ref)  # the unchecked data of a repair that was killed
    with ExitStack() as stack:
        leased = stack.enter_context(store.lease("verify --repair"))
        sharing = [
            stack.enter_context(other.lease("verify --repair")) for other in _having(others, descriptor)
        ]
        ingest = stack.enter_context(
            leased.content.open_ingest(ref, digest=descriptor.digest, size=descriptor.size, expected=False)
        )
        try:
            fetcher = _fetch(descriptor, fetchers, ingest, progress)
        except BaseException:
            stack.callback(leased.content.abort, ref)
            raise
        labels = {view.namespace: _take_out(view, descriptor.digest) for view in (leased, *sharing)}
        leased.collect_garbage()
        with suppress(AlreadyExists):  # another client was faster, and its copy was checked as well
            ingest.commit()
        leased.content.set_labels(descriptor.digest, labels[leased.namespace])
        add_source_label(leased.content, descriptor.digest, fetcher)
        for view in sharing:
            _share(leased.content, view, descriptor, labels[view.namespace])


def _having(others: Sequence[Store], descriptor: Descriptor) -> list[Store]:
    return [other for other in others if _labels(other.content, descriptor.digest) is not None]


def _labels(content: ContentStore, digest: Digest) -> Mapping[str, str] | None:
    try:
        return content.info(digest).labels
    except NotFound:
        return None


def _fetch(
    descriptor: Descriptor, fetchers: Sequence[Fetcher], ingest: Ingest, progress: ProgressSink
) -> Fetcher:
    """Download into an ingest whose digest the store does not know yet, and check it here."""
    # What an earlier repository has written cannot be undone.
    untried = takewhile(lambda _fetcher: not ingest.offset, fetchers)
    return from_first(untried, descriptor, lambda fetcher: _copy(descriptor, fetcher, ingest, progress))


def _copy(descriptor: Descriptor, fetcher: Fetcher, ingest: Ingest, progress: ProgressSink) -> Fetcher:
    check = hashlib.new(descriptor.digest.algorithm)
    with fetcher.fetch(descriptor) as chunks:
        for chunk in chunks:
            check.update(chunk)
            ingest.write(chunk)
            progress(
                Progress(
                    action="downloading", descriptor=descriptor, offset=ingest.offset, total=descriptor.size
                )
            )
    if f"{descriptor.digest.algorithm}:{check.hexdigest()}" != descriptor.digest:
        raise RegistryContentError(
            f"wrong content for {descriptor.digest} from {fetcher.host}/{fetcher.repository}",
            host=fetcher.host,
            repository=fetcher.repository,
            hint="the registry does not have a good copy either; nothing was changed",
        )
    progress(
        Progress(action="downloaded", descriptor=descriptor, offset=descriptor.size, total=descriptor.size)
    )
    return fetcher


def _take_out(view: Store, digest: Digest) -> Mapping[str, str]:
    """Delete a blob from a namespace, and return its labels.

    Everything else is pinned: what the blob's labels protect, and unprotected content that the garbage
    collector has not removed yet.
    """
    labels = _labels(view.content, digest)
    if labels is None:
        return {}
    view.pin_everything()
    with suppress(NotFound):
        view.content.delete(digest)
    return labels


def _share(content: ContentStore, view: Store, descriptor: Descriptor, labels: Mapping[str, str]) -> None:
    """Add the good copy to another namespace; only if its content is isolated is it copied."""
    ref = f"{_REF}{descriptor.digest}"
    try:
        with view.content.open_ingest(ref, digest=descriptor.digest, size=descriptor.size) as ingest:
            with content.read(descriptor.digest, offset=ingest.offset) as chunks:
                for chunk in chunks:
                    ingest.write(bytes(chunk))
            ingest.commit()
    except AlreadyExists:
        pass
    view.content.set_labels(descriptor.digest, labels)
