"""Pin content that is already in the store by adding it to the current lease."""

from __future__ import annotations

from collections.abc import Iterable

from pyctrd.errors import ContentError
from pyctrd.oci import graph
from pyctrd.oci.model import Descriptor, blob_path
from pyctrd.ports import Store


def pin(store: Store, descriptors: Iterable[Descriptor]) -> list[Descriptor]:
    """Protect blobs until the lease of the store ends; return those that are absent, each once.

    They are looked up when they are protected, so what is found stays. Raises ContentError for a blob whose
    size is not the descriptor's.
    """
    wanted = graph.by_digest(descriptors)
    store.pin(wanted.keys())
    found = store.content.infos(wanted.keys())
    for digest, info in found.items():
        if info.size != wanted[digest].size:
            raise ContentError(
                f"unexpected copy size for {blob_path(digest)}: the store has {info.size} bytes, "
                f"the image says {wanted[digest].size}"
            )
    return [item for digest, item in wanted.items() if digest not in found]
