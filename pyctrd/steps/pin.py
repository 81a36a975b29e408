"""Putting content that is here under the lease in force, so that nobody collects it meanwhile."""

from __future__ import annotations

from typing import Final

from pyctrd.errors import AlreadyExists, ContentError, NotFound
from pyctrd.oci.model import Descriptor, blob_path
from pyctrd.ports import ContentStore

_HOLD: Final = "pyctrd-hold-"


def pin(content: ContentStore, descriptor: Descriptor) -> bool:
    """Put a blob under the lease; gives False where it is absent.

    The content service leases an existing blob when somebody wants to write it, and not when it is read
    (containerd core/metadata/content.go Writer).
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
    ref = f"{_HOLD}{descriptor.digest}"
    try:
        with content.open_ingest(ref, digest=descriptor.digest, size=descriptor.size):
            pass
    except AlreadyExists:
        return True
    content.abort(ref)  # the collector was faster than we
    return False
