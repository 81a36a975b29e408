"""The image that every fault is about, and the broken ones."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from typing import Any

from integration.rig.faultserver import raw_graph
from tests.support import images
from tests.support.images import OCI_INDEX, OCI_MANIFEST, Graph

LAYER_BYTES = 300_000
WIDE = b'{"schemaVersion":2,"manifests":[' + b",".join([b"[]"] * 1_000_000) + b"]}"


def plain(salt: str) -> Graph:
    """One amd64 image below an index, with a layer that is large enough to be cut."""
    layers = [layer_of(salt), images.layer({"small": salt.encode() * 9})]
    return images.index([images.manifest(images.config(layers), layers, on="linux/amd64")])


def layer_of(salt: str) -> images.Layer:
    return images.random_layer(LAYER_BYTES, zlib.crc32(salt.encode()))


def with_members(media_type: str = OCI_INDEX, **members: object) -> Callable[[str], Graph]:
    """An image whose root is the good one's document with other members."""

    def build(salt: str) -> Graph:
        good = plain(salt)
        text = {**good.document(), **members}
        return raw_graph(images.to_json(text), media_type, good.blobs)

    return build


def of_bytes(body: bytes | Callable[[bytes], bytes], media_type: str = OCI_INDEX) -> Callable[[str], Graph]:
    """An image whose root is these bytes, or the good one's changed."""

    def build(salt: str) -> Graph:
        good = plain(salt)
        text = body(good.blobs[good.digest]) if callable(body) else body
        return raw_graph(text.replace(b"SALT", salt.encode()), media_type, good.blobs)

    return build


def with_layer(**members: Any) -> Callable[[str], Graph]:
    """The good image's manifest as root, with other members in its first layer's descriptor."""

    def build(salt: str) -> Graph:
        good = plain(salt).child(0)
        document = good.document()
        document["layers"][0].update(members)
        return raw_graph(images.to_json(document), OCI_MANIFEST, good.blobs)

    return build


def with_urls(count: int) -> Callable[[str, str], Graph]:
    """The good image with a foreign layer that has so many URLs at the registry."""

    def build(salt: str, host: str) -> Graph:
        urls = [f"http://{host}/elsewhere/{number}" for number in range(count)]
        return with_layer(urls=urls, mediaType=f"{images.OCI_FOREIGN_LAYER}+gzip")(salt)

    return build


def other_platform(salt: str) -> Graph:
    layers = [layer_of(salt)]
    return images.index([images.manifest(images.config(layers, "linux/s390x"), layers, on="linux/amd64")])


def sha512(salt: str) -> Graph:
    layer = layer_of(salt)
    digest = f"sha512:{hashlib.sha512(layer.data).hexdigest()}"
    good = images.manifest(images.config([layer]), [layer])
    document = good.document()
    document["layers"][0]["digest"] = digest
    return raw_graph(images.to_json(document), OCI_MANIFEST, {**good.blobs, digest: layer.data})


def nested(salt: str) -> Graph:
    graph = plain(salt)
    for _ in range(20):
        graph = images.index([graph])
    return graph


def often(member: str, count: int) -> Callable[[str], Graph]:
    def build(salt: str) -> Graph:
        good = plain(salt) if member == "manifests" else plain(salt).child(0)
        document = good.document()
        entry = {key: document[member][0][key] for key in ("mediaType", "digest", "size")}
        document[member] = [entry] * count
        return raw_graph(images.to_json(document), str(good.root["mediaType"]), good.blobs)

    return build
