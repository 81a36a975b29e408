"""Create image records, all of them or none."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from pyctrd.errors import NotFound, PyctrdError
from pyctrd.oci.model import ImageRecord
from pyctrd.operations.pull import put_record
from pyctrd.ports import ImageStore


def record(images: ImageStore, records: Sequence[ImageRecord]) -> None:
    """Create or update records. After an error, those that were already changed are as they were before.

    Raises DaemonError.
    """
    done: list[tuple[str, ImageRecord | None]] = []
    try:
        for item in records:
            done.append((item.name, _existing(images, item.name)))
            put_record(images, item)
    except BaseException:
        for name, before in reversed(done):
            _restore(images, name, before)
        raise


def _existing(images: ImageStore, name: str) -> ImageRecord | None:
    try:
        return images.get(name)
    except NotFound:
        return None


def _restore(images: ImageStore, name: str, before: ImageRecord | None) -> None:
    with suppress(PyctrdError):  # the first error is raised
        if before is None:
            images.delete(name)
        else:
            images.update(before, fields=["target", "labels"])
