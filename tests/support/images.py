"""Test images, with the same bytes in every run: graphs of blobs in memory, to push or write as a layout.

Facts about the shapes: OCI image-spec 1.1 (manifest.md, image-index.md, config.md), distribution's
manifest-v2-2 document, and BuildKit's docs/attestations/attestation-storage.md.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import random
import subprocess
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_FOREIGN_LAYER = "application/vnd.oci.image.layer.nondistributable.v1.tar"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_FOREIGN_LAYER = "application/vnd.docker.image.rootfs.foreign.diff.tar"
IN_TOTO = "application/vnd.in-toto+json"
OCTET_STREAM = "application/octet-stream"
MANIFEST_TYPES = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEX_TYPES = (OCI_INDEX, DOCKER_LIST)

Descriptor = dict[str, Any]


def digest_of(data: bytes) -> str:
    """sha256 digest of the bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def to_json(document: object) -> bytes:
    """The bytes that every document here is written as."""
    return json.dumps(document, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Blob:
    """Bytes with the descriptor they are referred to by."""

    data: bytes
    media_type: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further members of the descriptor: annotations, urls, platform, artifactType, data."""

    @property
    def digest(self) -> str:
        """sha256 digest of the data."""
        return digest_of(self.data)

    @property
    def descriptor(self) -> Descriptor:
        """The descriptor, with `extra`."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.data), **self.extra}


@dataclass(frozen=True)
class Layer(Blob):
    """A layer: the blob, and the digest of its tar."""

    diff_id: str = ""


@dataclass(frozen=True)
class Graph:
    """A root descriptor with all blobs reachable from it, including manifests."""

    root: Descriptor
    blobs: Mapping[str, bytes]

    @property
    def digest(self) -> str:
        """The root's digest."""
        return str(self.root["digest"])

    def child(self, position: int) -> Graph:
        """The graph of the index's child at `position`, with the same blobs."""
        document = json.loads(self.blobs[self.digest])
        return Graph(document["manifests"][position], self.blobs)

    def document(self) -> Any:
        """The root's parsed JSON."""
        return json.loads(self.blobs[self.digest])

    def described_as(self, **extra: object) -> Graph:
        """The same graph with further members in its root descriptor; None removes a member."""
        merged = {**self.root, **extra}
        return Graph({key: value for key, value in merged.items() if value is not None}, self.blobs)

    def inlined(self, digest: str) -> str:
        """base64 of a blob, for a descriptor's `data`."""
        return base64.b64encode(self.blobs[digest]).decode()


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """A tar of the files (folders are made as needed), owner root, time 0."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        made: set[str] = set()
        for name in sorted(files):
            parts = name.split("/")[:-1]
            for depth in range(1, len(parts) + 1):
                folder = "/".join(parts[:depth])
                if folder not in made:
                    made.add(folder)
                    entry = tarfile.TarInfo(folder)
                    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                    archive.addfile(entry)
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(files[name]), 0o755
            archive.addfile(entry, io.BytesIO(files[name]))
    return buffer.getvalue()


def layer(
    files: Mapping[str, bytes],
    *,
    compression: str = "gzip",
    docker: bool = False,
    urls: Sequence[str] = (),
    extra: Mapping[str, Any] | None = None,
) -> Layer:
    """A layer of the files; compression is "gzip", "" or "zstd" (the zstd program); urls make it foreign."""
    return layer_of_tar(tar_of(files), compression=compression, docker=docker, urls=urls, extra=extra)


def layer_of_tar(
    tar: bytes,
    *,
    compression: str = "gzip",
    docker: bool = False,
    urls: Sequence[str] = (),
    extra: Mapping[str, Any] | None = None,
) -> Layer:
    """Like `layer`, from a given tar."""
    if docker:
        base = DOCKER_FOREIGN_LAYER if urls else DOCKER_LAYER
        media_type = base + (f".{compression}" if compression else "")
    else:
        base = OCI_FOREIGN_LAYER if urls else OCI_LAYER
        media_type = base + (f"+{compression}" if compression else "")
    members = {**({"urls": list(urls)} if urls else {}), **(extra or {})}
    return Layer(_compress(tar, compression), media_type, members, digest_of(tar))


def _compress(tar: bytes, compression: str) -> bytes:
    if compression == "gzip":
        return gzip.compress(tar, 6, mtime=0)
    if compression == "zstd":
        return subprocess.run(
            ["zstd", "-q", "-c", "-3", "-"], input=tar, capture_output=True, check=True
        ).stdout
    if compression:
        raise ValueError(f"unknown compression: {compression}")
    return tar


def random_layer(size: int, seed: int = 0, *, compression: str = "gzip") -> Layer:
    """A layer with one incompressible file of `size` bytes, the same for the same seed."""
    source = random.Random(seed)
    step = 64 << 20  # randbytes refuses 256 MiB at once
    data = b"".join(source.randbytes(min(step, size - start)) for start in range(0, size, step))
    return layer({f"data/{seed}.bin": data}, compression=compression)


def platform(text: str) -> dict[str, str]:
    """{"os", "architecture", "variant"} of "linux/arm/v7"."""
    return dict(zip(("os", "architecture", "variant"), text.split("/"), strict=False))


def config(
    layers: Iterable[Layer], on: str = "linux/amd64", *, docker: bool = False, **members: object
) -> Blob:
    """An image config for the platform `on` with the layers' diff ids; `members` add or replace others."""
    document = {
        "created": "1970-01-01T00:00:00Z",
        **platform(on),
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/true"]},
        "rootfs": {"type": "layers", "diff_ids": [one.diff_id for one in layers]},
        **members,
    }
    return Blob(to_json(document), DOCKER_CONFIG if docker else OCI_CONFIG)


def manifest(
    config_blob: Blob,
    layers: Sequence[Blob],
    *,
    docker: bool = False,
    on: str | None = None,
    **members: object,
) -> Graph:
    """A manifest of config and layers; `on` is its descriptor's platform; `members` go into the document."""
    media_type = DOCKER_MANIFEST if docker else OCI_MANIFEST
    document = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": config_blob.descriptor,
        "layers": [one.descriptor for one in layers],
        **members,
    }
    root = Blob(to_json(document), media_type, {"platform": platform(on)} if on else {})
    return Graph(root.descriptor, {one.digest: one.data for one in (root, config_blob, *layers)})


def index(children: Sequence[Graph], *, docker: bool = False, **members: object) -> Graph:
    """An index (or Docker manifest list) of the children, nested indexes too."""
    media_type = DOCKER_LIST if docker else OCI_INDEX
    document = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "manifests": [child.root for child in children],
        **members,
    }
    root = Blob(to_json(document), media_type)
    blobs = {digest: data for child in children for digest, data in child.blobs.items()}
    return Graph(root.descriptor, {**blobs, root.digest: root.data})


def reachable(graph: Graph) -> dict[str, bytes]:
    """Return what is reachable from a graph's root; some graphs contain more."""
    found: dict[str, bytes] = {}
    waiting = [graph.root]
    while waiting:
        descriptor = waiting.pop()
        if descriptor["digest"] in found:
            continue
        raw = found[descriptor["digest"]] = graph.blobs[descriptor["digest"]]
        if descriptor["mediaType"] in (*MANIFEST_TYPES, *INDEX_TYPES):
            document = json.loads(raw)
            below = [document.get("config"), *document.get("layers", []), *document.get("manifests", [])]
            waiting += [child for child in below if child]
    return found
