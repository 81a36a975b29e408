"""A random case: an image, its stored content, its name, and the selected platforms."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from integration.matrix.random_images import RandomImage, documents
from tests.support.images import INDEX_TYPES, MANIFEST_TYPES, Graph

ASKS: tuple[tuple[str, ...], ...] = (
    *((),) * 5,
    *(("linux/arm64",),) * 3,
    ("all",),
    ("all",),
    ("linux/arm64/v8",),
    ("linux/arm/v7",),
    ("linux/amd64", "linux/arm64"),
    ("linux/riscv64",),
)
TAG = "1"


@dataclass(frozen=True)
class Case:
    """One state of a store and one question.

    `repository` is where the registry has the image; `name` the record's. `sources` are the labels
    `containerd.io/distribution.source.*` of stored content. `have` are the stored digests.
    """

    seed: str
    graph: Graph
    repository: str
    name: str
    name_kind: str
    sources: Mapping[str, str]
    have: frozenset[str]
    ask: tuple[str, ...]

    def __str__(self) -> str:
        """All details of the case, for readers of a failure."""
        lines = [
            f"case {self.seed}: {self.name} ({self.name_kind}), asked for {', '.join(self.ask) or 'host'}",
            f"  sources: {dict(self.sources)}",
            *self._tree(self.graph.root, 1),
        ]
        return "\n".join(lines)

    def _tree(self, item: Mapping[str, object], depth: int) -> list[str]:
        digest = str(item["digest"])
        here = "here  " if digest in self.have else "ABSENT"
        what = str(item["mediaType"]).removeprefix("application/vnd.")
        more = {key: value for key, value in item.items() if key not in ("mediaType", "digest", "size")}
        lines = [f"{'  ' * depth}{here} {digest[7:17]} {what} {json.dumps(more) if more else ''}"]
        document = {}
        if (
            item["mediaType"] in (*MANIFEST_TYPES, *INDEX_TYPES)
            or "/vnd.docker.container.image" in str(item["mediaType"])
            or "config" in str(item["mediaType"])
        ):
            document = json.loads(self.graph.blobs[digest])
        if "architecture" in document:
            lines[0] += f" {document['os']}/{document['architecture']}/{document.get('variant', '')}"
        for child in (
            document.get("config", {}),
            *document.get("layers", ()),
            *document.get("manifests", ()),
        ):
            if isinstance(child, dict) and "mediaType" in child:
                lines += self._tree(child, depth + 1)
        return lines


def make(seed: str, port: int) -> Case:
    """The case of a seed; `port` is that of the registry on 127.0.0.1."""
    random = Random(seed)
    salt = f"c{random.randrange(16**8):08x}"
    graph = RandomImage(random, salt).graph()
    kind = random.choices(list(_NAMES), [weight for weight, _ in _NAMES.values()])[0]
    host = "docker.io" if kind == "hub" else f"127.0.0.1:{port}"
    repository = f"library/{salt}" if kind == "hub" else f"random/{salt}"
    sources = {}
    if random.random() < 0.75:
        paths = [repository] if random.random() < 0.8 else sorted([repository, "other/place"])
        sources = {f"containerd.io/distribution.source.{host.partition(':')[0]}": ",".join(paths)}
    return Case(
        seed=seed,
        graph=graph,
        repository=repository,
        name=_NAMES[kind][1](f"{host}/{repository}", salt, graph, random),
        name_kind=kind,
        sources=sources,
        have=_have(graph, random),
        ask=random.choice(ASKS),
    )


# --- names ------------------------------------------------------------------------------------------------


def _a_config(graph: Graph, random: Random) -> str:
    """A name like those of the CRI plugin: the digest of a config."""
    found = [
        json.loads(graph.blobs[digest]).get("config", {}).get("digest", "") for digest in documents(graph)
    ]
    return next(filter(None, found), f"sha256:{random.randrange(16**64):064x}")


_Name = Callable[[str, str, Graph, Random], str]
_NAMES: dict[str, tuple[int, _Name]] = {
    "plain": (50, lambda full, *_: f"{full}:{TAG}"),
    "hub": (6, lambda full, *_: f"{full}:{TAG}"),
    "digest": (6, lambda full, _salt, graph, _random: f"{full}@{graph.digest}"),
    "tag and digest": (4, lambda full, _salt, graph, _random: f"{full}:{TAG}@{graph.digest}"),
    "no tag": (6, lambda full, *_: full),
    "local tag": (6, lambda full, salt, *_: f"{full.partition('/')[0]}/local/{salt}:{TAG}"),
    "local tag elsewhere": (3, lambda _full, salt, *_: f"nowhere.example/{salt}:{TAG}"),
    "short": (6, lambda _full, salt, *_: f"{salt}:3.10"),
    "bare": (3, lambda _full, salt, *_: salt),
    "path": (3, lambda _full, salt, *_: f"team/{salt}:{TAG}"),
    "CRI's id": (6, lambda _full, _salt, graph, random: _a_config(graph, random)),
    "upper": (3, lambda full, salt, *_: f"{full.partition('/')[0]}/Team/{salt}:{TAG}"),
    "beginning of the digest": (2, lambda _full, _salt, graph, _random: graph.digest[7:13]),
}


# --- missing content --------------------------------------------------------------------------------------


def _have(graph: Graph, random: Random) -> frozenset[str]:
    """Which blobs are stored: as after a pull of one platform, or with random ones missing."""
    way = random.choice(("all", "metadata", "documents", "one", "few", "many", "most"))
    every = sorted(graph.blobs)
    root = graph.digest
    if way == "all":
        return frozenset(every)
    if way in ("metadata", "documents"):
        kept = {root, *(item for item in documents(graph) if way == "metadata" or random.random() < 0.6)}
        kept |= {item for item in _configs(graph) if way == "metadata" or random.random() < 0.6}
        return frozenset(kept | {item for item in every if random.random() < 0.4})
    if way == "one":
        gone = {random.choice(every)}
    else:
        chance = {"few": 0.15, "many": 0.4, "most": 0.7}[way]
        gone = {item for item in every if random.random() < chance}
    if random.random() < 0.93:
        gone.discard(root)
    return frozenset(every) - gone


def _configs(graph: Graph) -> set[str]:
    found = (json.loads(graph.blobs[digest]).get("config") for digest in documents(graph))
    return {item["digest"] for item in found if item}
