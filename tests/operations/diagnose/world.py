"""A read-only namespace: images are laid out by hand, and every change is an error.

The store has no method that writes, takes a lease, or opens an ingest. A diagnosis that tried would fail with
AttributeError, so each test also shows that nothing is changed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

import msgspec

from pyctrd.errors import NotFound
from pyctrd.oci import graph, mediatypes
from pyctrd.oci.model import (
    ContentInfo,
    Descriptor,
    Digest,
    ImageRecord,
    IngestStatus,
    Platform,
    RootFS,
    SnapshotInfo,
)
from pyctrd.oci.platforms import parse
from pyctrd.oci.resources import Container, DaemonVersion, Lease
from pyctrd.ports import Containerd, Store
from tests.support.filters import image_is_chosen

NAME = "registry.example/team/app:1"


class _Content:
    def __init__(self) -> None:
        self.blobs: dict[Digest, bytes] = {}
        self.labels: dict[Digest, dict[str, str]] = {}

    def info(self, digest: Digest) -> ContentInfo:
        if digest not in self.blobs:
            raise NotFound(f"content digest {digest}: not found", kind="content", name=digest)
        return ContentInfo(
            digest=digest, size=len(self.blobs[digest]), labels=dict(self.labels.get(digest, {}))
        )

    def infos(self, digests: Collection[Digest]) -> dict[Digest, ContentInfo]:
        return {digest: self.info(digest) for digest in digests if digest in self.blobs}

    def list(self, filters: Sequence[str] = ()) -> Iterator[ContentInfo]:
        return (self.info(digest) for digest in self.blobs)

    def read_all(self, digest: Digest, *, limit: int) -> bytes:
        assert self.info(digest).size <= limit
        return self.blobs[digest]

    def read_several(self, documents: Iterable[Descriptor]) -> Iterator[tuple[Digest, bytes]]:
        for document in documents:
            with suppress(NotFound):
                yield document.digest, self.read_all(document.digest, limit=1 << 20)

    def ingests(self) -> Sequence[IngestStatus]:
        return ()


class _Snapshots:
    def __init__(self) -> None:
        self.by_name: dict[tuple[str, str], SnapshotInfo] = {}

    def stat(self, snapshotter: str, name: str) -> SnapshotInfo:
        if (snapshotter, name) not in self.by_name:
            raise NotFound(f"snapshot {name} does not exist: not found", kind="snapshot", name=name)
        return self.by_name[snapshotter, name]

    def list(self, snapshotter: str) -> Iterator[SnapshotInfo]:
        return (info for (owner, _), info in self.by_name.items() if owner == snapshotter)


class _Images:
    def __init__(self) -> None:
        self.records: list[ImageRecord] = []

    def get(self, name: str) -> ImageRecord:
        for item in self.records:
            if item.name == name:
                return item
        raise NotFound(f'image "{name}": not found', kind="image", name=name)

    def list(self, filters: Sequence[str] = ()) -> Sequence[ImageRecord]:
        return [item for item in self.records if image_is_chosen(filters, item)]


class _Containers:
    def __init__(self) -> None:
        self.records: list[Container] = []

    def list(self, filters: Sequence[str] = ()) -> Sequence[Container]:
        assert not filters
        return self.records


class _Leases:
    def list(self, filters: Sequence[str] = ()) -> Sequence[Lease]:
        assert not filters
        return ()


class World:
    """One namespace with content, labels and snapshots."""

    def __init__(self, namespace: str = "default") -> None:
        self.namespace = namespace
        self.content = _Content()
        self.snapshots = _Snapshots()
        self.images = _Images()
        self.containers = _Containers()
        self.leases: Any = _Leases()

    @property
    def store(self) -> Store:
        return cast("Store", self)

    @property
    def containerd(self) -> Containerd:
        return cast("Containerd", self)

    def check_open(self) -> None:
        pass

    def version(self) -> DaemonVersion:
        return DaemonVersion(version="v2.4.2")

    def snapshotters(self) -> Sequence[str]:
        return ("overlayfs",)

    def default_snapshotter(self) -> str:
        return "overlayfs"

    # --- laying out images ---------------------------------------------------------------------------------

    def add(self, media_type: str, raw: bytes, **fields: Any) -> Descriptor:
        """Store bytes, with the labels of a pull if they are a document."""
        digest = Digest.of(raw)
        descriptor = Descriptor(media_type=media_type, digest=digest, size=len(raw), **fields)
        self.content.blobs[digest] = raw
        if graph.has_children(descriptor):
            self.content.labels[digest] = graph.child_labels(graph.children_in(descriptor, raw))
        return descriptor

    def layer(self, text: str, diff: str = "") -> Descriptor:
        """Store a layer whose diff id is the digest of `diff` (default: of the same text)."""
        descriptor = self.add(mediatypes.OCI_LAYER_GZIP, f"packed {text}".encode())
        self.content.labels[descriptor.digest] = {mediatypes.UNCOMPRESSED: diff_id(diff or text)}
        return descriptor

    def manifest(self, platform: str, diffs: Sequence[str], *, packed: str = "", **fields: Any) -> Descriptor:
        """Store a manifest with its config and a layer for each diff; the descriptor has the platform."""
        spec = parse(platform)
        document = {
            "os": spec.os,
            "architecture": spec.architecture,
            "variant": spec.variant,
            "rootfs": {"type": "layers", "diff_ids": [diff_id(item) for item in diffs]},
        }
        config = self.add(mediatypes.OCI_CONFIG, encode(document))
        layers = [self.layer(f"{packed}{item}", item) for item in diffs]
        return self.document(config, layers, platform=spec, **fields)

    def document(self, config: Descriptor, layers: Sequence[Descriptor], **fields: Any) -> Descriptor:
        """Store a manifest of this config and these layers."""
        raw = encode(
            {
                "schemaVersion": 2,
                "mediaType": mediatypes.OCI_MANIFEST,
                "config": plain(config),
                "layers": [plain(item) for item in layers],
            }
        )
        return self.add(mediatypes.OCI_MANIFEST, raw, **fields)

    def attestation(self, subject: Descriptor) -> Descriptor:
        """Store a BuildKit attestation manifest for another manifest."""
        config = self.add(mediatypes.OCI_CONFIG, b'{"os":"unknown","architecture":"unknown"}')
        statement = self.add(mediatypes.IN_TOTO, f"statement about {subject.digest}".encode())
        return self.document(
            config,
            [statement],
            platform=Platform(os="unknown", architecture="unknown"),
            annotations={
                "vnd.docker.reference.type": "attestation-manifest",
                "vnd.docker.reference.digest": str(subject.digest),
            },
        )

    def index(self, *children: Descriptor, **fields: Any) -> Descriptor:
        """Store an index."""
        document = {
            "schemaVersion": 2,
            "mediaType": mediatypes.OCI_INDEX,
            "manifests": [plain(item) for item in children],
        }
        return self.add(mediatypes.OCI_INDEX, encode(document), **fields)

    def unpack(
        self, *diffs: str, snapshotter: str = "overlayfs", labels: Mapping[str, str] | None = None
    ) -> None:
        """Create the committed snapshots of a chain of layers."""
        parent = ""
        for chain_id in RootFS(stated=tuple(map(diff_id, diffs))).chain_ids:
            info = SnapshotInfo(name=chain_id, parent=parent, kind="committed", labels=dict(labels or {}))
            self.snapshots.by_name[snapshotter, chain_id] = info
            parent = chain_id

    # --- removing content ----------------------------------------------------------------------------------

    def remove(self, *descriptors: Descriptor) -> None:
        """Remove content, as if it had never been fetched."""
        for item in descriptors:
            del self.content.blobs[item.digest]
            self.content.labels.pop(item.digest, None)

    def below(self, manifest: Descriptor) -> tuple[Descriptor, tuple[Descriptor, ...]]:
        """Return the config and the layers of a stored manifest."""
        config, *layers = graph.children_in(manifest, self.content.blobs[manifest.digest])
        return config, tuple(layers)

    def unlabel(self, parent: Descriptor, *prefixes: str) -> None:
        """Remove the gc labels of a parent whose last part starts with the prefix."""
        keys = tuple(f"{mediatypes.GC_REF}{prefix}" for prefix in prefixes)
        labels = self.content.labels[parent.digest]
        self.content.labels[parent.digest] = {
            key: value for key, value in labels.items() if not key.startswith(keys)
        }


def record(target: Descriptor, *, name: str = NAME, labels: Mapping[str, str] | None = None) -> ImageRecord:
    """Create an image record; a record's target has no platform."""
    return ImageRecord(
        name=name, target=msgspec.structs.replace(target, platform=None), labels=dict(labels or {})
    )


def diff_id(text: str) -> Digest:
    """Return the diff id of a layer that unpacks to this text."""
    return Digest.of(f"unpacked {text}".encode())


def encode(document: object) -> bytes:
    """Encode as JSON; digests are a subclass of str, which msgspec does not encode by itself."""
    return msgspec.json.encode(document, enc_hook=str)


def plain(descriptor: Descriptor) -> dict[str, Any]:
    """Return the JSON object of a descriptor, without empty fields."""
    fields: dict[str, Any] = msgspec.to_builtins(descriptor, enc_hook=str)
    return {key: value for key, value in fields.items() if value}
