"""The walk: from a descriptor to everything below it. pull, diagnose, ensure and save all use this one.

A step (`Children`) gives a descriptor's children. The plain step reads a document and lists what it names;
filters wrap a step and give another step, as containerd composes its handlers (core/images/handlers.go,
core/remotes/handlers.go). `generations` and `preorder` drive a step.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias

from pyctrd.errors import ContentError, NoMatchingPlatform
from pyctrd.oci import mediatypes, platforms
from pyctrd.oci.model import (
    MAX_CONFIG_BYTES,
    MAX_MANIFEST_BYTES,
    Descriptor,
    Digest,
    Index,
    Manifest,
    parse_json,
)
from pyctrd.oci.platforms import Matcher

Children: TypeAlias = Callable[[Descriptor], Sequence[Descriptor]]
ReadDocument: TypeAlias = Callable[[Descriptor], bytes]

# An index of an index of an index is already rare; this only stops a document made to exhaust us.
MAX_DEPTH: Final = 16
# The same for breadth: a manifest or index of so many entries, an image of so many pieces.
MAX_CHILDREN: Final = 10_000
_BUILT_WRONGLY: Final = (
    "the bytes are those of the digest, so the image was built wrongly: only a new one helps"
)
MAX_DESCRIPTORS: Final = 100_000


def children_in(descriptor: Descriptor, raw: bytes) -> tuple[Descriptor, ...]:
    """List what a document names, in document order; content of any other media type has no children.

    Raises ContentError when the bytes are not what the media type says (containerd's phrase is kept:
    `media-type: expected manifest but found index`), and for more than MAX_CHILDREN.
    Source: containerd core/images/image.go Children; `subject` is no child, as there.
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
        raise ContentError(f"{descriptor.digest} names {len(children)} pieces: more than {MAX_CHILDREN}")
    return children


def has_children(descriptor: Descriptor) -> bool:
    """Tell whether the media type is one that names other content."""
    return mediatypes.is_manifest(descriptor.media_type) or mediatypes.is_index(descriptor.media_type)


def size_limit(descriptor: Descriptor) -> int:
    """Return how many bytes of an index, a manifest or a config are read at most."""
    return MAX_MANIFEST_BYTES if has_children(descriptor) else MAX_CONFIG_BYTES


def _check_shape(descriptor: Descriptor, raw: bytes, expected: str, absent: tuple[str, ...]) -> None:
    """Refuse a document of two readings (containerd core/images/image.go validateMediaType)."""
    document = parse_json(raw)
    where = f"invalid desc {descriptor.digest}: media-type:"
    if not isinstance(document, dict):
        found = type(document).__name__
        raise ContentError(f"{where} expected {expected} but found {found}", hint=_BUILT_WRONGLY)
    if "fsLayers" in document:
        raise ContentError(f"{where} schema 1 not supported")
    if any(document.get(name) for name in absent):
        found = "index" if expected == "manifest" else "manifest"
        raise ContentError(
            f"{where} expected {expected} but found {found} ({descriptor.media_type})", hint=_BUILT_WRONGLY
        )


def read_children(read: Callable[[Descriptor], bytes]) -> Children:
    """Make the plain step from something that reads a document whole."""

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
    """Label each parent with all its children before any filter sees them.

    Absent platforms are labelled too: the collector ignores labels that lead nowhere, and content that
    comes later is then kept at once (containerd core/images/handlers.go SetChildrenMappedLabels).
    """

    def step(descriptor: Descriptor) -> Sequence[Descriptor]:
        found = children(descriptor)
        if found:
            set_labels(descriptor.digest, child_labels(found))
        return found

    return step


def child_labels(children: Sequence[Descriptor]) -> dict[str, str]:
    """Give the gc.ref labels of a parent, numbered per key in document order."""
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
    """Leave out children whose platform does not match; one without a platform stays.

    Source: containerd core/images/handlers.go FilterPlatforms.
    """

    wanted = fits(matcher)

    def step(descriptor: Descriptor) -> Sequence[Descriptor]:
        return [child for child in children(descriptor) if wanted(child)]

    return step


def metadata_of_all(children: Children, matcher: Matcher) -> Children:
    """Keep every platform's manifest and config, and all content of the matching ones.

    The answer depends on the platform that a manifest is listed for: walk it with `depends_on=fits(matcher)`.
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
    """Make a test whether a descriptor is for a matching platform, or for any."""
    return lambda descriptor: descriptor.platform is None or matcher.match(descriptor.platform)


def metadata_only(children: Children) -> Children:
    """Keep indexes, manifests and configs; leave out every layer and other payload."""

    def step(descriptor: Descriptor) -> Sequence[Descriptor]:
        found = children(descriptor)
        if not mediatypes.is_manifest(descriptor.media_type):
            return found
        return found[:1]  # a manifest names its config first, whatever the config's media type

    return step


def limited(children: Children, matcher: Matcher, count: int) -> Children:
    """Keep the `count` children of an index that the matcher likes best; those without a platform come last.

    Raises NoMatchingPlatform when an index has none left.
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
    """Sort by the matcher's preference, stable; descriptors without a platform last."""
    return sorted(
        descriptors,
        key=lambda item: (item.platform is None, matcher.rank(item.platform) if item.platform else 0),
    )


