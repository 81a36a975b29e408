"""Which images of a namespace are in use by a container, or pinned against the kubelet's removal."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from pyctrd.oci.mediatypes import GC_REF_SNAPSHOT
from pyctrd.oci.model import Digest, ImageRecord
from pyctrd.oci.resources import Container
from pyctrd.ports import Containerd
from pyctrd.steps.gc_graph import GcGraph, Rules
from pyctrd.steps.gc_nodes import Node
from pyctrd.steps.gc_state import read_state


class ImageUse(msgspec.Struct, frozen=True, kw_only=True):
    """Who uses an image under any of its names.

    `named` maps the ids of the containers that name one of its records to that name, which for CRI may be the
    id of its config; `pinned` are the records with CRI's label for pinned images.
    """

    named: Mapping[str, str] = msgspec.field(default_factory=dict)
    pinned: tuple[str, ...] = ()

    @property
    def containers(self) -> tuple[str, ...]:
        """The ids of the containers."""
        return tuple(self.named)

    def __bool__(self) -> bool:
        """Whether the image is in use or pinned."""
        return bool(self.named or self.pinned)


def uses(images: Iterable[ImageRecord], containers: Iterable[Container]) -> Mapping[Digest, ImageUse]:
    """Return who uses the images, by the digest of their target; unused ones are left out."""
    targets: dict[str, Digest] = {}
    pinned: dict[Digest, list[str]] = {}
    for image in images:
        targets[image.name] = image.target.digest
        if image.is_pinned:
            pinned.setdefault(image.target.digest, []).append(image.name)
    running: dict[Digest, dict[str, str]] = {}
    for container in sorted(containers, key=lambda container: container.id):
        # CRI's records also have the id, which is right even if the name has moved to another image.
        target = targets.get(container.image_id) or targets.get(container.image)
        if target is not None:
            running.setdefault(target, {})[container.id] = container.image
    return {
        digest: ImageUse(named=running.get(digest, {}), pinned=tuple(sorted(pinned.get(digest, ()))))
        for digest in {*pinned, *running}
    }


def uses_in(store: Containerd, images: Iterable[ImageRecord]) -> Mapping[Digest, ImageUse]:
    """Return who uses the images of a namespace; reads its references only if it has containers.

    Raises DaemonError.
    """
    if not store.containers.list():
        return uses(images, ())
    return all_uses(GcGraph(read_state(store), Rules.of(store.version().version), dt.datetime.now(dt.UTC)))


def all_uses(graph: GcGraph) -> Mapping[Digest, ImageUse]:
    """Return who uses the images, as `uses` does, also if the tag that a container names has moved since.

    Such a container still runs on the snapshots of the image that it was made from.
    """
    state = graph.state
    found = dict(uses(state.images.values(), state.containers.values()))
    running = _configs_of_containers(graph)
    if not running:
        return found
    names: dict[Digest, list[Node]] = {}
    for name, image in state.images.items():
        names.setdefault(image.target.digest, []).append(Node("image", name))
    for target, nodes in names.items():
        use = found.get(target, ImageUse())
        if not use.named:
            reached = graph.reached_from(nodes)
            named = {container: name for node in reached for container, name in running.get(node, ())}
            if named:
                found[target] = msgspec.structs.replace(use, named=named)
    return found


def _configs_of_containers(graph: GcGraph) -> Mapping[Node, Sequence[tuple[str, str]]]:
    """Return the containers, with the image that each names, by the content that their snapshots are from.

    The config of an image refers to its top snapshot. Of the snapshots that a container's is on, the first
    one counts that any content refers to: with user namespaces, another one is in between.
    """
    state = graph.state
    configs: dict[tuple[str, str], list[Node]] = {}
    for digest, info in state.content.items():
        for key, name in info.labels.items():
            if key.startswith(GC_REF_SNAPSHOT):
                snapshotter = key.removeprefix(GC_REF_SNAPSHOT).partition("/")[0]
                configs.setdefault((snapshotter, name), []).append(Node("content", str(digest)))
    found: dict[Node, list[tuple[str, str]]] = {}
    for container in state.containers.values():
        below = (container.snapshotter, container.snapshot_key)
        while below in state.snapshots and below not in configs:
            below = (below[0], state.snapshots[below].parent)
        for node in configs.get(below, ()):
            found.setdefault(node, []).append((container.id, container.image))
    return found
