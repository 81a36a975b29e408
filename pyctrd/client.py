"""The library's front door: one containerd, one namespace, and the registries that images come from."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, Literal, Self

from pyctrd.archive.contents import IndexMode
from pyctrd.archive.output import open_output
from pyctrd.containerd import STALL_SECONDS, Daemon
from pyctrd.containerd.namespaces import Namespace
from pyctrd.containerd.version import DaemonVersion
from pyctrd.errors import DaemonError, NotFound, Remedy
from pyctrd.oci import reference
from pyctrd.oci.model import ContentInfo, ImageRecord, Platform
from pyctrd.oci.platforms import Matcher, Selection
from pyctrd.oci.platforms import host as _host
from pyctrd.oci.platforms import select as _select
from pyctrd.oci.reference import Reference
from pyctrd.operations import ensure as _ensure
from pyctrd.operations import lookup
from pyctrd.operations import pull as _pull
from pyctrd.operations import save as _save
from pyctrd.operations.ensure import EnsurePlan, EnsureResult
from pyctrd.operations.pull import PullOptions, PullResult
from pyctrd.operations.save import EnsureMode, SaveOptions, SavePlan, SaveResult
from pyctrd.ports import Fetcher, ImageStore
from pyctrd.progress import ProgressSink, no_progress
from pyctrd.registries import LazyRepository, Registries

if TYPE_CHECKING:
    from pyctrd.operations.diagnose import Diagnosis
    from pyctrd.operations.images import ImageOverview
    from pyctrd.operations.verify import VerifyResult
    from pyctrd.registry import RegistryOptions
    from pyctrd.steps.upload import SendPlan, SendResult
    from pyctrd.steps.upload_plan import PushIndex


class Client:
    """A containerd and one of its namespaces. A context manager; safe to use from several threads.

    `address` is the socket's path or `unix://path`; what is None comes from CONTAINERD_ADDRESS,
    CONTAINERD_NAMESPACE and CONTAINERD_SNAPSHOTTER, else is containerd's own default
    (`/run/containerd/containerd.sock`, `default`, the server's snapshotter). `registry` says how to talk to
    registries: a connection to one is opened only when something has to be fetched.

    Platforms are given as on the command line: `linux/arm64`, `arm64,amd64`, `all`, or `local` for those
    that are complete in the store. No platform is the one of this host.

    Raises DaemonUnreachable, with the reason and the next step, InvalidInput for a malformed address or
    namespace. Every method raises DaemonError and DaemonUnreachable; what else, it says itself.
    """

    def __init__(
        self,
        address: str | None = None,
        namespace: str | None = None,
        *,
        snapshotter: str | None = None,
        registry: RegistryOptions | None = None,
    ) -> None:
        self._environ = dict(os.environ)
        self._snapshotter = snapshotter or self._environ.get("CONTAINERD_SNAPSHOTTER") or ""
        self._open = ExitStack()
        self._registries = Registries(registry, self._environ)
        self._daemon = self._open.enter_context(
            Daemon.connect(
                address,
                namespace,
                snapshotter=snapshotter,
                environ=self._environ,
                stall_seconds=registry.stall_timeout if registry else STALL_SECONDS,
            )
        )
        self._open.callback(self._registries.close)  # first, so that nobody waits for a registry

    def __enter__(self) -> Self:
        """Give the client itself: it is open already."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close all connections."""
        self.close()

    def close(self) -> None:
        """Close all connections; a second time does nothing.

        What is under way in other threads ends by ClientClosed, as does whatever is asked for afterwards.
        """
        self._open.close()

    def cancel(self) -> None:
        """End what is under way in all threads, by Cancelled: from here on only `close` is of use.

        What was begun is taken back before, for a few seconds at most, as after KeyboardInterrupt: so this
        returns late. It may be called from any thread, but not by a signal handler.
        """
        self._registries.cancel()
        self._daemon.cancel()

    # --- what is there

    @property
    def address(self) -> str:
        """The path of containerd's socket."""
        return self._daemon.address

    @property
    def namespace(self) -> str:
        """The namespace that everything here is about."""
        return self._daemon.namespace

    @property
    def version(self) -> DaemonVersion:
        """The version of the containerd that answers."""
        return self._daemon.version()

    def images(self) -> tuple[ImageRecord, ...]:
        """List the images of the namespace by name."""
        return tuple(sorted(self._daemon.images.list(), key=lambda image: image.name))

    def overview(self) -> tuple[ImageOverview, ...]:
        """List the images by name with the bytes and the complete platforms that are here of each.

        Reads every index and manifest that is here; no registry is asked.
        """
        from pyctrd.operations.images import overview

        return overview(self._daemon, self.images())

    def image(self, ref: str) -> ImageRecord:
        """Find an image by its exact name, a reference, or the beginning of its digest or of crictl's id.

        Raises NotFound (`image "...": not found`; its hint says which other namespace has it),
        AmbiguousReference, InvalidReference.
        """
        try:
            return lookup.find(self._daemon.images, ref)
        except NotFound as error:
            places = self.namespaces_with(ref, error.name)
            if places:
                error.hint = f"it is in the namespace {' and in '.join(places)}"
                error.remedy = Remedy(namespace=places[0])
            raise

    def namespaces(self) -> tuple[str, ...]:
        """List the namespaces of this containerd."""
        return tuple(sorted(item.name for item in self._daemon.namespaces.list()))

    def snapshotters(self) -> tuple[str, ...]:
        """List the snapshotters that this containerd has loaded."""
        return tuple(self._daemon.introspection.snapshotters())

    def namespaces_with(self, *names: str) -> tuple[str, ...]:
        """List the other namespaces that have an image of exactly one of these names; without names, any."""
        return tuple(other.namespace for other in self._other_namespaces() if _has(other.images, names))

    def contents(self) -> tuple[ContentInfo, ...]:
        """List the blobs of the namespace by digest."""
        return tuple(sorted(self._daemon.content.list(), key=lambda info: info.digest))

    # --- what can be done

    def pull(
        self,
        ref: str,
        *,
        platforms: Sequence[str] = (),
        all_platforms: bool = False,
        metadata: Literal["all", "selected"] = "all",
        metadata_only: bool = False,
        unpack: bool | None = None,
        max_concurrent_downloads: int = 3,
        labels: Mapping[str, str] | None = None,
        progress: ProgressSink = no_progress,
    ) -> PullResult:
        """Pull an image as `ctr images pull` does, and make sure that all of it has arrived.

        `metadata` "all" stores the manifests and configs of every platform, "selected" those of the chosen
        platforms only; `metadata_only` leaves out the layers. `unpack` None unpacks into the snapshotter
        unless all platforms are pulled. `labels` go onto the image. `progress` is called from several
        threads. What has come is kept for a day when KeyboardInterrupt or SystemExit ends it, and the next
        pull goes on there. Raises NotFound when the registry does not know the image, NoMatchingPlatform,
        RegistryError, ContentError, InvalidReference, InvalidPlatform.
        """
        options = PullOptions(
            platforms=_select(platforms, all_platforms),
            metadata=metadata,
            metadata_only=metadata_only,
            unpack=unpack,
            snapshotter=self._snapshotter,
            max_concurrent_downloads=max_concurrent_downloads,
            labels=dict(labels or {}),
        )
        parsed = reference.parse(ref)
        return _pull.pull(
            self._daemon,
            self._registries.remote(parsed, parsed.domain),
            str(parsed),
            options,
            host=_host(),
            progress=progress,
        )

    def diagnose(self, ref: str, platforms: Sequence[str] = (), all_platforms: bool = False) -> Diagnosis:
        """Find out what of an image is here, what each tool would do with it, and why something is missing.

        Never touches the network, and changes nothing. Raises NotFound, AmbiguousReference,
        InvalidReference, InvalidPlatform, and ContentError for a document that is not what it ought to be.
        """
        from pyctrd.operations.diagnose import diagnose

        selection = _select(platforms, all_platforms)
        image = self.image(ref)
        return diagnose(
            self._daemon,
            image,
            selection,
            host=_host(),
            snapshotter=self._snapshotter,
            others=self._sharing_namespaces(),
            transfer=self._daemon.introspection.has_transfer(),
            version=self.version.version,
        )

    def ensure(
        self,
        ref: str,
        platforms: Sequence[str] = (),
        all_platforms: bool = False,
        *,
        max_concurrent_downloads: int = 3,
        progress: ProgressSink = no_progress,
    ) -> EnsureResult:
        """Fetch what an image lacks for its target platforms, by digest; the image itself stays as it is.

        Where nothing is missing no registry is asked. Raises NotFound, AmbiguousReference,
        NoMatchingPlatform, RegistryError, ContentError, InvalidReference, InvalidPlatform.
        """
        selection = _select(platforms, all_platforms)
        image = self.image(ref)
        return _ensure.ensure(
            self._daemon,
            image,
            self._targets(image, selection),
            self._fetchers(image),
            wanted=_wanted(selection),
            max_concurrent_downloads=max_concurrent_downloads,
            progress=progress,
        )

    def plan_ensure(self, ref: str, platforms: Sequence[str] = (), all_platforms: bool = False) -> EnsurePlan:
        """Tell what `ensure` would fetch, and change nothing; raises what `ensure` raises.

        A registry is asked only where a manifest is missing, since only that tells what else is.
        """
        selection = _select(platforms, all_platforms)
        image = self.image(ref)
        fetch = _ensure.plan(
            self._daemon,
            image,
            self._targets(image, selection),
            wanted=_wanted(selection),
            fetchers=self._fetchers(image),
        )
        return EnsurePlan(image=image, fetch=fetch, bytes=sum(item.size for item in fetch))

    def save(
        self,
        refs: Sequence[str],
        output: str | os.PathLike[str] | BinaryIO | None,
        *,
        platforms: Sequence[str] = (),
        all_platforms: bool = False,
        ensure: EnsureMode = "target",
        index: IndexMode = "keep",
        reproducible: bool = False,
        max_concurrent_downloads: int = 3,
        progress: ProgressSink = no_progress,
    ) -> SaveResult:
        """Write images to one archive, after fetching what they lack for the target platforms.

        `output` is a path, which gets the archive whole or not at all, a binary stream, or None for stdout.
        `ensure` "none" never opens a connection; "all" fetches what nerdctl 2.0.0 - 2.0.3 would. `index`
        says whether an image's index is kept as it is, pruned to what the archive holds, or ("flatten") left
        out for its one image. `reproducible` leaves out what depends on this host. Raises NotFound,
        AmbiguousReference, NoMatchingPlatform, IncompleteContent, RegistryError, ContentError, ArchiveError,
        InvalidInput.
        """
        options = SaveOptions(
            platforms=_select(platforms, all_platforms),
            ensure=ensure,
            index=index,
            reproducible=reproducible,
            max_concurrent_downloads=max_concurrent_downloads,
        )
        with _opened(output) as stream:
            return _save.save(
                self._daemon,
                self._images(refs),
                options,
                stream,
                host=_host(),
                fetchers=self._fetchers,
                progress=progress,
            )

    def plan_save(
        self,
        refs: Sequence[str],
        *,
        platforms: Sequence[str] = (),
        all_platforms: bool = False,
        ensure: EnsureMode = "target",
        index: IndexMode = "keep",
        reproducible: bool = False,
    ) -> SavePlan:
        """Tell what `save` would fetch and write, and change nothing; raises what `save` raises.

        A registry is asked only where a manifest is missing, since only that tells what else is.
        """
        options = SaveOptions(
            platforms=_select(platforms, all_platforms), ensure=ensure, index=index, reproducible=reproducible
        )
        return _save.plan(self._daemon, self._images(refs), options, host=_host(), fetchers=self._fetchers)

    def verify(
        self,
        refs: Sequence[str] = (),
        platforms: Sequence[str] = (),
        all_platforms: bool = False,
        *,
        repair: bool = False,
        progress: ProgressSink = no_progress,
    ) -> VerifyResult:
        """Hash what is here of images, or without `refs` everything in the namespace, and tell what is wrong.

        `repair` fetches good copies by digest and puts them in place, in every namespace that shares them.
        Raises NotFound, AmbiguousReference, InvalidReference, InvalidPlatform.
        """
        from pyctrd.operations.verify import Repair, verify

        selection = _select(platforms, all_platforms)
        return verify(
            self._daemon,
            self._images(refs) if refs else self.images(),
            lambda image: self._targets(image, selection),
            orphans=not refs,
            mending=Repair(fetchers=self._fetchers, others=self._other_namespaces()) if repair else None,
            progress=progress,
        )

    def push(
        self,
        ref: str,
        target: str | None = None,
        *,
        platforms: Sequence[str] = (),
        all_platforms: bool = False,
        index: PushIndex = "prune",
        nondistributable: bool = False,
        max_concurrent_uploads: int = 3,
        chunk_bytes: int | None = None,
        progress: ProgressSink = no_progress,
    ) -> SendResult:
        """Push an image to the registry that its name, or `target`, is in; the tag comes last.

        Everything that the image lists is pushed unless platforms are chosen: then its index is pruned to
        them, or, with "flatten", one manifest takes its place. Attestations of which not all is here are left
        out unless `all_platforms`, or a digest in `target`, asks for them. Blobs above `chunk_bytes` go up in
        pieces (None: 32 MiB, 0: never). Raises NotFound, AmbiguousReference, IncompleteContent before
        anything is sent, NoMatchingPlatform, RegistryError, ContentError, InvalidInput.
        """
        from pyctrd.operations.push import push
        from pyctrd.steps.upload import send_options

        options = send_options(platforms, all_platforms, index, nondistributable, max_concurrent_uploads)
        image, name = self._named(ref, target)
        uploader = self._registries.uploader(name, name.domain, chunk_bytes)
        return push(self._daemon, image, uploader, name, options, host=_host(), progress=progress)

    def plan_push(
        self,
        ref: str,
        target: str | None = None,
        *,
        platforms: Sequence[str] = (),
        all_platforms: bool = False,
        index: PushIndex = "prune",
        nondistributable: bool = False,
    ) -> SendPlan:
        """Tell what `push` would send, by asking the registry what it has; raises what `push` raises."""
        from pyctrd.operations.push import plan
        from pyctrd.steps.upload import send_options

        options = send_options(platforms, all_platforms, index, nondistributable)
        image, name = self._named(ref, target)
        uploader = self._registries.uploader(name, name.domain)
        return plan(self._daemon, image, uploader, name, options, host=_host())

    # --- wiring

    def _named(self, ref: str, target: str | None) -> tuple[ImageRecord, Reference]:
        """Find an image, and say where it goes: to `target`, else to where its name says."""
        name = reference.parse(target) if target else None
        image = self.image(ref)
        return image, name or reference.parse(image.name)

    def _images(self, refs: Sequence[str]) -> list[ImageRecord]:
        return [self.image(ref) for ref in refs]

    def _targets(self, image: ImageRecord, selection: Selection) -> Matcher:
        local = _ensure.local_platforms(self._daemon, image) if selection.local else None
        return selection.matcher(_host(), local=local)

    def _fetchers(self, image: ImageRecord) -> list[Fetcher]:
        sources = _ensure.sources(self._daemon, image)
        return [
            LazyRepository(partial(self._registries.remote, source, sources[0].domain), source)
            for source in sources
        ]

    def _sharing_namespaces(self) -> list[Daemon]:
        """List the other namespaces whose content this one can take over without a download."""
        introspection = self._daemon.introspection
        if introspection.shares_content():
            return self._other_namespaces()
        if not introspection.has_transfer():  # containerd 1.6, which shares nothing then
            return []
        return self._other_namespaces(lambda namespace: namespace.is_shareable)

    def _other_namespaces(
        self, wanted: Callable[[Namespace], bool] = lambda _namespace: True
    ) -> list[Daemon]:
        return [
            self._daemon.elsewhere(namespace.name)
            for namespace in self._daemon.namespaces.list()
            if namespace.name != self.namespace and wanted(namespace)
        ]


def _wanted(selection: Selection) -> Sequence[Platform]:
    """List the platforms that an image must have, for the request to make sense."""
    return () if selection.all or selection.local else selection.platforms or (_host(),)


def _has(images: ImageStore, names: Sequence[str]) -> bool:
    try:
        return bool(images.list([f"name=={json.dumps(name, ensure_ascii=False)}" for name in names]))
    except DaemonError:
        return False  # nobody can tell


def _opened(output: str | os.PathLike[str] | BinaryIO | None) -> AbstractContextManager[BinaryIO]:
    if output is None or isinstance(output, str | os.PathLike):
        return open_output(output)
    return nullcontext(output)