def tolerant(children: Children, missing: Callable[[Descriptor], None], absent: type[Exception]) -> Children:
    """Go on where a document is absent: report it to `missing`, and treat it as one without children."""

    def step(descriptor: Descriptor) -> Sequence[Descriptor]:
        try:
            return children(descriptor)
        except absent:
            missing(descriptor)
            return ()

    return step


# --- drivers ----------------------------------------------------------------------------------------------

# On what of a descriptor, besides the document that it names, the answer of a step depends.
DependsOn: TypeAlias = Callable[[Descriptor], Hashable]


def _the_document(_descriptor: Descriptor) -> Hashable:
    """Say that a step looks at nothing but the document."""
    return None


def generations(
    root: Descriptor, children: Children, *, depends_on: DependsOn = _the_document
) -> Iterator[list[Descriptor]]:
    """Yield the root, then its children, then theirs: each generation once its parents have been handled.

    The step is asked about a descriptor only after the generation that holds it was consumed, so the
    consumer can fetch a document before the walk reads it. A descriptor that occurs again with the same
    platform is left out; the same digest for another platform is not, since a filter may treat it otherwise.
    The step is asked once about each document, for however many platforms it is listed: `depends_on` is for
    a step whose answer depends on more than the document, which is then asked once for each of its values.
    """
    seen = {_identity(root)}
    asked = set[object]()
    generation = [root]
    depth = 0
    while generation:
        if depth > MAX_DEPTH:
            raise ContentError(f"{root.digest} is nested deeper than {MAX_DEPTH} levels")
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
    """Yield a descriptor, then all below its first child, and so on; repeated ones only once.

    The step is asked as `generations` asks it.
    """
    seen = set[object]()
    asked = set[object]()
    stack = [(root, 0)]
    while stack:
        descriptor, depth = stack.pop()
        if _identity(descriptor) in seen:
            continue
        if depth > MAX_DEPTH:
            raise ContentError(f"{root.digest} is nested deeper than {MAX_DEPTH} levels")
        seen.add(_identity(descriptor))
        yield descriptor
        found = _once(descriptor, children, depends_on, asked)
        stack.extend((child, depth + 1) for child in reversed(found))
        check_count(root, len(seen))


def _once(
    parent: Descriptor, children: Children, depends_on: DependsOn, asked: set[object]
) -> Sequence[Descriptor]:
    """Ask a step about a document, unless it was asked before: then all that it names has been seen."""
    question = (parent.digest, parent.media_type, depends_on(parent))
    if question in asked:
        return ()
    asked.add(question)
    return children(parent)


def by_digest(descriptors: Iterable[Descriptor]) -> dict[Digest, Descriptor]:
    """Return the first descriptor of each digest, in their order."""
    found: dict[Digest, Descriptor] = {}
    for descriptor in descriptors:
        found.setdefault(descriptor.digest, descriptor)
    return found


def check_count(root: Descriptor, count: int, most: int = MAX_DESCRIPTORS) -> None:
    """Raise ContentError when an image is made of too many pieces."""
    if count > most:
        raise ContentError(f"{root.digest} is made of more than {most} pieces")


def _identity(descriptor: Descriptor) -> tuple[Digest, str, object]:
    return descriptor.digest, descriptor.media_type, descriptor.platform


# --- images and attestations ------------------------------------------------------------------------------


def is_attestation(descriptor: Descriptor) -> bool:
    """Tell whether a manifest is about others: its platform is unknown/unknown."""
    return descriptor.platform is not None and platforms.is_unknown(descriptor.platform)


def is_image(leaf: Descriptor) -> bool:
    """Whether this is a manifest that is not about others."""
    return mediatypes.is_manifest(leaf.media_type) and not is_attestation(leaf)


def leaves_of(target: Descriptor, step: Children) -> Iterator[Descriptor]:
    """Yield what the indexes name that is no index itself; nothing but indexes is read."""

    def indexes_only(descriptor: Descriptor) -> Sequence[Descriptor]:
        return step(descriptor) if mediatypes.is_index(descriptor.media_type) else ()

    for descriptor in preorder(target, indexes_only):
        if not mediatypes.is_index(descriptor.media_type):
            yield descriptor
