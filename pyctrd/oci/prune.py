"""Rewrite an index so that it only lists the selected manifests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from pyctrd.errors import ContentError, InvalidInput
from pyctrd.oci import gojson, graph, platforms
from pyctrd.oci.model import Descriptor, Digest, parse_json

ORIGINAL_INDEX: Final = "io.pyctrd.original-index.digest"
_LISTED: Final = 8


def only_image(images: Iterable[Descriptor]) -> Descriptor:
    """Return the only image, which replaces its index. Raises InvalidInput if there is none, or several."""
    found = list(graph.by_digest(images).values())
    if len(found) == 1:
        return found[0]
    listed = [platforms.format_all(item.platform) for item in found if item.platform]
    names = ", ".join(listed[:_LISTED]) + (", ..." if len(listed) > _LISTED else "")
    raise InvalidInput(
        f"`index=flatten` needs one image, but there are {len(found)}{f' ({names})' if names else ''}",
        hint="choose one with `platforms`, or use `index=prune` for several",
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
