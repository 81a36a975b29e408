"""Single blobs of the content store: find, copy, print, label and remove them."""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from pyctrd.amounts import listed
from pyctrd.errors import (
    REPAIR,
    REPAIR_HINT,
    AmbiguousReference,
    ContentError,
    DigestMismatch,
    InUse,
    InvalidInput,
    InvalidReference,
    NotFound,
    Remedy,
)
from pyctrd.oci import reference
from pyctrd.oci.model import MAX_CONFIG_BYTES, ContentInfo, Digest
from pyctrd.operations.pull import check_labels
from pyctrd.ports import Chunk, Containerd, ContentStore, Store
from pyctrd.steps.gc_graph import GcGraph, Link
from pyctrd.steps.gc_nodes import Node
from pyctrd.steps.removal import read_graph

_GC_LABELS: Final = "containerd.io/gc."
_PEEKED_BYTES: Final = 256
_LISTED: Final = 8
_LIST: Final = Remedy(method="content.list")


def blob_prefix(text: str) -> str:
    """Return `algorithm:hex` for a digest or a prefix of one. Raises InvalidReference for anything else."""
    prefix = reference.digest_prefix(text)
    if prefix is None:
        raise InvalidReference(f"invalid checksum digest format: {text!r}", hint="list them", remedy=_LIST)
    return prefix


def find_blob(content: ContentStore, text: str) -> Digest:
    """Return the digest of the only blob that a digest or a prefix matches.

    A full digest is not looked up. Raises NotFound, AmbiguousReference, InvalidReference.
    """
    prefix = blob_prefix(text)
    with suppress(InvalidReference):
        return Digest(prefix)
    # digest_prefix returns letters, digits and a colon only, none of which is special in a filter.
    found = sorted(info.digest for info in content.list([f"digest~=^{prefix}"]))
    if not found:
        raise NotFound(
            f"content digest {text}: not found", kind="content", name=text, hint="list them", remedy=_LIST
        )
    if len(found) > 1:
        shown = ", ".join(found[:_LISTED]) + (", ..." if len(found) > _LISTED else "")
        raise AmbiguousReference(
            f"ambiguous digest: several blobs begin with {text}: {shown}",
            candidates=found,
            hint="use more digits",
        )
    return found[0]


# --- read -------------------------------------------------------------------------------------------------


def chunks_of(
    content: ContentStore, digest: Digest, *, offset: int = 0, length: int | None = None
) -> Iterator[Chunk]:
    """Yield a part of a blob; of a whole one, the last step compares the digest.

    Raises NotFound, InvalidInput for an offset after the end, DigestMismatch.
    """
    size = content.info(digest).size
    if offset > size:
        raise InvalidInput(f"offset={offset}: content {digest} has only {size} bytes")
    left = size - offset if length is None else min(length, size - offset)
    if not left:
        return
    hashed = hashlib.new(digest.algorithm)
    with content.read(digest, offset=offset, size=left) as chunks:
        for chunk in chunks:
            hashed.update(chunk)
            yield chunk
    actual = f"{digest.algorithm}:{hashed.hexdigest()}"
    if left == size and actual != digest:
        raise DigestMismatch(
            f"unexpected digest {actual}: the content store's {digest} is corrupt",
            expected=digest,
            actual=actual,
            hint=REPAIR_HINT,
            remedy=REPAIR,
        )


def is_document(content: ContentStore, digest: Digest) -> bool:
    """Whether a blob begins like a JSON document. Raises NotFound."""
    with content.read(digest, size=_PEEKED_BYTES) as chunks:
        start = b"".join(map(bytes, itertools.islice(chunks, 1)))
    return start.lstrip()[:1] in (b"{", b"[")


def document(content: ContentStore, digest: Digest, *, indent: bool = True) -> str:
    """Return the text of a JSON document, by default indented.

    Raises NotFound, DigestMismatch, ContentError for anything else.
    """
    if is_document(content, digest):
        raw = content.read_all(digest, limit=MAX_CONFIG_BYTES)
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            return (msgspec.json.format(raw, indent=2) if indent else raw).decode()
    raise ContentError(
        f"content {digest} is not a JSON document",
        hint="get its bytes",
        remedy=Remedy(method="content.save", images=(digest,)),
    )


# --- labels -----------------------------------------------------------------------------------------------


def label(
    content: ContentStore, digest: Digest, labels: Mapping[str, str], *, force: bool = False
) -> ContentInfo:
    """Set labels of a blob; an empty value removes one. Return the blob with all its labels.

    Raises InvalidInput for labels of the garbage collector without `force`, and for labels that are too long;
    NotFound.
    """
    check_labels(labels)
    collected = sorted(key for key in labels if key.startswith(_GC_LABELS))
    if collected and not force:
        raise InvalidInput(
            f"label {collected[0]}: the garbage collector acts on it, so that content may be removed",
            hint="pass `force` to change it anyway",
        )
    content.info(digest)
    content.set_labels(digest, labels)
    return content.info(digest)


# --- remove -----------------------------------------------------------------------------------------------


def remove(
    store: Containerd, texts: Sequence[str], *, force: bool = False, now: dt.datetime
) -> tuple[ContentInfo, ...]:
    """Delete blobs, and return what is gone.

    Without `force`, nothing is deleted if an image, a label of other content, a lease or the blob's own
    label protects one of them. Raises NotFound, InUse.
    """
    digests = tuple(dict.fromkeys(find_blob(store.content, text) for text in texts))
    infos = [store.content.info(digest) for digest in digests]
    if not force:
        _check_unused(users(store, digests, now))
    removed = []
    for info in infos:
        with suppress(NotFound):  # another client was faster
            store.content.delete(info.digest)
            removed.append(info)
    return tuple(removed)


def users(
    store: Containerd, digests: Collection[Digest], now: dt.datetime
) -> Mapping[Digest, tuple[str, ...]]:
    """Return what protects each of these blobs from the garbage collector, apart from each other.

    Raises DaemonError.
    """
    graph = read_graph(store, now)
    nodes = {digest: Node("content", str(digest)) for digest in digests}
    left = graph.without(nodes.values())
    return {
        digest: tuple(_described(graph, node, link) for link in left.referrers(node))
        for digest, node in nodes.items()
    }


def _described(graph: GcGraph, node: Node, link: Link) -> str:
    """Return in words how an object protects a blob: `image NAME`, `content DIGEST (label KEY)`."""
    kind, name, _ = link.node
    if link.node == node:
        return f"its label {link.via}"
    if kind == "lease":
        purpose = graph.state.leases[name][0].purpose
        return f"lease {name}" + (f" ({purpose})" if purpose else "")
    return f"{kind} {name}" + (f" (label {link.via})" if link.via != "target" else "")


def _check_unused(found: Mapping[Digest, Sequence[str]]) -> None:
    for digest, names in found.items():
        if names:
            raise InUse(
                f"content {digest} is in use by {listed(names)}",
                kind="content",
                name=digest,
                users=names,
                hint="remove what uses it, and the garbage collector removes the content; or pass `force`, "
                "which leaves images incomplete",
            )


def copied(chunks: Iterator[Chunk], write: Callable[[Chunk], None], store: Store) -> int:
    """Write chunks, and return how many bytes they had."""
    written = 0
    for chunk in chunks:
        store.check_open()
        write(chunk)
        written += len(chunk)
    return written
