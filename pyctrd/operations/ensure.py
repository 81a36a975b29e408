"""Ensure: what of an image is not here, and bring just that, by digest.

The image record is left alone: a tag that moved meanwhile does not matter, since every blob is asked for by
the digest that the local documents name (nerdctl asks for the tag, and so replaces the image on the way).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import msgspec

from pyctrd.errors import DaemonError, InvalidReference, NotFound, RegistryError
from pyctrd.oci import graph, mediatypes, platforms, reference
from pyctrd.oci.model import (
    EMPTY,
    MAX_MANIFEST_BYTES,
    Descriptor,
    Digest,
    ImageRecord,
    Manifest,
    Platform,
    freeze,
)
from pyctrd.oci.platforms import Matcher
from pyctrd.oci.reference import Reference
from pyctrd.ports import ContentStore, Fetcher, Store
from pyctrd.progress import ProgressSink, no_progress
from pyctrd.steps.fetch import Transfer, host_name, is_present
from pyctrd.steps.gc_labels import Keeping
from pyctrd.steps.pool import Downloads
from pyctrd.steps.targets import Coverage
from pyctrd.steps.unpack import read_config
from pyctrd.steps.validate import Documents


class EnsureResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was downloaded, or with `dry_run` what would be.

    `resumed` are the blobs of which an interrupted download had left something here, with those bytes.
    """

    image: ImageRecord
    fetched: tuple[Descriptor, ...]
    bytes_fetched: int
    resumed: Mapping[Descriptor, int] = EMPTY
    dry_run: bool = False

    def __post_init__(self) -> None:
        freeze(self, "resumed")

    @property
    def bytes_resumed(self) -> int:
        """The bytes of `resumed` in sum."""
        return sum(self.resumed.values())


def missing(
    store: Store,
    image: ImageRecord,
    targets: Matcher,
    *,
    wanted: Sequence[Platform] = (),
    fetchers: Sequence[Fetcher] = (),
) -> tuple[Descriptor, ...]:
    """List what is missing of the target platforms, in the walk's order; changes nothing.

    An absent manifest is read from the fetchers into memory, so that what it names is counted too; without
    fetchers the manifest alone is listed, since nobody can know its children. `wanted` are platforms that the
    image must have (none: any). Raises NoMatchingPlatform, RegistryError, ContentError, DaemonError.
    """
    coverage = Coverage(image.target, wanted)
    step = _targeted(_reading(store, fetchers), coverage, targets)
    found = _missing(image.target, step, presence(store.content))
    if fetchers or not any(mediatypes.is_index(item.media_type) for item in found):
        coverage.check()  # an index that is not here may name any platform
    return found


def _missing(
    root: Descriptor, step: graph.Children, present: Callable[[Descriptor], bool]
) -> tuple[Descriptor, ...]:
    return tuple(item for item in graph.by_digest(graph.preorder(root, step)).values() if not present(item))


def presence(content: ContentStore) -> Callable[[Descriptor], bool]:
    """Make a test whether a blob is here, which asks the store once about each."""
    known: dict[Digest, bool] = {}

    def present(descriptor: Descriptor) -> bool:
        if descriptor.digest not in known:
            known[descriptor.digest] = is_present(content, descriptor)
        return known[descriptor.digest]

    return present


def _reading(store: Store, fetchers: Sequence[Fetcher] = ()) -> graph.Children:
    """Make the step over what is here: an absent document has no children, or is peeked at."""
    step = graph.read_children(document_reader(store, fetchers))
    return graph.tolerant(step, lambda _missing: None, NotFound)


def document_reader(store: Store, fetchers: Sequence[Fetcher] = ()) -> Callable[[Descriptor], bytes]:
    """Make something that reads indexes and manifests: from the store, else into memory from the fetchers.

    It raises NotFound for one that neither has, RegistryError, ContentError.
    """

    def read(descriptor: Descriptor) -> bytes:
        try:
            return store.content.read_all(descriptor.digest, limit=graph.size_limit(descriptor))
        except NotFound:
            if not fetchers:
                raise
            return _peek(descriptor, fetchers)

    return read


def _peek(descriptor: Descriptor, fetchers: Sequence[Fetcher]) -> bytes:
    """Read a document from a registry into memory, checked against its digest."""
    failure: RegistryError | None = None
    for fetcher in fetchers:
        try:
            return Documents().fetch(fetcher, descriptor)
        except RegistryError as error:
            failure = failure or error
    assert failure is not None
    raise failure


