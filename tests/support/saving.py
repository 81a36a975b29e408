"""An image to save, and the archive that is written, read back."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from typing import Any

from pyctrd.oci.model import ImageRecord
from pyctrd.operations.save import SaveOptions, SaveResult, plan, save
from pyctrd.ports import Fetcher
from pyctrd.progress import Progress
from tests.support.images import Graph
from tests.support.memory import MemoryStore
from tests.support.memory_content import State
from tests.support.repository import MemoryRepository
from tests.support.selections import selected

NAME = "registry.example/team/app:1"
SOURCE = "containerd.io/distribution.source.registry.example"


class Bench:
    """An image in a store, all of it or not, and the registry that has all of it."""

    def __init__(self, graph: Graph, *, without: Sequence[str] = (), name: str = NAME) -> None:
        self.graph = graph
        self.store = MemoryStore()
        self.store.put(graph.blobs, without=without)
        self.record = self.store.tag(name, graph.root)
        self.remote = MemoryRepository()
        self.remote.publish(graph)
        self.opened = 0
        self.events: list[Progress] = []

    @property
    def state(self) -> State:
        return self.store.state

    def fetchers(self, _image: ImageRecord) -> Sequence[Fetcher]:
        self.opened += 1
        return [self.remote]

    def save(self, *platforms: str, **options: Any) -> Archive:
        output = io.BytesIO()
        result = self.save_to(output, *platforms, **options)
        assert result.bytes_written == len(output.getvalue())
        return Archive(output.getvalue(), result)

    def save_to(self, output: Any, *platforms: str, **options: Any) -> SaveResult:
        chosen = SaveOptions(platforms=selected(*platforms), **options)
        return save(
            self.store,
            [self.record],
            chosen,
            output,
            fetchers=self.fetchers,
            progress=self.events.append,
        )

    def plan(self, *platforms: str, **options: Any) -> SaveResult:
        chosen = SaveOptions(platforms=selected(*platforms), **options)
        return plan(self.store, [self.record], chosen, fetchers=self.fetchers)


class Archive:
    """A written archive, read back."""

    def __init__(self, raw: bytes, result: SaveResult) -> None:
        self.raw = raw
        self.result = result
        with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
            self.files = {
                item.name: (tar.extractfile(item) or io.BytesIO()).read() for item in tar if item.isfile()
            }
        self.blobs = {f"sha256:{name.rpartition('/')[2]}" for name in self.files if name.startswith("blobs/")}

    @property
    def index(self) -> Any:
        return json.loads(self.files["index.json"])["manifests"]

    @property
    def docker(self) -> Any:
        return json.loads(self.files["manifest.json"]) if "manifest.json" in self.files else None

    def blob(self, digest: str) -> bytes:
        return self.files[f"blobs/sha256/{digest.removeprefix('sha256:')}"]


def layers(graph: Graph) -> list[str]:
    return [item["digest"] for item in graph.document()["layers"]]


def below(graph: Graph) -> set[str]:
    """Return the digests of a manifest and of its content."""
    document = graph.document()
    return {graph.digest, document["config"]["digest"], *layers(graph)}


def foreign_layers(graph: Graph, count: int = 5) -> list[str]:
    return [digest for position in range(1, count) for digest in layers(graph.child(position))]


def everything(graph: Graph) -> set[str]:
    """Return the digests of an index of manifests; the graph may have more, of which it was made."""
    return {graph.digest}.union(*map(below, children(graph)))


def children(graph: Graph) -> list[Graph]:
    return [graph.child(position) for position in range(len(graph.document()["manifests"]))]
