"""Graphs of documents: content by digest, and the descriptors that refer to it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pyctrd.errors import NotFound
from pyctrd.oci import graph, mediatypes
from pyctrd.oci.graph import Children
from pyctrd.oci.model import Descriptor, Digest, Platform

AMD64 = Platform(os="linux", architecture="amd64")
ARM64 = Platform(os="linux", architecture="arm64", variant="v8")
ARM7 = Platform(os="linux", architecture="arm", variant="v7")
UNKNOWN = Platform(os="unknown", architecture="unknown")


class World:
    """Content by digest, and documents made of it."""

    def __init__(self) -> None:
        self.blobs: dict[Digest, bytes] = {}
        self.reads: list[Digest] = []

    def blob(self, media_type: str, data: bytes, platform: Platform | None = None) -> Descriptor:
        digest = Digest.of(data)
        self.blobs[digest] = data
        return Descriptor(media_type=media_type, digest=digest, size=len(data), platform=platform)

    def document(
        self, media_type: str, content: Mapping[str, Any], platform: Platform | None = None
    ) -> Descriptor:
        return self.blob(media_type, json.dumps(content).encode(), platform)

    def manifest(
        self,
        config: Descriptor,
        layers: Sequence[Descriptor],
        platform: Platform | None = None,
        media_type: str = mediatypes.OCI_MANIFEST,
        **more: Any,
    ) -> Descriptor:
        content = {"config": wire(config), "layers": [wire(layer) for layer in layers], **more}
        return self.document(media_type, content, platform)

    def index(
        self,
        manifests: Sequence[Descriptor],
        platform: Platform | None = None,
        media_type: str = mediatypes.OCI_INDEX,
    ) -> Descriptor:
        return self.document(media_type, {"manifests": [wire(child) for child in manifests]}, platform)

    def image(self, name: str, platform: Platform | None, layers: int = 2) -> Descriptor:
        config = self.blob(mediatypes.OCI_CONFIG, f"{name} config".encode())
        content = [self.blob(mediatypes.OCI_LAYER_GZIP, f"{name} {i}".encode()) for i in range(layers)]
        return self.manifest(config, content, platform)

    def read(self, descriptor: Descriptor) -> bytes:
        self.reads.append(descriptor.digest)
        if descriptor.digest not in self.blobs:
            raise NotFound(f"content digest {descriptor.digest}: not found", kind="content", name="")
        return self.blobs[descriptor.digest]

    @property
    def children(self) -> Children:
        return graph.read_children(self.read)


def wire(descriptor: Descriptor) -> dict[str, Any]:
    found: dict[str, Any] = {
        "mediaType": descriptor.media_type,
        "digest": str(descriptor.digest),
        "size": descriptor.size,
    }
    if descriptor.platform:
        found["platform"] = {
            "os": descriptor.platform.os,
            "architecture": descriptor.platform.architecture,
            "variant": descriptor.platform.variant,
        }
    return found


def everything(root: Descriptor, children: Children) -> list[Descriptor]:
    """Walk with a step that may depend on the platform that a document is listed for."""
    return list(graph.preorder(root, children, depends_on=platform_of))


def platform_of(descriptor: Descriptor) -> Platform | None:
    return descriptor.platform


def digests(descriptors: Sequence[Descriptor]) -> list[Digest]:
    return [item.digest for item in descriptors]


def types(root: Descriptor, children: Children) -> list[str]:
    return [mediatypes.ingest_prefix(item.media_type) for item in everything(root, children)]


def identity(descriptor: Descriptor) -> tuple[object, ...]:
    return descriptor.digest, descriptor.media_type, descriptor.platform