def ensure(
    store: Store,
    image: ImageRecord,
    targets: Matcher,
    fetchers: Sequence[Fetcher],
    *,
    wanted: Sequence[Platform] = (),
    dry_run: bool = False,
    concurrency: int = 3,
    progress: ProgressSink = no_progress,
) -> EnsureResult:
    """Fetch what is missing of the target platforms into the store, under a lease, with all labels.

    `wanted` are platforms that the image must have (none: any). Where nothing is missing, nothing is
    written and no fetcher is asked. `dry_run` changes nothing, and asks a fetcher only where a manifest is
    missing, since only that says what else is. Raises NoMatchingPlatform, IncompleteContent
    when another client deleted content meanwhile, LeaseLost, RegistryError, ContentError, DaemonError.
    """
    if dry_run:
        fetch = missing(store, image, targets, wanted=wanted, fetchers=fetchers)
        size = sum(item.size for item in fetch)
        return EnsureResult(image=image, fetched=fetch, bytes_fetched=size, dry_run=True)
    coverage = Coverage(image.target, wanted)
    step = _targeted(_reading(store), coverage, targets)
    if not _missing(image.target, step, presence(store.content)):
        coverage.check()
        return EnsureResult(image=image, fetched=(), bytes_fetched=0)
    with store.lease("ensure", resumable=True) as leased:
        keeping = Keeping(leased.content, progress)
        transfer = Transfer(leased.content, fetchers, claim_present=False, progress=progress)
        with Downloads(
            transfer.bring, transfer.stop, max_concurrent=concurrency, progress=progress
        ) as downloads:
            # Relabelling a parent that was here mends lost labels: what comes now must be kept by something.
            step = graph.labelled(_reading(leased), keeping.set_labels)
            for generation in graph.generations(image.target, _targeted(step, coverage, targets)):
                coverage.before(generation)
                downloads.submit(generation)
                downloads.join()
            coverage.check()
            keeping.check(downloads.wanted)
            fetched, resumed = downloads.downloaded(), downloads.resumed()
    return EnsureResult(
        image=image, fetched=tuple(fetched), bytes_fetched=sum(fetched.values()), resumed=resumed
    )


def _targeted(step: graph.Children, coverage: Coverage, targets: Matcher) -> graph.Children:
    return graph.only_platforms(coverage.watch(step), targets)


def local_platforms(store: Store, image: ImageRecord) -> tuple[Platform, ...]:
    """List the platforms of which everything is here: what `--platform local` stands for.

    Attestations are no platform; an image that is a single manifest has its config's platform.
    Raises ContentError, DaemonError.
    """
    step = _reading(store)
    present = presence(store.content)
    whole: dict[Digest, bool] = {}
    complete: dict[Platform, None] = {}
    for descriptor in graph.preorder(image.target, step):
        if not mediatypes.is_manifest(descriptor.media_type):
            continue
        if descriptor.digest not in whole:
            whole[descriptor.digest] = not _missing(descriptor, step, present)
        if whole[descriptor.digest]:
            platform = _platform_of(store, descriptor)
            if platform is not None and platform.os != "unknown":
                complete[platforms.normalize(platform)] = None
    return tuple(complete)


def _platform_of(store: Store, descriptor: Descriptor) -> Platform | None:
    if descriptor.platform is not None:
        return descriptor.platform
    manifest = Manifest.parse(store.content.read_all(descriptor.digest, limit=MAX_MANIFEST_BYTES))
    if not mediatypes.is_image_config(manifest.config.media_type):
        return None
    return read_config(store, manifest).platform


def sources(store: Store, image: ImageRecord) -> list[Reference]:
    """List the repositories to ask for an image's content, the likeliest first, each pinned to no tag.

    The `containerd.io/distribution.source.<host>` labels of the target say where it came from; the image's
    own name comes first where they agree with it (or say nothing), else last: a local tag is no address.
    The labels have lost the registry's port; another image's name that fits gives it back.
    """
    own = _named(image.name)
    bare = dict.fromkeys(_labelled_sources(store, image.target))
    known: dict[tuple[str, str], dict[Reference, None]] = {}
    for item in [own, *_with_ports(store, bare)]:
        if item is not None:
            known.setdefault((host_name(item.domain), item.repository), {})[item] = None
    labelled = [item for one in bare for item in known.get((host_name(one.domain), one.repository), (one,))]
    agreed = own is not None and (not labelled or own in labelled)
    ordered = [own, *labelled] if agreed else [*labelled, own]
    return list(dict.fromkeys(item for item in ordered if item is not None))


def _with_ports(store: Store, bare: Collection[Reference]) -> list[Reference | None]:
    """List the repositories of those images here whose names fit; of the others' labels there may be many."""
    if not bare:
        return []
    filters = [
        f'name~="^{_literally(item.domain)}(:[0-9]+)?/{_literally(item.repository)}([:@]|$)"' for item in bare
    ]
    try:
        return [_named(record.name) for record in store.images.list(filters)]
    except DaemonError as error:
        if error.code != "RESOURCE_EXHAUSTED":
            raise
        return []  # the labels of one image alone are more than an answer can hold


def _literally(text: str) -> str:
    """Write part of a reference as a regular expression, without what a filter's quotes would take away."""
    return "".join(letter if letter.isalnum() else f"[{letter}]" for letter in text)


def _named(name: str) -> Reference | None:
    """Give the repository of an image's name; a name that is no reference has none."""
    try:
        parsed = reference.parse(name)
    except InvalidReference:
        return None
    return msgspec.structs.replace(parsed, tag="", digest=None)


def _labelled_sources(store: Store, target: Descriptor) -> Iterator[Reference]:
    """Yield the repositories of the target's labels, which do not say the registry's port."""
    try:
        labels = store.content.info(target.digest).labels
    except NotFound:
        return
    for key, value in sorted(labels.items()):
        if key.startswith(mediatypes.DISTRIBUTION_SOURCE):
            host = key.removeprefix(mediatypes.DISTRIBUTION_SOURCE)
            for path in filter(None, value.split(",")):
                found = _named(f"[{host}]/{path}" if ":" in host else f"{host}/{path}")
                if found is not None:
                    yield found
