"""Walk an image: from a descriptor to everything below it. All operations use this walk.

A step (`Children`) returns a descriptor's children. `read_children` makes the basic step, which reads a
document and returns the descriptors in it; filters wrap a step, as containerd composes its handlers
(core/images/handlers.go, core/remotes/handlers.go). `generations` and `preorder` walk with a step.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias

from pyctrd.errors import ContentError, NoMatchingPlatform, NotFound
from pyctrd.oci import mediatypes, platforms
from pyctrd.oci.model import (
    MAX_CONFIG_BYTES,
    MAX_MANIFEST_BYTES,
    Descriptor,
    Digest,
    ImageConfig,
    Index,
    Manifest,
    Platform,
    parse_json,
)
from pyctrd.oci.platforms import Matcher

Children: TypeAlias = Callable[[Descriptor], Sequence[Descriptor]]
ReadDocument: TypeAlias = Callable[[Descriptor], bytes]
# Wraps a step so that it leaves out children.
Narrow: TypeAlias = Callable[[Children], Children]

# Even three levels of indexes are rare; the limits only stop malicious documents.
MAX_DEPTH: Final = 16
# The entries of one manifest or index, and the descriptors of one image.
MAX_CHILDREN: Final = 10_000
MAX_DESCRIPTORS: Final = 100_000
_BROKEN_IMAGE: Final = "the bytes match the digest, so the image itself is broken and has to be rebuilt"


def children_in(descriptor: Descriptor, raw: bytes) -> tuple[Descriptor, ...]:
    """Return the descriptors in an index or a manifest, in document order; other content has no children.

    As in containerd, `subject` is not a child. Raises ContentError if the bytes do not match the media type
    (with containerd's phrase `media-type: expected manifest but found index`), and for more than
    MAX_CHILDREN. Source: containerd core/images/image.go Children.
    """
    if mediatypes.is_manifest(descriptor.media_type):
        _check_shape(descriptor, raw, "manifest", absent=("manifests",))
        manifest = Manifest.parse(raw)
        return _bounded(descriptor, (manifest.config, *manifest.layers))
    if mediatypes.is_index(descriptor.media_type):
        _check_shape(descriptor, raw, "index", absent=("config", "layers"))
        return _bounded(descriptor, Index.parse(raw).manifests)
    return ()


def _bounded(descriptor: Descriptor, children: tuple[Descriptor, ...]) -> tuple[Descriptor, ...]:
    if len(children) > MAX_CHILDREN:
        raise ContentError(f"{descriptor.digest} has {len(children)} entries: more than {MAX_CHILDREN}")
    return children


def has_children(descriptor: Descriptor) -> bool:
    """Whether this is an index or a manifest, which refers to other content."""
    return mediatypes.is_manifest(descriptor.media_type) or mediatypes.is_index(descriptor.media_type)


def size_limit(descriptor: Descriptor) -> int:
    """Return the largest size at which an index, a manifest or a config is read."""
    return MAX_MANIFEST_BYTES if has_children(descriptor) else MAX_CONFIG_BYTES


def _check_shape(descriptor: Descriptor, raw: bytes, expected: str, absent: tuple[str, ...]) -> None:
    """Refuse a document that is ambiguous (containerd core/images/image.go validateMediaType)."""
    document = parse_json(raw)
    where = f"invalid desc {descriptor.digest}: media-type:"
    if not isinstance(document, dict):
        found = type(document).__name__
        raise ContentError(f"{where} expected {expected} but found {found}", hint=_BROKEN_IMAGE)
    if "fsLayers" in document:
        raise ContentError(f"{where} schema 1 not supported")
    if any(document.get(name) for name in absent):
        found = "index" if expected == "manifest" else "manifest"
        raise ContentError(
            f"{where} expected {expected} but found {found} ({descriptor.media_type})", hint=_BROKEN_IMAGE
        )


def read_children(read: Callable[[Descriptor], bytes]) -> Children:
    """Return the basic step, which reads documents with `read`."""

    def step(descriptor: Descriptor) -> Sequence[Descriptor]:
        if not has_children(descriptor):
            return ()
        if descriptor.size > MAX_MANIFEST_BYTES:
            raise ContentError(
                f"rejecting {descriptor.size} byte {mediatypes.document_kind(descriptor.media_type)} "
                f"{descriptor.digest}: "
                f"more than {MAX_MANIFEST_BYTES} bytes"
            )
        return children_in(descriptor, read(descriptor))

    return step


# --- filters ----------------------------------------------------------------------------------------------


def labelled(children: Children, set_labels: Callable[[Digest, Mapping[str, str]], None]) -> Children:
    """Set gc labels for all children of a parent, before any filter.

    Absent platforms get labels too: the garbage collector ignores a label whose content is absent, and
    content that is fetched later is protected at once (containerd core/images/handlers.go
    SetChildrenMappedLabels).
    """

    def step(descriptor: Descriptor) -> Sequence[Descriptor]:
        found = children(descriptor)
        if found:
            set_labels(descriptor.digest, child_labels(found))
        return found

    return step


def child_labels(children: Sequence[Descriptor]) -> dict[str, str]:
    """Return the gc.ref labels of a parent, numbered per key in document order."""
    counts: dict[str, int] = {}
    labels: dict[str, str] = {}
    for child in children:
        prefix = mediatypes.gc_label_prefix(child.media_type)
        index = counts.get(prefix, 0)
        counts[prefix] = index + 1
        key = prefix if index == 0 and not prefix.endswith(".") else f"{prefix}{index}"
        labels[key] = str(child.digest)
    return labels


def only_platforms(children: Children, matcher: Matcher) -> Children:
    """Leave out children whose platform does not match; children without a platform stay.

    Source: containerd core/images/handlers.go FilterPlatforms.
    """

    wanted = fits(matcher)

    def step(descriptor: Descriptor) -> Sequence[Descriptor]:
        return [child for child in children(descriptor) if wanted(child)]

    return step


def with_attestations(children: Children, matcher: Matcher) -> Children:
    """As `only_platforms`, but keep the attestations of the children of an index that stay."""

    wanted = fits(matcher)

    def step(descriptor: Descriptor) -> Sequence[Descriptor]:
        found = children(descriptor)
        if not mediatypes.is_index(descriptor.media_type):
            return found
        kept = {item.digest for item in found if wanted(item)}
        return [
            item
            for item in found
            if item.digest in kept or item.annotations.get(mediatypes.ATTESTED_DIGEST) in kept
        ]

    return step


def without(children: Children, leaves_out: Callable[[Descriptor], bool]) -> Children:
    """Leave out the children for which `leaves_out` is true."""

    def step(descriptor: Descriptor) -> Sequence[Descriptor]:
        return [child for child in children(descriptor) if not leaves_out(child)]

    return step


def metadata_of_all(children: Children, matcher: Matcher) -> Children:
    """Keep the manifest and config of every platform, and all content of the matching ones.

    The result depends on the platform that a manifest is listed for: walk with `depends_on=fits(matcher)`.
    Source: containerd core/remotes/handlers.go FilterManifestByPlatformHandler.
    """

    wanted = fits(matcher)

    def step(descriptor: Descriptor) -> Sequence[Descriptor]:
        found = children(descriptor)
        if not mediatypes.is_manifest(descriptor.media_type):
            return found
        if wanted(descriptor):
            return found
        return [child for child in found if mediatypes.is_image_config(child.media_type)]

    return step


def fits(matcher: Matcher) -> Callable[[Descriptor], bool]:
    """Return a predicate: whether a descriptor has a matching platform, or none."""
    return lambda descriptor: descriptor.platform is None or matcher.match(descriptor.platform)


def metadata_only(children: Children) -> Children:
    """Keep indexes, manifests and configs; leave out layers and other content."""

    def step(descriptor: Descriptor) -> Sequence[Descriptor]:
        found = children(descriptor)
        if not mediatypes.is_manifest(descriptor.media_type):
            return found
        return found[:1]  # the config comes first, whatever its media type

    return step


def limited(children: Children, matcher: Matcher, count: int) -> Children:
    """Keep the `count` children of an index that the matcher prefers; those without a platform come last.

    Raises NoMatchingPlatform if an index has no children.
    Source: containerd core/images/handlers.go LimitManifests.
    """

    def step(descriptor: Descriptor) -> Sequence[Descriptor]:
        found = children(descriptor)
        if not mediatypes.is_index(descriptor.media_type):
            return found
        if not found:
            raise NoMatchingPlatform(
                f"no match for platform in manifest {descriptor.digest}: not found",
                name=str(descriptor.digest),
            )
        return closest(found, matcher)[:count]

    return step


def closest(descriptors: Sequence[Descriptor], matcher: Matcher) -> list[Descriptor]:
    """Sort by the matcher's preference (stable), descriptors without a platform last."""
    return sorted(
        descriptors,
        key=lambda item: (item.platform is None, matcher.rank(item.platform) if item.platform else 0),
    )


def tolerant(children: Children, missing: Callable[[Descriptor], None], absent: type[Exception]) -> Children:
    """Treat an absent document as one without children, and pass it to `missing`."""

    def step(descriptor: Descriptor) -> Sequence[Descriptor]:
        try:
            return children(descriptor)
        except absent:
            missing(descriptor)
            return ()

    return step


# --- walks ------------------------------------------------------------------------------------------------

# What the result of a step depends on besides the document.
DependsOn: TypeAlias = Callable[[Descriptor], Hashable]


def _the_document(_descriptor: Descriptor) -> Hashable:
    """Depend on the document alone."""
    return None


def generations(
    root: Descriptor, children: Children, *, depends_on: DependsOn = _the_document
) -> Iterator[list[Descriptor]]:
    """Yield the root, then its children, then their children, one generation at a time.

    The step is called for the descriptors of a generation only after the consumer has asked for the next one,
    so the consumer can fetch documents before the walk reads them. A descriptor is yielded once for each
    platform, since filters may treat platforms differently. The step is called once for each document, no
    matter how many platforms list it; with `depends_on`, once for each document and value of `depends_on`.
    """
    seen = {_identity(root)}
    asked = set[object]()
    generation = [root]
    depth = 0
    while generation:
        if depth > MAX_DEPTH:
            raise ContentError(f"{root.digest} is nested more than {MAX_DEPTH} levels deep")
        yield generation
        depth += 1
        following: list[Descriptor] = []
        for parent in generation:
            for child in _once(parent, children, depends_on, asked):
                if _identity(child) not in seen:
                    seen.add(_identity(child))
                    following.append(child)
            check_count(root, len(seen))
        generation = following


def preorder(
    root: Descriptor, children: Children, *, depends_on: DependsOn = _the_document
) -> Iterator[Descriptor]:
    """Yield the descriptors depth first, each once per platform; calls the step as `generations` does."""
    seen = set[object]()
    asked = set[object]()
    stack = [(root, 0)]
    while stack:
        descriptor, depth = stack.pop()
        if _identity(descriptor) in seen:
            continue
        if depth > MAX_DEPTH:
            raise ContentError(f"{root.digest} is nested more than {MAX_DEPTH} levels deep")
        seen.add(_identity(descriptor))
        yield descriptor
        found = _once(descriptor, children, depends_on, asked)
        stack.extend((child, depth + 1) for child in reversed(found))
        check_count(root, len(seen))


def _once(
    parent: Descriptor, children: Children, depends_on: DependsOn, asked: set[object]
) -> Sequence[Descriptor]:
    """Return a document's children, or nothing if the step was already called for it."""
    key = (parent.digest, parent.media_type, depends_on(parent))
    if key in asked:
        return ()
    asked.add(key)
    return children(parent)


def by_digest(descriptors: Iterable[Descriptor]) -> dict[Digest, Descriptor]:
    """Return the first descriptor of each digest, in order."""
    found: dict[Digest, Descriptor] = {}
    for descriptor in descriptors:
        found.setdefault(descriptor.digest, descriptor)
    return found


def with_platforms(
    root: Descriptor, children: Children
) -> tuple[dict[Digest, Descriptor], dict[Digest, Platform | None]]:
    """Return what a step reaches by digest, and for which platform each was reached first."""
    owner: dict[Digest, Platform | None] = {}

    def step(descriptor: Descriptor) -> Sequence[Descriptor]:
        found = children(descriptor)
        for child in found:
            owner.setdefault(child.digest, child.platform or owner.get(descriptor.digest))
        return found

    return by_digest(preorder(root, step)), owner


def check_count(root: Descriptor, count: int, most: int = MAX_DESCRIPTORS) -> None:
    """Raise ContentError if an image has too many descriptors."""
    if count > most:
        raise ContentError(f"{root.digest} has more than {most} descriptors")


def _identity(descriptor: Descriptor) -> tuple[Digest, str, object]:
    return descriptor.digest, descriptor.media_type, descriptor.platform


# --- images and attestations ------------------------------------------------------------------------------


def is_attestation(descriptor: Descriptor) -> bool:
    """Whether a manifest is an attestation: its platform is unknown/unknown."""
    return descriptor.platform is not None and platforms.is_unknown(descriptor.platform)


def platform_of(descriptor: Descriptor, read: ReadDocument) -> Platform | None:
    """Return a manifest's platform, from the index or else from its config.

    None for an artifact, or if the config is absent. Raises NotFound if the manifest is absent, ContentError.
    """
    if descriptor.platform is not None:
        return descriptor.platform
    config = Manifest.parse(read(descriptor)).config
    if not mediatypes.is_image_config(config.media_type):
        return None
    try:
        found = ImageConfig.parse(read(config)).platform
    except NotFound:
        return None
    return found if found.os or found.architecture else None  # a signature has none


def chain_ids(
    config: Descriptor, layers: Sequence[Descriptor], read: ReadDocument
) -> Sequence[Digest | None]:
    """Return the chain id of each layer of a manifest, None for all if its config does not say them."""
    unknown = [None] * len(layers)
    if not mediatypes.is_image_config(config.media_type):
        return unknown
    try:
        found = ImageConfig.parse(read(config)).rootfs.chain_ids
    except (NotFound, ContentError):
        return unknown
    return found if len(found) == len(layers) else unknown


def is_image(leaf: Descriptor) -> bool:
    """Whether this is a manifest that is not an attestation."""
    return mediatypes.is_manifest(leaf.media_type) and not is_attestation(leaf)


def leaves_of(target: Descriptor, step: Children) -> Iterator[Descriptor]:
    """Yield the descriptors in the indexes of an image that are not indexes; reads only the indexes."""

    def indexes_only(descriptor: Descriptor) -> Sequence[Descriptor]:
        return step(descriptor) if mediatypes.is_index(descriptor.media_type) else ()

    for descriptor in preorder(target, indexes_only):
        if not mediatypes.is_index(descriptor.media_type):
            yield descriptor
