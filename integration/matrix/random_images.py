"""Random images: valid ones, invalid ones, and other artifacts."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from tests.support import shapes
from tests.support.images import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_EMPTY,
    Blob,
    Graph,
    Layer,
    config,
    index,
    layer,
    manifest,
    platform,
)

PLATFORMS = (
    *("linux/amd64",) * 5,
    *("linux/arm64",) * 3,
    "linux/arm64/v8",
    "linux/arm/v7",
    "linux/arm/v6",
    "linux/386",
    "linux/s390x",
    "linux/amd64/v2",
)
_CACHE_CONFIG = "application/vnd.buildkit.cacheconfig.v0"
_MOST_CHILDREN = 5


class RandomImage:
    """Creates one image. Layers and manifests are drawn from small pools, so that images share them."""

    def __init__(self, random: Random, salt: str) -> None:
        self._random = random
        self._salt = salt
        self._pool = [self._layer(f"common {number}") for number in range(3)]
        self._made: list[Graph] = []
        self._inline = random.random() < 0.5

    def graph(self) -> Graph:
        """Usually an index; otherwise a manifest without one."""
        if self._random.random() < 0.12:
            return self._leaf().described_as(platform=None, annotations=None)
        return self._index(0)

    def _index(self, depth: int) -> Graph:
        """An index of a few children; some are indexes, and some are listed twice."""
        count = self._random.choice((1, 2, 2, 3, 3, 4, _MOST_CHILDREN))
        children = [self._child(depth) for _ in range(count)]
        if self._random.random() < 0.15:
            children.append(shapes.attestation(self._random.choice(children)))
        if self._random.random() < 0.1 and len(children) > 1:
            children.append(children[0])
        return index(children, docker=self._random.random() < 0.2)

    def _child(self, depth: int) -> Graph:
        dice = self._random.random()
        if depth < 2 and dice < 0.12:
            nested = self._index(depth + 1)
            if self._random.random() < 0.2:
                return nested.described_as(platform=platform(self._random.choice(PLATFORMS)))
            return nested
        if self._made and dice < 0.18:
            again = self._random.choice(self._made)
            return again.described_as(platform=platform(self._random.choice(PLATFORMS)))
        made = self._leaf()
        self._made.append(made)
        return made

    def _leaf(self) -> Graph:
        makers: list[tuple[int, Callable[[], Graph]]] = [
            (60, self._image),
            (5, self._artifact),
            (3, lambda: self._described(shapes.wasm(1))),
            (3, self._odd),
            (3, self._cache_layer),
            (3, self._cache_config),
        ]
        weights = [weight for weight, _ in makers]
        maker: Callable[[], Graph] = self._random.choices([make for _, make in makers], weights)[0]
        return maker()

    # --- the leaves

    def _image(self) -> Graph:
        """An image manifest; its config may name another platform than the index, and the index none."""
        random = self._random
        on = random.choice(PLATFORMS)
        inside = on
        if random.random() < 0.12:
            inside = random.choice(PLATFORMS)
        elif random.random() < 0.1:
            inside = on.rpartition("/")[0] if on.count("/") == 2 else on
        docker = random.random() < 0.25
        layers = [self._some_layer(on, docker) for _ in range(random.choice((0, 1, 1, 2, 2, 3)))]
        made = manifest(
            config(layers, inside, docker=docker, marker=random.randrange(3)), layers, docker=docker
        )
        return self._described(made, on)

    def _described(self, made: Graph, on: str = "") -> Graph:
        """Add a platform to the descriptor, in most cases."""
        random = self._random
        dice = random.random()
        if dice < 0.15:
            return made
        described: dict[str, Any] = dict(platform(on or random.choice(PLATFORMS)))
        if dice < 0.22:
            described["os.features"] = random.sample(["sse4", "avx"], random.choice((1, 2)))
        if dice > 0.96:
            described |= {"os": "windows", "os.version": random.choice(("10.0.17763.1", "10.0.20348.9"))}
        return made.described_as(platform=described)

    def _some_layer(self, on: str, docker: bool) -> Layer:
        if not docker and self._random.random() < 0.4:
            return self._random.choice(self._pool)
        return self._layer(f"{on} {self._random.randrange(1000)}", docker=docker)

    def _layer(self, text: str, docker: bool = False) -> Layer:
        kind = "gzip" if docker else self._random.choice(("gzip", "gzip", "gzip", ""))
        return layer(
            {f"file-{self._salt}": f"{self._salt} {text}\n".encode() * 3}, compression=kind, docker=docker
        )

    def _artifact(self) -> Graph:
        """An artifact like those of oras: an empty config, whose descriptor may have inline data."""
        extra = {"data": "e30="} if self._inline else {}
        text = Blob(f"{self._salt} {self._random.randrange(100)}\n".encode(), "text/plain")
        made = manifest(Blob(b"{}", OCI_EMPTY, extra), [text], artifactType="application/vnd.example.thing")
        return made if self._random.random() < 0.5 else self._described(made)

    def _odd(self) -> Graph:
        """Content of an unknown type."""
        return _single_blob(Blob(f'{{"odd":"{self._salt}"}}'.encode(), "application/vnd.odd+json"))

    def _cache_layer(self) -> Graph:
        """A layer in an index, as in a BuildKit cache with image-manifest=false."""
        return _single_blob(self._layer(f"cache {self._random.randrange(1000)}"))

    def _cache_config(self) -> Graph:
        records = {"layers": [{"blob": f"sha256:{self._random.randrange(16**64):064x}"}], "records": []}
        return _single_blob(Blob(json.dumps(records).encode(), _CACHE_CONFIG))


def _single_blob(blob: Blob) -> Graph:
    return Graph(blob.descriptor, {blob.digest: blob.data})


def documents(graph: Graph) -> list[str]:
    """The digests of the indexes and manifests, the root first."""
    found: dict[str, None] = {}
    _collect(graph, graph.root, found)
    return list(found)


def _collect(graph: Graph, descriptor: dict[str, Any], found: dict[str, None]) -> None:
    if descriptor["mediaType"] in (*INDEX_TYPES, *MANIFEST_TYPES):
        found[descriptor["digest"]] = None
    if descriptor["mediaType"] in INDEX_TYPES:
        for child in json.loads(graph.blobs[descriptor["digest"]])["manifests"]:
            _collect(graph, child, found)
