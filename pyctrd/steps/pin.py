"""Pin content that is already in the store by adding it to the current lease."""

from __future__ import annotations

from typing import Final

from pyctrd.errors import AlreadyExists, ContentError, NotFound
from pyctrd.oci.model import Descriptor, blob_path
from pyctrd.ports import ContentStore

_REF_PREFIX: Final = "pyctrd-hold-"


def pin(content: ContentStore, descriptor: Descriptor) -> bool:
    """Add a blob to the current lease; return False if the blob is absent.

    The content service adds an existing blob to the lease when a client opens it for writing, not when it is
    read (containerd core/metadata/content.go Writer).
    """
    try:
        size = content.info(descriptor.digest).size
    except NotFound:
        return False
    if size != descriptor.size:
        raise ContentError(
            f"unexpected copy size for {blob_path(descriptor.digest)}: the store has {size} bytes, "
            f"the image says {descriptor.size}"
        )
    ref = f"{_REF_PREFIX}{descriptor.digest}"
    try:
        with content.open_ingest(ref, digest=descriptor.digest, size=descriptor.size):
            pass
    except AlreadyExists:
        return True
    content.abort(ref)  # the garbage collector was faster
    return False
