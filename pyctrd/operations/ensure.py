"""Ensure: fetch the missing content of an image, by digest.

The image record is not changed. It does not matter if the tag has moved in the registry, since every blob is
requested by the digest in the local documents (nerdctl requests the tag, and may replace the image).
"""

from __future__ import annotations

from pyctrd.oci import graph
from pyctrd.oci.model import ImageRecord
from pyctrd.oci.platforms import Targets
from pyctrd.ports import Fetchers, Store
from pyctrd.progress import ProgressSink, no_progress
from pyctrd.steps.fetch import Downloader, source_labels
from pyctrd.steps.gc_labels import GcLabels
from pyctrd.steps.local import LocalImage
from pyctrd.steps.pool import DownloadPool, DownloadResult
from pyctrd.steps.targets import PlatformCheck


class EnsureResult(DownloadResult, frozen=True, kw_only=True):
    """What was downloaded, or with `dry_run` what would be.

    `resumed` maps the blobs of an interrupted download to the number of bytes that it had already stored.
    """

    dry_run: bool = False


def ensure(
    store: Store,
    image: ImageRecord,
    targets: Targets,
    fetchers: Fetchers,
    *,
    narrow: graph.Narrow | None = None,
    dry_run: bool = False,
    concurrency: int | None = None,
    progress: ProgressSink = no_progress,
) -> EnsureResult:
    """Fetch the missing content of the target platforms into the store, under a lease, with gc labels.

    If nothing is missing, nothing is written and `fetchers` is not called. `dry_run` changes nothing, and
    asks a registry only if a manifest is missing, since only the manifest says what else is missing. `narrow`
    is used to leave out content instead of the targets' matcher. Raises NoMatchingPlatform, IncompleteContent
    if another client deletes content in the meantime, LeaseLost, RegistryError, ContentError, DaemonError.
    """
    missing = LocalImage(store, image.target).missing(targets, narrow)
    if dry_run:
        if any(map(graph.has_children, missing)):
            missing = LocalImage(store, image.target, fetchers(image)).missing(targets, narrow)
        size = sum(item.size for item in missing)
        return EnsureResult(image=image, fetched=missing, bytes_fetched=size, dry_run=True)
    if not missing:
        return EnsureResult(image=image, fetched=(), bytes_fetched=0)
    required = PlatformCheck(image.target, targets.required)
    with store.lease("ensure", resumable=True) as leased:
        gc_labels = GcLabels(leased.content, progress)
        downloader = Downloader(
            leased.content,
            fetchers(image),
            claim_present=False,
            labels=source_labels,
            progress=progress,
        )
        with DownloadPool(
            downloader.fetch, downloader.stop, max_concurrent=concurrency, progress=progress
        ) as downloads:
            # Labelling existing parents restores lost labels, which have to protect what is fetched now.
            step = graph.labelled(LocalImage(leased, image.target).children, gc_labels.set_labels)
            step = required.watch(step)
            step = narrow(step) if narrow else graph.only_platforms(step, targets.matcher)
            for generation in graph.generations(image.target, step):
                required.before(generation)
                downloads.submit(generation)
                downloads.join()
            required.check()
            gc_labels.check(downloads.wanted)
            fetched, resumed = downloads.downloaded(), downloads.resumed()
    return EnsureResult(
        image=image, fetched=tuple(fetched), bytes_fetched=sum(fetched.values()), resumed=resumed
    )
