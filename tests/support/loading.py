"""Archives of images in memory, and an empty store to load them into."""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Mapping
from typing import IO, Any, cast

from pyctrd.archive.reader import open_archive
from pyctrd.oci.model import Digest
from pyctrd.operations.load import LoadOptions, LoadResult, load
from pyctrd.progress import Progress
from tests.support import images
from tests.support.images import Graph, reachable, to_json
from tests.support.memory import MemoryStore
from tests.support.selections import selected
from tests.support.tars import Pipe, tar_of

NAME = "registry.example/team/app:latest"
TODAY = dt.date(2026, 11, 27)
IMPORT = f"import-{TODAY}"
IMAGE_NAME = "io.containerd.image.name"
REF_NAME = "org.opencontainers.image.ref.name"


def entry(graph: Graph, name: str = "", *, tag: str = "", **members: Any) -> dict[str, Any]:
    """An entry of index.json."""
    given = {IMAGE_NAME: name, REF_NAME: tag}
    annotations = {**graph.root.get("annotations", {}), **{key: one for key, one in given.items() if one}}
    made = {**graph.root, **({"annotations": annotations} if annotations else {}), **members}
    return {key: value for key, value in made.items() if value is not None}


def layout(
    *entries: dict[str, Any], blobs: Mapping[str, bytes], without: set[str] | frozenset[str] = frozenset()
) -> dict[str, bytes]:
    """The files of an OCI layout, with index.json last, as containerd and pyctrd write them."""
    index = {"schemaVersion": 2, "mediaType": images.OCI_INDEX, "manifests": list(entries)}
    return {
        **{f"blobs/sha256/{one[7:]}": data for one, data in blobs.items() if one not in without},
        "index.json": to_json(index),
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
    }


def archive_of(graph: Graph, name: str = NAME, **how: Any) -> bytes:
    return tar_of(layout(entry(graph, name), blobs=reachable(graph), **how))


class Bench:
    """An empty store."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.events: list[Progress] = []

    def load(
        self, data: bytes, *platforms: str, pipe: bool = False, dry_run: bool = False, **how: Any
    ) -> LoadResult:
        source = cast("IO[bytes]", Pipe(data, 100_000)) if pipe else io.BytesIO(data)
        return self.load_file(source, *platforms, dry_run=dry_run, **how)

    def load_file(self, source: IO[bytes], *platforms: str, dry_run: bool = False, **how: Any) -> LoadResult:
        options = LoadOptions(platforms=selected(*platforms), **how)
        with open_archive(source) as archive:
            return load(
                self.store,
                archive,
                options,
                today=TODAY,
                dry_run=dry_run,
                progress=self.events.append,
            )

    @property
    def here(self) -> set[str]:
        """What stays after a collection."""
        self.store.collect_garbage()
        return set(self.store.state.blobs)

    @property
    def names(self) -> set[str]:
        return set(self.store.state.images)

    def labels(self, digest: str) -> dict[str, str]:
        found = self.store.content.info(Digest(digest)).labels
        prefix = "containerd.io/gc.ref.content."
        return {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}

    def check_nothing_is_left(self) -> None:
        assert self.store.images.list() == ()
        assert self.store.state.leases == {}
        assert (self.here, self.store.state.ingests, self.store.state.snapshots) == (set(), {}, {})


def docker_archive(graph: Graph, *tags: str, config_first: bool = False) -> bytes:
    """What docker, podman and build tools write."""
    document = graph.document()
    config = {"config.json": graph.blobs[document["config"]["digest"]]}
    layers = {f"{number}.tar": graph.blobs[one["digest"]] for number, one in enumerate(document["layers"])}
    files = {**config, **layers} if config_first else {**layers, **config}
    listed = [{"Config": "config.json", "RepoTags": list(tags) or None, "Layers": list(layers)}]
    return tar_of({**files, "manifest.json": to_json(listed), "repositories": b"{}"})


def manifest_of(graph: Graph, position: int) -> set[str]:
    return set(reachable(graph.child(position)))
