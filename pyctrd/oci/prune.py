"""Rewrite an index so that it only lists the selected manifests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from pyctrd.errors import ContentError, InvalidInput
from pyctrd.oci import gojson, graph, mediatypes, platforms
from pyctrd.oci.model import Descriptor, Digest, Index, parse_json

ORIGINAL_INDEX: Final = "io.pyctrd.original-index.digest"
_LISTED: Final = 8


def only_image(images: Iterable[Descriptor], argument: str = "`index=flatten`") -> Descriptor:
    """Return the only image. Raises InvalidInput, which names the `argument`, for none or several."""
    found = list(graph.by_digest(images).values())
    if len(found) == 1:
        return found[0]
    listed = [platforms.format_all(item.platform) for item in found if item.platform]
    several = "`index=prune`" if argument == "`index=flatten`" else "`format=oci`"
    names = ", ".join(listed[:_LISTED]) + (", ..." if len(listed) > _LISTED else "")
    raise InvalidInput(
        f"{argument} needs one image, but there are {len(found)}{f' ({names})' if names else ''}",
        hint=f"choose one with `platforms`, or use {several} for several",
    )


def pruned(original: Descriptor, raw: bytes, children: Sequence[Descriptor | None]) -> bytes:
    """Return the bytes of an index without the manifests whose item in `children` is None.

    `raw` are the bytes of `original`; `children` has an item for each of its manifests, in order: the same
    descriptor, one with another digest and size if the child was rewritten too, or None. If nothing changes,
    `raw` is returned. All other fields stay, including unknown ones. The annotation
    `io.pyctrd.original-index.digest` is the digest of the index in the registry; pruning a pruned index does
    not change it. The output is deterministic. Raises ContentError if `raw` is not such an index.
    """
    document = parse_json(raw)
    entries = document.get("manifests", []) if isinstance(document, dict) else None
    if not isinstance(entries, list) or len(entries) != len(children):
        raise ContentError(f"invalid desc {original.digest}: not an index of {len(children)} manifests")
    kept = [_entry(entry, child) for entry, child in zip(entries, children, strict=True) if child]
    if kept == entries:
        return raw
    annotations = {ORIGINAL_INDEX: str(original.digest), **document.get("annotations", {})}
    document["manifests"] = kept
    document["annotations"] = gojson.sorted_map(annotations)
    return gojson.marshal(document)


def _entry(entry: dict[str, object], child: Descriptor) -> dict[str, object]:
    if entry.get("digest") == child.digest:
        return entry
    changed = {key: value for key, value in entry.items() if key != "data"}
    return changed | {"digest": str(child.digest), "size": child.size}


def descriptor_of(original: Descriptor, raw: bytes) -> Descriptor:
    """Return the descriptor of a rewritten index; only digest and size differ from the original's."""
    digest = Digest.of(raw, original.digest.algorithm)
    return msgspec.structs.replace(original, digest=digest, size=len(raw), data=b"")


class Pruner:
    """Rewrites indexes so that they list what a step reaches, each once; `generated` are the new ones."""

    def __init__(self, read: graph.ReadDocument, step: graph.Children) -> None:
        self._read = read
        self._step = step
        self._pruned: dict[Digest, Descriptor | None] = {}
        self._read_children = graph.read_children(self.read)
        self.generated: dict[Digest, bytes] = {}

    def read(self, descriptor: Descriptor) -> bytes:
        """Return a document of the original image, or a generated one."""
        return self.generated.get(descriptor.digest) or self._read(descriptor)

    def children(self, descriptor: Descriptor) -> Sequence[Descriptor]:
        """Return the children of a descriptor in the pruned image."""
        step = self._read_children if descriptor.digest in self.generated else self._step
        return step(descriptor)

    def prune(self, descriptor: Descriptor) -> Descriptor | None:
        """Return a descriptor, possibly rewritten; None for an index of which nothing is left."""
        if not mediatypes.is_index(descriptor.media_type):
            return descriptor
        if descriptor.digest not in self._pruned:
            self._pruned[descriptor.digest] = self._index(descriptor)
        return self._pruned[descriptor.digest]

    def emptied(self, descriptor: Descriptor) -> Descriptor:
        """Return an index without its manifests."""
        raw = self._read(descriptor)
        return self._rewritten(descriptor, raw, [None] * len(Index.parse(raw).manifests))

    def _index(self, descriptor: Descriptor) -> Descriptor | None:
        raw, inside = self._read(descriptor), set(self._step(descriptor))
        listed = Index.parse(raw).manifests
        children = [self.prune(child) if child in inside else None for child in listed]
        return None if listed and not any(children) else self._rewritten(descriptor, raw, children)

    def _rewritten(
        self, descriptor: Descriptor, raw: bytes, children: Sequence[Descriptor | None]
    ) -> Descriptor:
        new = pruned(descriptor, raw, children)
        if new == raw:
            return descriptor
        changed = descriptor_of(descriptor, new)
        self.generated[changed.digest] = new
        return changed
