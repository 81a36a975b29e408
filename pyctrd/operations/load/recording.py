"""Create image records, all of them or none."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from pyctrd.errors import PyctrdError
from pyctrd.oci.expiry import EXPIRE_LABEL
from pyctrd.oci.model import ImageRecord
from pyctrd.operations.pull import put_record
from pyctrd.ports import ImageStore

# So many records are looked up by one list.
_MANY: Final = 8


def record(images: ImageStore, records: Sequence[ImageRecord], *, may_exist: bool = True) -> None:
    """Create or update records. After an error, those that were already changed are as they were before.

    If they `may_exist` as they are to be, nothing is written then. Raises DaemonError.
    """
    before = _existing(images, [item.name for item in records])
    changed: list[str] = []
    try:
        for item in records:
            if not (may_exist and _is_same(before.get(item.name), item)):
                changed.append(item.name)
                put_record(images, item)
    except BaseException:
        for name in reversed(changed):
            _restore(images, name, before.get(name))
        raise


def _existing(images: ImageStore, names: Sequence[str]) -> dict[str, ImageRecord]:
    """Return those of the records that exist."""
    if len(names) > _MANY:
        return {item.name: item for item in images.list()}
    return dict(images.get_several(names))


def _is_same(existing: ImageRecord | None, item: ImageRecord) -> bool:
    """Whether nothing needs to be written: an image that would expire stays, for one."""
    return (
        existing is not None
        and existing.target == item.target
        and item.labels.items() <= existing.labels.items()
        and EXPIRE_LABEL not in existing.labels
    )


def _restore(images: ImageStore, name: str, before: ImageRecord | None) -> None:
    with suppress(PyctrdError):  # the first error is raised
        if before is None:
            images.delete(name)
        else:
            images.update(before, fields=["target", "labels"])
