"""Remove images: their records, and with the next collection the content that nothing else refers to."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from pyctrd.errors import ImageInUse, InvalidReference, Remedy
from pyctrd.oci import reference
from pyctrd.oci.image_names import MANAGED, MANAGED_LABEL
from pyctrd.oci.model import PINNED_LABEL, Digest, ImageRecord
from pyctrd.operations.lookup import without_a_pull
from pyctrd.ports import Containerd
from pyctrd.steps.gc_graph import GcGraph
from pyctrd.steps.gc_nodes import Node
from pyctrd.steps.image_use import ImageUse, all_uses
from pyctrd.steps.removal import KeptImage, Reference, Removal, RemoveResult, read_graph

# At most this many images are named in an error, and containers of each.
_NAMED: Final = 3


class RemoveOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How images are removed; see Images.remove."""

    all_names: bool = False
    force: bool = False
    sync: bool = True
    dry_run: bool = False


def remove(
    store: Containerd,
    refs: Sequence[str],
    options: RemoveOptions,
    *,
    find: Callable[[str], ImageRecord],
    now: dt.datetime,
) -> RemoveResult:
    """Remove the images that `find` returns for the references.

    Nothing is removed if one of them is not found, in use or pinned. Raises ImageNotFound, ImageInUse,
    DaemonError.
    """
    with without_a_pull():
        found = {ref: find(ref) for ref in refs}
    graph = read_graph(store, now)
    images = graph.state.images
    chosen = set[str]()
    for ref, image in found.items():
        if options.all_names or _is_id(ref, image):
            digest = image.target.digest
            chosen.update(name for name, other in images.items() if other.target.digest == digest)
        chosen.add(image.name)
    names = sorted(chosen & images.keys())
    if not options.force:
        _check_unused(names, graph, names if options.all_names else refs)
    nodes = [Node("image", name) for name in names]
    removal = Removal(store, graph)
    result = removal.predict(nodes) if options.dry_run else removal.carry_out(nodes, sync=options.sync)
    return msgspec.structs.replace(result, kept=_kept(graph, nodes))


def _is_id(text: str, image: ImageRecord) -> bool:
    """Whether a text is the image's id, or a prefix of it, and not a name.

    A record of CRI whose name is an id stands for the image, too.
    """
    if reference.digest_prefix(text) is None:
        return False
    try:
        names = (text, str(reference.parse(text)))
    except InvalidReference:
        names = (text, text)
    return image.name not in names or image.name.startswith("sha256:")


def _check_unused(names: Iterable[str], graph: GcGraph, refs: Sequence[str]) -> None:
    """Raise ImageInUse if a container needs one of these records, or one is pinned."""
    state = graph.state
    used = all_uses(graph)
    reasons = {name: reason for name in names if (reason := _reason(state.images, name, used))}
    if reasons:
        texts = [f'image "{name}" {reason}' for name, reason in reasons.items()]
        more = f"; and {len(texts) - _NAMED} more" if len(texts) > _NAMED else ""
        raise ImageInUse(
            f"{'; '.join(texts[:_NAMED])}{more}: nothing was removed",
            images=tuple(reasons),
            hint="to remove it anyway",
            remedy=Remedy(method="remove", images=tuple(refs), force=True),
        )


def _reason(images: Mapping[str, ImageRecord], name: str, used: Mapping[Digest, ImageUse]) -> str:
    """Say why a record has to stay; "" if it may go.

    Another name of an image in use may go: the container's own record stays. CRI's records of one image
    belong together, and a container may name any of them; or its name may have moved to another image.
    """
    image = images[name]
    use = used.get(image.target.digest, ImageUse())
    managed = image.labels.get(MANAGED_LABEL) == MANAGED
    containers = [
        container
        for container, named in use.named.items()
        if managed
        or named == name
        or named not in images
        or images[named].target.digest != image.target.digest
    ]
    if containers:
        more = ", ..." if len(containers) > _NAMED else ""
        plural = "s" if len(containers) > 1 else ""
        return f"is in use by container{plural} {', '.join(containers[:_NAMED])}{more}"
    pinned = image.is_pinned
    return f"is pinned (label {PINNED_LABEL})" if pinned or (managed and use.pinned) else ""


def _kept(graph: GcGraph, nodes: Sequence[Node]) -> tuple[KeptImage, ...]:
    """Return the images whose target stays, with what keeps it."""
    left = graph.without(nodes)
    kept = []
    for node in nodes:
        target = Node("content", str(graph.state.images[node.name].target.digest))
        roots = [chain[0] for chain in left.chains(target)] if target in left else ()
        if roots:
            by = tuple(
                Reference(
                    kind=root.node.kind, name=root.node.name, via=root.via, snapshotter=root.node.snapshotter
                )
                for root in roots
            )
            kept.append(KeptImage(name=node.name, by=by))
    return tuple(kept)
