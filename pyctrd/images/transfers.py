"""What moves content: pull, unpack, ensure, save, load, push and sync."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import IO, TYPE_CHECKING, Literal, get_args

import msgspec

from pyctrd import arguments, namespaces
from pyctrd.errors import InvalidInput
from pyctrd.images.part import Part, fetchers, referrer_sources
from pyctrd.oci import reference
from pyctrd.oci.platforms import Platforms, select
from pyctrd.progress import ProgressSink, no_progress, one_at_a_time

if TYPE_CHECKING:
    import threading

    from pyctrd.archive.compress import Compression
    from pyctrd.archive.contents import IndexMode
    from pyctrd.archive.folder import Folder
    from pyctrd.archive.inventory import InventorySource
    from pyctrd.archive.reader import Source
    from pyctrd.operations.ensure import EnsureResult
    from pyctrd.operations.ensure_all import EnsureAllResult
    from pyctrd.operations.load import LoadOnMissing, LoadResult
    from pyctrd.operations.pull import PullResult
    from pyctrd.operations.save import ArchiveFormat, AttestationMode, EnsureMode, OnMissing, SaveResult
    from pyctrd.operations.sync import SyncResult
    from pyctrd.operations.unpack import UnpackResult
    from pyctrd.steps.upload import SendResult
    from pyctrd.steps.upload_plan import PushIndex

Metadata = Literal["all", "selected"]


class Transfers(Part):
    """The methods of Images that move content."""

    def pull(
        self,
        ref: str,
        *,
        platforms: Platforms | None = None,
        metadata: Metadata = "all",
        metadata_only: bool = False,
        unpack: bool | None = None,
        labels: Mapping[str, str] | None = None,
        ttl: dt.timedelta | None = None,
        concurrency: int | None = None,
        progress: ProgressSink = no_progress,
        cancel: threading.Event | None = None,
    ) -> PullResult:
        """Pull an image as `ctr images pull` does, and check that all of it has arrived.

        `metadata` "all" stores the manifests and configs of every platform, "selected" only those of the
        selected platforms. `metadata_only` does not fetch layers. With `unpack` None, layers are unpacked
        into the snapshotter unless all platforms are pulled. `labels` are set on the image. At most
        `concurrency` blobs are fetched at once; None means 3, and more of small ones. If KeyboardInterrupt or
        SystemExit ends a pull, what it has fetched is kept as after `cancel`.

        After `ttl`, the next garbage collection of containerd 2.0 or later removes the image, with the
        content that nothing else uses. Without `ttl`, the image does not expire, even if it did before.
        Raises RegistryNotFound, NoMatchingPlatform, RegistryError, ContentError; with `ttl` also Unsupported
        for containerd 1.x, and FailedPrecondition for a pinned image, before anything is done.
        """
        from pyctrd.operations.pull import PullOptions, check_expiry, check_options, pull

        arguments.one_of("metadata", metadata, get_args(Metadata))
        arguments.limit("concurrency", concurrency)
        parsed = reference.parse(arguments.text("ref", ref))
        options = PullOptions(
            platforms=select(platforms),
            metadata=metadata,
            metadata_only=metadata_only,
            unpack=unpack,
            concurrency=concurrency,
            labels=arguments.labels("labels", labels),
            ttl=arguments.ttl("ttl", ttl),
        )
        check_options(options)
        with self._working(cancel) as (daemon, registries):
            check_expiry(daemon, str(parsed), options)
            remote = registries.remote(parsed)
            sink = one_at_a_time(progress)
            return pull(daemon, remote, str(parsed), options, progress=sink)

    def unpack(
        self,
        ref: str,
        *,
        platforms: Platforms | None = None,
        progress: ProgressSink = no_progress,
        cancel: threading.Event | None = None,
    ) -> UnpackResult:
        """Unpack an image that is in the store into the client's snapshotter.

        Layers that are unpacked already are left as they are. Raises ImageNotFound, AmbiguousReference,
        NoMatchingPlatform, IncompleteContent, ContentError, Unsupported for a snapshotter that is not loaded.
        """
        from pyctrd.operations.unpack import unpack

        selection = select(platforms)
        with self._working(cancel) as (daemon, _):
            image = namespaces.find_image(daemon, ref)
            return unpack(daemon, image, selection, progress=one_at_a_time(progress))

    def ensure(
        self,
        ref: str,
        *,
        platforms: Platforms | None = None,
        source: Source | None = None,
        dry_run: bool = False,
        concurrency: int | None = None,
        progress: ProgressSink = no_progress,
        cancel: threading.Event | None = None,
    ) -> EnsureResult:
        """Fetch the missing content of an image, by digest, without changing the image record.

        If nothing is missing, the network is not used. `source` is an archive, as for `save`, that is asked
        before the registries. `dry_run` changes nothing, and uses the network only if a manifest is missing.
        Raises ImageNotFound, AmbiguousReference, NoMatchingPlatform, RegistryError, ContentError,
        ArchiveError.
        """
        from pyctrd.operations.archive_source import fetchers_with, open_source
        from pyctrd.operations.ensure import ensure
        from pyctrd.steps.local import LocalImage

        arguments.limit("concurrency", concurrency)
        selection = select(platforms)
        with self._working(cancel) as (daemon, registries), open_source(source, daemon) as archive:
            image = namespaces.find_image(daemon, ref)
            return ensure(
                daemon,
                image,
                selection.resolve(LocalImage(daemon, image.target).platforms),
                fetchers_with(archive, partial(fetchers, daemon, registries)),
                dry_run=dry_run,
                concurrency=concurrency,
                progress=one_at_a_time(progress),
            )

    def ensure_all(
        self,
        *,
        platforms: Platforms | None = None,
        all_namespaces: bool = False,
        source: Source | None = None,
        dry_run: bool = False,
        concurrency: int | None = None,
        progress: ProgressSink = no_progress,
        cancel: threading.Event | None = None,
    ) -> EnsureAllResult:
        """Fetch the missing content of every incomplete image of the namespace, or of all namespaces.

        An error of one image is in its result, and the others are fetched nevertheless. The arguments are
        those of `ensure`. Raises ArchiveError, DaemonError if the images cannot be listed, and
        DaemonUnreachable.
        """
        from pyctrd.operations.archive_source import fetchers_with, open_source
        from pyctrd.operations.ensure_all import ensure_all

        arguments.limit("concurrency", concurrency)
        selection = select(platforms)
        with self._working(cancel) as (daemon, registries), open_source(source, daemon) as archive:
            return ensure_all(
                namespaces.all_of(daemon) if all_namespaces else [daemon],
                selection,
                lambda store: fetchers_with(
                    archive, partial(fetchers, daemon.in_namespace(store.namespace), registries)
                ),
                dry_run=dry_run,
                concurrency=concurrency,
                progress=one_at_a_time(progress),
            )

    def save(
        self,
        refs: str | Iterable[str],
        output: str | os.PathLike[str] | IO[bytes] | None = None,
        *,
        platforms: Platforms | None = None,
        ensure: EnsureMode = "target",
        index: IndexMode = "keep",
        format: ArchiveFormat = "oci",  # noqa: A002 - the name of the option
        compress: Compression | None = None,
        attestations: AttestationMode | None = None,
        on_missing: OnMissing = "fail",
        have: InventorySource | None = None,
        referrers: bool = False,
        since: Source | Sequence[Source] = (),
        source: Source | None = None,
        reproducible: bool = False,
        dry_run: bool = False,
        concurrency: int | None = None,
        progress: ProgressSink = no_progress,
        cancel: threading.Event | None = None,
    ) -> SaveResult:
        """Save images to one archive, after fetching their missing content.

        `output` is a path, which gets a complete archive or none, `-` for stdout, or a binary stream; only
        `dry_run` needs none. `ensure` "target" fetches what the selected platforms lack, "none" does not use
        the network, and "all" fetches what nerdctl 2.0.0 - 2.0.3 would. `index` "keep" leaves the index of an
        image as it is, "prune" removes from it what the archive does not contain, and "flatten" replaces it
        by its only image. `reproducible` leaves out what depends on this host. `dry_run` writes nothing, and
        uses the network only if a manifest is missing.

        `format` "oci" writes an OCI layout that `docker load` accepts as well, "dir" the same as a folder,
        and "docker" what `docker save` wrote before Docker 25: one platform of each image, with uncompressed
        layers. `compress` None chooses by the extension of a path: `.gz`, `.tgz`, `.zst` and `.tzst`.
        `attestations` "keep" also saves those of the selected platforms, "drop" none, and None only those of
        all platforms. `on_missing` "skip" leaves out platforms that an image does not have, or whose content
        is missing and cannot be fetched, as long as anything is left; "warn" logs a warning, too.

        `have` is the inventory of the namespace that the archive will be loaded into, or a file of it: layers
        that are there are neither fetched nor written. An import there, also by ctr, is as complete as that
        of a whole archive; anywhere else it fails. `since` are older archives, all of which were loaded
        there: their layers, and those that they presume, are left out as well. Of an uncompressed file only
        the documents are read.

        `source` is an archive that missing content is taken from, and stored, before a registry is asked, or
        with `ensure` "none" instead of that: an uncompressed tar in a file, or a folder.

        `referrers` also saves the manifests that refer to the saved ones, and to the index: signatures,
        SBOMs, and what refers to these. Those in the store and those that the registry lists are saved, with
        `ensure` "none" only the former. `load` keeps them with the image.

        Raises ImageNotFound, AmbiguousReference, NoMatchingPlatform, IncompleteContent, RegistryError,
        ContentError, ArchiveError.
        """
        from pyctrd.archive.compress import Compression
        from pyctrd.archive.contents import IndexMode
        from pyctrd.archive.inventory import Have, have_of
        from pyctrd.archive.inventory import read as read_inventory
        from pyctrd.operations.archive_source import fetchers_with, open_source
        from pyctrd.operations.save import (
            ArchiveFormat,
            AttestationMode,
            EnsureMode,
            OnMissing,
            SaveOptions,
            plan,
            save,
        )
        from pyctrd.operations.save.since import since_list, with_older

        arguments.one_of("ensure", ensure, get_args(EnsureMode))
        arguments.one_of("index", index, get_args(IndexMode))
        arguments.one_of("format", format, get_args(ArchiveFormat))
        arguments.one_of("on_missing", on_missing, get_args(OnMissing))
        if compress is not None:
            arguments.one_of("compress", compress, get_args(Compression))
        if attestations is not None:
            arguments.one_of("attestations", attestations, get_args(AttestationMode))
        arguments.limit("concurrency", concurrency)
        names = arguments.texts("refs", refs)
        older = since_list(since, have, source)
        given = have_of(read_inventory(have)) if have is not None else None
        options = SaveOptions(
            platforms=select(platforms),
            ensure=ensure,
            index=index,
            format=format,
            compression=compress or _compression(output, format),
            attestations=attestations,
            on_missing=on_missing,
            have=given or (Have() if older else None),
            referrers=referrers,
            reproducible=reproducible,
            concurrency=concurrency,
        )
        with self._working(cancel) as (daemon, registries), open_source(source, daemon) as archive:
            sources = fetchers_with(archive, partial(fetchers, daemon, registries), offline=ensure == "none")
            referring = partial(referrer_sources, daemon, registries)
            with nullcontext() if dry_run else _opened(output, format) as stream:
                images = namespaces.find_images(daemon, names)
                have_all = with_older(options.have, older, daemon.check_open)
                options = msgspec.structs.replace(options, have=have_all)
                if stream is None:
                    return plan(
                        daemon,
                        images,
                        options,
                        fetchers=sources,
                        referrer_sources=referring,
                        source=archive,
                    )
                return save(
                    daemon,
                    images,
                    options,
                    stream,
                    fetchers=sources,
                    referrer_sources=referring,
                    source=archive,
                    progress=one_at_a_time(progress),
                )

    def load(
        self,
        source: Source,
        *,
        platforms: Platforms | None = None,
        on_missing: LoadOnMissing = "fail",
        name: str | None = None,
        base_name: str | None = None,
        digests: bool = False,
        cri: bool = False,
        unpack: bool | None = None,
        discard_layers: bool = False,
        labels: Mapping[str, str] | None = None,
        dry_run: bool = False,
        concurrency: int = 3,
        progress: ProgressSink = no_progress,
        cancel: threading.Event | None = None,
    ) -> LoadResult:
        """Load the images of an archive, as `ctr images import` does, and check that all of them is there.

        `source` is a path, `-` for stdin, or a binary stream: an OCI layout, as a tar or as a folder, or an
        archive of docker, podman or a build tool. It may be compressed. `on_missing` "skip" leaves out
        platforms and images that are not completely in it. `name` is the name for its only image. Otherwise,
        with `base_name`, only names that begin with it are loaded, and it is put before names that are only a
        tag. `digests` adds a name with the digest. `cri` adds the labels and names without which a kubelet
        does not see an image; the namespace has to be k8s.io. With `unpack` None, layers are unpacked into
        the snapshotter, of all platforms only the host's. `discard_layers` lets the garbage collector remove
        layers that are unpacked. `labels` are set on the images. `dry_run` changes nothing, but reads all of
        a pipe. `concurrency` is the number of blobs written at once.

        After `cancel`, KeyboardInterrupt and SystemExit, what was written is kept for a day, and the next
        load resumes. After an error, no image is recorded. Raises ArchiveError, also for an archive that is
        damaged or malicious, NoMatchingPlatform, IncompleteContent, NotFound if no name begins with
        `base_name`, ContentError.
        """
        from pyctrd.archive.reader import open_archive
        from pyctrd.operations.load import LoadOnMissing, LoadOptions, load

        arguments.one_of("on_missing", on_missing, get_args(LoadOnMissing))
        arguments.count("concurrency", concurrency)
        options = LoadOptions(
            platforms=select(platforms),
            on_missing=on_missing,
            name="" if name is None else arguments.text("name", name),
            base_name="" if base_name is None else arguments.text("base_name", base_name),
            digests=digests,
            cri=cri,
            unpack=unpack,
            discard_layers=discard_layers,
            concurrency=concurrency,
            labels=arguments.labels("labels", labels),
        )
        options.check()
        with self._working(cancel) as (daemon, _), open_archive(source, check=daemon.check_open) as archive:
            return load(
                daemon,
                archive,
                msgspec.structs.replace(options, label_all=not daemon.version().is_1),
                today=dt.date.today(),
                dry_run=dry_run,
                progress=one_at_a_time(progress),
            )

    def push(
        self,
        ref: str,
        target: str | None = None,
        *,
        platforms: Platforms | None = None,
        index: PushIndex = "prune",
        nondistributable: bool = False,
        chunk_bytes: int | None = None,
        dry_run: bool = False,
        concurrency: int = 3,
        progress: ProgressSink = no_progress,
        cancel: threading.Event | None = None,
    ) -> SendResult:
        """Push an image to `target`, or to the registry in its own name. The tag is written last.

        Without `platforms`, the whole image is pushed. With them, `index` "prune" removes the other platforms
        from the index, and "flatten" replaces the index by its only image. Incomplete attestations are left
        out, unless `platforms` is "all" or `target` has a digest. Blobs larger than `chunk_bytes` are
        uploaded in chunks (None: 32 MiB, 0: never in chunks). `dry_run` asks the registry what it has, and
        uploads nothing. Raises ImageNotFound, AmbiguousReference, IncompleteContent before anything is
        uploaded, NoMatchingPlatform, RegistryError, ContentError.
        """
        from pyctrd.operations.push import push
        from pyctrd.steps.upload import send_options

        options = send_options(platforms, index, nondistributable, chunk_bytes, concurrency)
        name = reference.parse(arguments.text("target", target)) if target else None
        with self._working(cancel) as (daemon, registries):
            image = namespaces.find_image(daemon, ref)
            name = name or reference.parse(image.name)
            return push(
                daemon,
                image,
                registries.uploader(name, options.chunk_bytes),
                name,
                options,
                dry_run=dry_run,
                progress=one_at_a_time(progress),
            )

    def sync(
        self,
        refs: str | Iterable[str],
        to: str | None = None,
        *,
        source: str | None = None,
        platforms: Platforms | None = None,
        unpack: bool | None = None,
        snapshotter: str = "",
        dry_run: bool = False,
        concurrency: int = 3,
        progress: ProgressSink = no_progress,
        cancel: threading.Event | None = None,
    ) -> SyncResult:
        """Copy images to another containerd, or with `source` from it; only what is missing is sent.

        The other one is `ssh://[USER@]HOST[:PORT][/SOCKET]`, which OpenSSH's client connects to with the
        user's configuration, or `unix:///SOCKET` on this machine. `?namespace=NAME` at the end chooses its
        namespace, by default the client's. Without `platforms`, the platform of the machine that receives is
        copied, as its containerd reports it; `local` means what is complete where the image is. With `unpack`
        None, layers are unpacked unless `platforms` is `all` or `local`, into the `snapshotter` of the
        containerd that receives (empty: its default). An interrupted call is resumed by the next one.
        `dry_run` changes nothing. Raises ImageNotFound, AmbiguousReference, NoMatchingPlatform and
        IncompleteContent before anything is sent, ContentError; DaemonUnreachable, with ssh's message.
        """
        from pyctrd.operations.sync import Side, SyncOptions, of_side, sync

        arguments.count("concurrency", concurrency)
        names = arguments.texts("refs", refs)
        other = _other(to, source)
        options = SyncOptions(
            platforms=select(platforms),
            unpack=unpack,
            snapshotter=arguments.text("snapshotter", snapshotter),
            concurrency=concurrency,
        )
        with self._working_with(other, cancel) as (daemon, connected):
            here, there = Side(daemon), Side(connected, connected.address)
            origin, target = (here, there) if source is None else (there, here)
            sender = daemon if source is None else connected
            with of_side(origin):
                images = namespaces.find_images(sender, names)
            receiver = connected.platform() if source is None else None
            if receiver is not None:
                selection = msgspec.structs.replace(options.platforms, host=receiver)
                options = msgspec.structs.replace(options, platforms=selection)
            return sync(
                origin,
                target,
                images,
                options,
                dry_run=dry_run,
                progress=one_at_a_time(progress),
            )


# --- what the methods share -------------------------------------------------------------------------------


def _other(to: str | None, source: str | None) -> str:
    """Return the address of the other containerd in a sync."""
    if (to is None) == (source is None):
        raise InvalidInput("one of to= and source= has to be the address of another containerd")
    return arguments.text("source", source) if to is None else arguments.text("to", to)


def _compression(output: object, archive_format: ArchiveFormat) -> Compression:
    """Return the compression that the output's extension stands for."""
    if archive_format == "dir" or not isinstance(output, str | os.PathLike):
        return "none"
    from pyctrd.archive.compress import compression_for

    return compression_for(arguments.path("output", output))


def _opened(
    output: str | os.PathLike[str] | IO[bytes] | None, archive_format: ArchiveFormat
) -> AbstractContextManager[IO[bytes] | Folder]:
    if archive_format == "dir":
        if not isinstance(output, str | os.PathLike) or output == "-":
            raise InvalidInput(f"output={output!r}: `format=dir` needs the path of a folder")
        from pyctrd.archive.folder import open_folder

        return open_folder(arguments.path("output", output))
    if isinstance(output, str | os.PathLike):
        from pyctrd.archive.output import open_output

        return open_output(output)
    if output is None or not hasattr(output, "write"):
        raise InvalidInput(f"output={output!r}: must be a path or a binary stream")
    return nullcontext(output)
