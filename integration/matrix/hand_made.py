"""Cases of the random matrix that were written by hand, since they occur in practice."""

from __future__ import annotations

from collections.abc import Callable, Collection

from integration.matrix.random_cases import Case
from tests.support import shapes
from tests.support.images import Blob, Graph, config, index, layer, manifest, platform

AMD64, ARM64 = "linux/amd64", "linux/arm64"
_CACHE_CONFIG = "application/vnd.buildkit.cacheconfig.v0"


def _image(on: str, salt: str = "") -> Graph:
    made = shapes.layers_for(on, 2, salt)
    return manifest(config(made, on), made, on=on)


def _layers(graph: Graph, *positions: int) -> set[str]:
    """The layers of the children at these positions."""
    return {item["digest"] for position in positions for item in graph.child(position).document()["layers"]}


def _without_platforms() -> tuple[Graph, set[str]]:
    """The closest child's manifest is absent, and a layer of the other one."""
    graph = shapes.without_platforms()
    return graph, {graph.child(0).digest, *_layers(graph, 1)}


def _nested() -> tuple[Graph, set[str]]:
    """The nested index and a layer of the host's image are absent."""
    graph = index([_image(AMD64), shapes.multi([ARM64])])
    return graph, {graph.child(1).digest, *_layers(graph, 0)}


def _nested_elsewhere() -> tuple[Graph, set[str]]:
    """The nested index is missing, and no other child is for the host."""
    graph = index([_image(ARM64), shapes.multi(["linux/s390x"])])
    return graph, {graph.child(1).digest}


def _cache() -> tuple[Graph, set[str]]:
    """A BuildKit cache with image-manifest=false: layers and an index of them, and no manifest."""
    blobs = [layer({"cached": b"cached\n" * 9}), Blob(b'{"layers":[],"records":[]}', _CACHE_CONFIG)]
    return index([Graph(one.descriptor, {one.digest: one.data}) for one in blobs]), set()


def _cache_with_gap() -> tuple[Graph, set[str]]:
    graph, _ = _cache()
    return graph, {graph.child(1).digest}


def _artifact() -> tuple[Graph, set[str]]:
    """An artifact in the index whose manifest is missing."""
    graph = index([_image(AMD64), shapes.artifact()])
    document = graph.child(1).document()
    return graph, {graph.child(1).digest, document["layers"][0]["digest"], *_layers(graph, 0)}


def _no_index() -> tuple[Graph, set[str]]:
    graph = index([_image(AMD64), _image(ARM64)])
    return graph, {graph.digest}


def _features() -> tuple[Graph, set[str]]:
    """The only child for the host has os.features, and a layer is absent."""
    described = {**platform(AMD64), "os.features": ["sse4"]}
    graph = index([_image(AMD64).described_as(platform=described), _image(ARM64)])
    return graph, _layers(graph, 0)


def _arm64_twice() -> tuple[Graph, set[str]]:
    """arm64 and arm64/v8 are the same platform, and both are incomplete."""
    graph = index([_image(ARM64), _image("linux/arm64/v8", "again")])
    return graph, _layers(graph, 0, 1)


def _all_here() -> tuple[Graph, set[str]]:
    return index([_image(AMD64), _image(ARM64)]), set()


def _a_gap() -> tuple[Graph, set[str]]:
    graph, _ = _all_here()
    return graph, _layers(graph, 0)


GAPS: dict[str, Callable[[], tuple[Graph, set[str]]]] = {
    "children without platforms": _without_platforms,
    "nested index absent": _nested,
    "nested index absent, none for the host": _nested_elsewhere,
    "cache": _cache,
    "cache with a gap": _cache_with_gap,
    "artifact absent": _artifact,
    "index gone": _no_index,
    "os.features": _features,
    "arm64 twice": _arm64_twice,
}
NAMES: dict[str, Callable[[str, Graph], str]] = {
    "no tag": lambda place, _: place,
    "short": lambda _, __: "pause:3.10",
    "CRI's id": lambda _, graph: str(graph.child(0).document()["config"]["digest"]),
    "local tag": lambda place, _: f"{place.partition('/')[0]}/local/copy:1",
    "digest": lambda place, graph: f"{place}@{graph.digest}",
}


def with_gaps(what: str, ask: Collection[str], port: int) -> Case:
    """A case of GAPS, under the name that it was pulled by."""
    graph, gone = GAPS[what]()
    return _case(what, graph, gone, ask, port)


def named(how: str, whole: bool, port: int) -> Case:
    """A case of NAMES; `whole`: nothing is missing."""
    graph, gone = _all_here() if whole else _a_gap()
    return _case(how, graph, gone, (), port, NAMES[how])


def _case(
    what: str,
    graph: Graph,
    gone: set[str],
    ask: Collection[str],
    port: int,
    name: Callable[[str, Graph], str] = lambda place, _: f"{place}:1",
) -> Case:
    return Case(
        seed=what,
        graph=graph,
        repository="made/by-hand",
        name=name(f"127.0.0.1:{port}/made/by-hand", graph),
        name_kind=what,
        sources={"containerd.io/distribution.source.127.0.0.1": "made/by-hand"},
        have=frozenset(graph.blobs) - gone,
        ask=tuple(ask),
    )
