"""Compute the members of an archive before it is written. No IO.

The result is byte-identical to what containerd's exporter writes: an OCI image layout that `docker load` also
accepts. Where containerd's releases differ, this follows 2.3 and later: a name without a tag is written whole
as `org.opencontainers.image.ref.name` (earlier releases write nothing, or `@digest`), and `index.json` has a
media type and the `containerd.io/distribution.source.*` annotations (1.6 writes neither).

Deliberate differences from containerd:

* manifest.json lists its entries in the order of the arguments (containerd: random), and RepoTags is complete
  (containerd: an index whose selected manifest is also exported on its own loses the manifest's names);
* a name that is not a docker reference is left out of RepoTags (containerd: the export fails);
* so is a name with a digest, which docker's own image store cannot use as a tag: it refuses the whole
  archive, or loads the image without the name. `docker save` leaves such names out, too.

Source: containerd core/images/archive/exporter.go; OCI image-spec image-layout.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from pyctrd.archive.presumed import PRESUMED
from pyctrd.errors import InvalidReference
from pyctrd.oci import gojson, graph, mediatypes, reference
from pyctrd.oci.model import Descriptor, Digest, Platform, blob_path

IMAGE_NAME: Final = "io.containerd.image.name"
REF_NAME: Final = "org.opencontainers.image.ref.name"

_OCI_LAYOUT: Final = b'{"imageLayoutVersion":"1.0.0"}'


class DockerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """The manifest of an image that `docker load` loads: an entry of manifest.json."""

    manifest: Digest
    config: Digest
    layers: tuple[Digest, ...] = ()


class ArchiveImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image in an archive.

    `name` is the name of the image record. `entries` become the entries in index.json with that name; usually
    this is only the record's target, with its annotations. `companions` become entries without a name,
    and so do `referrers`, after those of all images.
    `sources` are the `containerd.io/distribution.source.*` labels of the target's blob. `blobs` are the
    descriptors of all content; the bytes of those in `generated` are taken from there instead of the store.
    `platforms` are those of its manifests. `ambiguous` are those of them that a plain `ctr images import` of
    containerd 1.x mistakes for others, which its index lists and the archive lacks.
    """

    name: str
    entries: tuple[Descriptor, ...]
    companions: tuple[Descriptor, ...] = ()
    referrers: tuple[Descriptor, ...] = ()
    sources: Mapping[str, str] = msgspec.field(default_factory=dict)
    docker: DockerEntry | None = None
    blobs: tuple[Descriptor, ...] = ()
    generated: Mapping[Digest, bytes] = msgspec.field(default_factory=dict)
    platforms: tuple[Platform, ...] = ()
    ambiguous: tuple[Platform, ...] = ()


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A member of the archive: `source` is its content, or the digest of a blob in the store.

    The name of a directory ends in a slash. `size` is in bytes.
    """

    name: str
    mode: int
    size: int
    source: bytes | Digest

    @property
    def is_directory(self) -> bool:
        """Whether this is a directory."""
        return self.name.endswith("/")


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """The members of an archive, in the order of writing."""

    entries: tuple[Entry, ...]

    @property
    def blobs(self) -> tuple[Digest, ...]:
        """The blobs that are read from the store, in the order of writing."""
        return tuple(item.source for item in self.entries if isinstance(item.source, Digest))

    @property
    def size(self) -> int:
        """The sum of the members' sizes in bytes."""
        return sum(item.size for item in self.entries)


def build(
    images: Sequence[ArchiveImage], *, reproducible: bool = False, presumed: bytes | None = None
) -> Layout:
    """Return the layout of an archive: sorted by name, each name once.

    `reproducible` leaves out what depends on where the images were pulled from. `presumed` is the content of
    the file PRESUMED, which comes first: a reader of a stream needs it before the blobs.
    """
    entries = [
        _file("index.json", 0o644, _index_json(images, reproducible)),
        _file("oci-layout", 0o444, _OCI_LAYOUT),
        *_directories(images),
    ]
    manifests = _manifest_json(images)
    if manifests is not None:
        entries.append(_file("manifest.json", 0o644, manifests))
    for image in images:
        entries.extend(_blob(item, image.generated) for item in image.blobs)
    named = {item.name: item for item in reversed(entries)}
    first = [] if presumed is None else [_file(PRESUMED, 0o644, presumed)]
    return Layout(entries=(*first, *(named[name] for name in sorted(named))))


