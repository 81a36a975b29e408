"""The library's front door: one containerd, one namespace, and the registries that images come from."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Literal, Self

import msgspec

from pyctrd import ensure as _ensure
from pyctrd import lookup, platforms, reference
from pyctrd import pull as _pull
from pyctrd import save as _save
from pyctrd.archive.contents import IndexMode
from pyctrd.archive.output import open_output
from pyctrd.daemon import Daemon
from pyctrd.daemon.version import DaemonVersion
from pyctrd.ensure import EnsureResult
from pyctrd.errors import DaemonError
from pyctrd.model import ContentInfo, Descriptor, ImageRecord, Platform
from pyctrd.platforms import Matcher, Selection
from pyctrd.ports import Fetcher, ProgressSink, Remote, no_progress
from pyctrd.pull import PullOptions, PullResult
from pyctrd.reference import Reference
from pyctrd.save import EnsureMode, SaveOptions, SavePlan, SaveResult

if TYPE_CHECKING:
    from pyctrd.diagnose import Diagnosis
    from pyctrd.registry import RegistryClient, RegistryOptions


class EnsurePlan(msgspec.Struct, frozen=True, kw_only=True):
    """What an ensure would fetch, and the bytes of it in sum."""

    image: ImageRecord
    fetch: tuple[Descriptor, ...]
    bytes: int


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
        self._registry_options = registry
        self._registries: dict[str, RegistryClient] = {}
        self._lock = threading.Lock()
        self._open = ExitStack()
        self._daemon = self._open.enter_context(
            Daemon.connect(address, namespace, snapshotter=snapshotter, environ=self._environ)
        )

    def __enter__(self) -> Self:
        """Give the client itself: it is open already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections."""
        self.close()

    def close(self) -> None:
        """Close all connections; a second time does nothing."""
        self._open.close()

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

    def image(self, ref: str) -> ImageRecord:
        """Find an image by its exact name, a reference, or the beginning of its digest.

        Raises NotFound (`image "...": not found`), AmbiguousReference, InvalidReference.
        """
        return lookup.find(self._daemon.images, ref)

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
        threads. Raises NotFound when the registry does not know the image, NoMatchingPlatform,
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
            self._remote(parsed, parsed.domain),
            str(parsed),
            options,
            host=_host(),
            progress=progress,
        )

    def diagnose(self, ref: str, platforms: Sequence[str] = ()) -> Diagnosis:
        """Find out what of an image is here, what each tool would do with it, and why something is missing.

        Never touches the network, and changes nothing. Raises NotFound, AmbiguousReference,
        InvalidReference, InvalidPlatform, and ContentError for a document that is not what it ought to be.
        """
        from pyctrd.diagnose import diagnose

        selection = _select(platforms)
        image = self.image(ref)
        with ExitStack() as stack:
            return diagnose(
                self._daemon,
                image,
                selection,
                host=_host(),
                snapshotter=self._snapshotter,
                others=list(self._other_namespaces(stack)),
                transfer=self._daemon.introspection.has_transfer(),
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
        says whether an image's index is kept as it is, pruned to what the archive holds, or flattened away.
        `reproducible` leaves out what depends on this host. Raises NotFound, AmbiguousReference,
        NoMatchingPlatform, IncompleteContent, RegistryError, ContentError, ArchiveError, InvalidInput.
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

    # --- wiring

    def _images(self, refs: Sequence[str]) -> list[ImageRecord]:
        return lookup.find_all(self._daemon.images, refs)

    def _targets(self, image: ImageRecord, selection: Selection) -> Matcher:
        local = _ensure.local_platforms(self._daemon, image) if selection.local else None
        return selection.matcher(_host(), local=local)

    def _remote(self, wanted: Reference, account: str) -> Remote:
        """Give a repository; an explicit user name and password go to the host `account` alone.

        Labels in the store may name further registries, and those must not see them.
        """
        options = self._registry_options
        key = account if options and options.username else ""
        with self._lock:
            if key not in self._registries:
                from pyctrd.registry import RegistryClient, RegistryOptions

                chosen = replace(options or RegistryOptions(), account=key)
                client = RegistryClient(chosen, environ=self._environ)
                self._registries[key] = self._open.enter_context(client)
            return self._registries[key].remote(wanted)

    def _fetchers(self, image: ImageRecord) -> list[Fetcher]:
        sources = _ensure.sources(self._daemon, image)
        return [_Repository(partial(self._remote, source, sources[0].domain), source) for source in sources]

    def _other_namespaces(self, stack: ExitStack) -> Iterator[Daemon]:
        """Open the other namespaces; one that we may not look into tells nothing, and that is all."""
        for namespace in self._daemon.namespaces.list():
            if namespace.name != self.namespace:
                try:
                    yield stack.enter_context(
                        Daemon.connect(self.address, namespace.name, environ=self._environ)
                    )
                except DaemonError:
                    continue


class _Repository:
    """A repository that is contacted, and its registry configured, only when something is fetched from it.

    A broken registry configuration must not matter to an image that is complete.
    """

    def __init__(self, connect: Callable[[], Remote], source: Reference) -> None:
        self._connect = connect
        self._source = source

    @property
    def host(self) -> str:
        return self._source.domain

    @property
    def repository(self) -> str:
        return self._source.repository

    def fetch(self, descriptor: Descriptor, offset: int = 0) -> AbstractContextManager[Iterator[bytes]]:
        return self._connect().fetch(descriptor, offset)


def _select(values: Sequence[str], all_platforms: bool = False) -> Selection:
    return platforms.select(values, all_platforms)


def _wanted(selection: Selection) -> Sequence[Platform]:
    """List the platforms that an image must have, for the request to make sense."""
    return () if selection.all or selection.local else selection.platforms or (_host(),)


def _host() -> Platform:
    return platforms.host()


def _opened(output: str | os.PathLike[str] | BinaryIO | None) -> AbstractContextManager[BinaryIO]:
    if output is None or isinstance(output, str | os.PathLike):
        return open_output(output)
    return nullcontext(output)
