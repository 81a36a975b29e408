"""Why something is still here: the chains of references that keep it from the garbage collector."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from pyctrd.errors import AmbiguousReference, ImageNotFound, InvalidReference, NotFound, Remedy
from pyctrd.oci import reference
from pyctrd.oci.model import ImageRecord
from pyctrd.operations.lookup import without_a_pull
from pyctrd.ports import Containerd
from pyctrd.steps.gc_graph import GcGraph, Link
from pyctrd.steps.gc_nodes import Node
from pyctrd.steps.image_use import ImageUse, all_uses
from pyctrd.steps.removal import Reference, read_graph

_LISTED: Final = 8


class WhyResult(msgspec.Struct, frozen=True, kw_only=True):
    """What keeps an object: blobs or snapshots of a name, or an image.

    `objects` are what the name stands for, mostly one. Each of `chains` leads from an image, a lease, a
    container, an unfinished write, or something with a root label, to one of them, the shortest first.
    Without a chain, the next collection removes it. Of an image, the first chain is its record, and the
    others are what else keeps its content; `containers` are the ids of the containers that use it, and
    `pinned` the records that are pinned for Kubernetes.
    """

    objects: tuple[Reference, ...]
    chains: tuple[tuple[Reference, ...], ...] = ()
    containers: tuple[str, ...] = ()
    pinned: tuple[str, ...] = ()


def why(store: Containerd, text: str, *, find: Callable[[str], ImageRecord], now: dt.datetime) -> WhyResult:
    """Return what keeps a blob, a snapshot or an image.

    The text is an exact name first; then a reference, or a prefix of a digest or of a snapshot's key; `find`
    finds other images. Raises NotFound, AmbiguousReference.
    """
    graph = read_graph(store, now)
    images = graph.state.images
    if text in images:
        return _image(graph, images[text])
    nodes = _named(graph, text)
    if not nodes:
        with suppress(InvalidReference):
            name = str(reference.parse(text))
            if name in images:
                return _image(graph, images[name])
        nodes = _with_prefix(graph, text)
    if nodes:
        return _objects(graph, nodes)
    if (prefix := reference.digest_prefix(text)) is not None:
        return _by_id(store, graph, text, prefix, find)
    with without_a_pull():
        image = find(text)
    return _image(graph, images.get(image.name, image))


def _by_id(
    store: Containerd, graph: GcGraph, text: str, prefix: str, find: Callable[[str], ImageRecord]
) -> WhyResult:
    """Return what keeps an image whose target is missing; nothing else has a digest that begins so."""
    try:
        image = find(text)
    except ImageNotFound:
        raise _not_found(store, text, prefix) from None
    return _image(graph, graph.state.images.get(image.name, image))


def _image(graph: GcGraph, image: ImageRecord) -> WhyResult:
    node, target = Node("image", image.name), Node("content", str(image.target.digest))
    others = (chain for chain in graph.chains(target) if node not in {link.node for link in chain})
    used = all_uses(graph).get(image.target.digest, ImageUse())
    return WhyResult(
        objects=(_of(graph, Link(node, "")),),
        chains=tuple(_chain(graph, chain) for chain in (*graph.chains(node), *others)),
        containers=used.containers,
        pinned=used.pinned,
    )


def _objects(graph: GcGraph, nodes: Sequence[Node]) -> WhyResult:
    chains = [chain for node in nodes for chain in graph.chains(node)]
    return WhyResult(
        objects=tuple(_of(graph, Link(node, "")) for node in nodes),
        chains=tuple(_chain(graph, chain) for chain in sorted(chains, key=len)),
    )


def _chain(graph: GcGraph, chain: Iterable[Link]) -> tuple[Reference, ...]:
    return tuple(_of(graph, link) for link in chain)


def _of(graph: GcGraph, link: Link) -> Reference:
    node = link.node
    lease = graph.state.leases[node.name][0] if node.kind == "lease" else None
    return Reference(
        kind=node.kind,
        name=node.name,
        via=link.via,
        snapshotter=node.snapshotter,
        here=node in graph,
        expires_at=graph.expiry_of(node),
        purpose=lease.purpose if lease else "",
    )


def _named(graph: GcGraph, name: str) -> list[Node]:
    """Return the blob and the snapshots with exactly this name: a digest may be both."""
    snapshotters = sorted({snapshotter for snapshotter, _ in graph.state.snapshots})
    possible = [Node("content", name), *(Node("snapshot", name, each) for each in snapshotters)]
    return [node for node in possible if node in graph]


def _with_prefix(graph: GcGraph, text: str) -> list[Node]:
    """Return the blob or the snapshots whose name begins with a text, or a digest with its digits."""
    prefixes = tuple({text, reference.digest_prefix(text) or text})
    state = graph.state
    found = {str(digest) for digest in state.content if digest.startswith(prefixes)}
    found |= {key for _, key in state.snapshots if key.startswith(prefixes)}
    if len(found) > 1:
        candidates = sorted(found)
        listed = ", ".join(candidates[:_LISTED]) + (", ..." if len(candidates) > _LISTED else "")
        raise AmbiguousReference(
            f"{text}: {len(candidates)} blobs and snapshots have names that begin with it: {listed}",
            candidates=candidates,
            hint="use more digits",
        )
    return [node for name in found for node in _named(graph, name)]


def _not_found(store: Containerd, text: str, prefix: str) -> NotFound:
    """Return the error for something that is not here; if it is elsewhere, the hint says where."""
    for namespace in store.namespaces.list():
        if namespace.name != store.namespace:
            other = store.in_namespace(namespace.name)
            if any(True for _ in other.content.list([f"digest~=^{prefix}"])):
                return NotFound(
                    f"content digest {text}: not found",
                    kind="content",
                    name=text,
                    hint=f"it is in the namespace {namespace.name}",
                    remedy=Remedy(namespace=namespace.name),
                )
    return NotFound(
        f"{text}: no blob, snapshot or image has a name that begins with it: not found",
        kind="content",
        name=text,
    )