def _file(name: str, mode: int, data: bytes) -> Entry:
    return Entry(name=name, mode=mode, size=len(data), source=data)


def _blob(descriptor: Descriptor, generated: Mapping[Digest, bytes]) -> Entry:
    source = generated.get(descriptor.digest, descriptor.digest)
    return Entry(name=blob_path(descriptor.digest), mode=0o444, size=descriptor.size, source=source)


def _directories(images: Iterable[ArchiveImage]) -> Iterator[Entry]:
    """Return a directory per digest algorithm; as in containerd, indexes that are targets do not count."""
    algorithms = set[str]()
    for image in images:
        tops = {item.digest for item in image.entries if mediatypes.is_index(item.media_type)}
        algorithms.update(item.digest.algorithm for item in image.blobs if item.digest not in tops)
    names = [f"blobs/{algorithm}/" for algorithm in sorted(algorithms)]
    if names:
        names.insert(0, "blobs/")
    return (Entry(name=name, mode=0o755, size=0, source=b"") for name in names)


def _index_json(images: Sequence[ArchiveImage], reproducible: bool) -> bytes:
    manifests: list[dict[str, Any]] = []
    for image in images:
        names = {IMAGE_NAME: image.name, REF_NAME: reference.oci_ref_name(image.name)}
        sources = {} if reproducible else dict(image.sources)
        manifests += [_annotated(_clean(item, reproducible), names | sources) for item in image.entries]
        manifests += [_annotated(_clean(item, reproducible), sources) for item in image.companions]
    referrers = graph.by_digest(item for image in images for item in image.referrers)
    manifests += [gojson.descriptor(referrers[digest]) for digest in sorted(referrers)]
    return gojson.marshal({"schemaVersion": 2, "mediaType": mediatypes.OCI_INDEX, "manifests": manifests})


def _annotated(descriptor: Descriptor, annotations: Mapping[str, str]) -> dict[str, Any]:
    merged = {**descriptor.annotations, **annotations}
    return gojson.descriptor(msgspec.structs.replace(descriptor, annotations=merged))


def _clean(descriptor: Descriptor, reproducible: bool) -> Descriptor:
    """Remove the source annotations that an import copied from an earlier archive into the record."""
    if not reproducible:
        return descriptor
    kept = {
        key: value
        for key, value in descriptor.annotations.items()
        if not key.startswith(mediatypes.DISTRIBUTION_SOURCE)
    }
    return msgspec.structs.replace(descriptor, annotations=kept)


def _manifest_json(images: Iterable[ArchiveImage]) -> bytes | None:
    """Return manifest.json, with an entry per manifest and all its names; None if there are none."""
    chosen: dict[Digest, DockerEntry] = {}
    tags: dict[Digest, list[str]] = {}
    for image in images:
        if image.docker is not None:
            chosen.setdefault(image.docker.manifest, image.docker)
            tags.setdefault(image.docker.manifest, []).extend(repo_tags(image.name))
    if not chosen:
        return None
    return gojson.marshal(
        [
            {
                "Config": blob_path(entry.config),
                "RepoTags": tags[digest] or None,
                "Layers": [blob_path(layer) for layer in entry.layers] or None,
            }
            for digest, entry in chosen.items()
        ]
    )


def repo_tags(name: str) -> list[str]:
    """Return an image's name as docker accepts it, none for a name with a digest or without that form."""
    try:
        parsed = reference.parse(name)
    except InvalidReference:
        return []
    return [] if parsed.digest else [parsed.familiar]
