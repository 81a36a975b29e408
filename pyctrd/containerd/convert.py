"""Convert between the generated protobuf messages and pyctrd's models.

Messages are built field by field: their well-known types live in a private descriptor pool, so protobuf
objects from another pool cannot be assigned to their fields (pyctrd/protos/_registry.py).
"""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final, Protocol

from pyctrd.errors import DaemonError, InvalidReference
from pyctrd.oci.model import (
    EMPTY,
    ContentInfo,
    Descriptor,
    Digest,
    ImageRecord,
    IngestStatus,
    Mount,
    SnapshotInfo,
)
from pyctrd.protos.types import descriptor_pb2

if TYPE_CHECKING:
    from pyctrd.protos.services.content.v1 import content_pb2
    from pyctrd.protos.services.images.v1 import images_pb2
    from pyctrd.protos.services.snapshots.v1 import snapshots_pb2
    from pyctrd.protos.types import mount_pb2


class _Timestamp(Protocol):
    """google.protobuf.Timestamp from any descriptor pool."""

    seconds: int
    nanos: int


class _Record(Protocol):
    """A message with these times."""

    @property
    def created_at(self) -> _Timestamp: ...
    @property
    def updated_at(self) -> _Timestamp: ...


# Of a snapshot, by their number in the protocol.
_KINDS: Final = dict(enumerate(("unknown", "view", "active", "committed")))
_SHOWN = 100  # characters of an invalid text
_INTERNED = 32  # characters of a value that may be that of many labels
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def to_datetime(stamp: _Timestamp) -> dt.datetime | None:
    """Return a time in UTC; None if it is unset, or out of Python's range.

    Go's zero time, the year 1, also means unset.
    """
    if stamp.seconds <= 0 and not (stamp.seconds == 0 and stamp.nanos):
        return None
    try:
        return _EPOCH + dt.timedelta(seconds=stamp.seconds, microseconds=stamp.nanos // 1000)
    except OverflowError:
        return None


def _to_times(message: _Record) -> tuple[dt.datetime | None, dt.datetime | None]:
    """Return when a record was created and updated: the same object if it was not changed since."""
    created = to_datetime(message.created_at)
    updated = to_datetime(message.updated_at)
    return created, created if updated == created else updated


def to_digest(text: str) -> Digest:
    """Return a digest. Raises DaemonError if containerd sent an invalid one."""
    try:
        return Digest(text)
    except InvalidReference as error:
        raise _unusable(f"invalid checksum digest format: {text[:_SHOWN]!r}") from error


def _to_size(number: int) -> int:
    if number < 0:
        raise _unusable(f"a size of {number} bytes")
    return number


def _unusable(what: str) -> DaemonError:
    return DaemonError(
        f"containerd's response cannot be used: {what}",
        code="DATA_LOSS",
        hint="check that a containerd listens on this socket (`ctr version`)",
    )


def _to_labels(labels: Mapping[str, str]) -> Mapping[str, str]:
    """Convert labels or annotations; lists have the same keys and short values many times."""
    return {sys.intern(key): _to_value(value) for key, value in labels.items()} if labels else EMPTY


def _to_value(text: str) -> str:
    return text if len(text) > _INTERNED else sys.intern(text)


def to_descriptor(message: descriptor_pb2.Descriptor) -> Descriptor:
    """Convert a descriptor; containerd's has no platform, urls or data."""
    return Descriptor(
        media_type=sys.intern(message.media_type),
        digest=to_digest(message.digest),
        size=_to_size(message.size),
        annotations=_to_labels(message.annotations),
    )


def from_descriptor(descriptor: Descriptor) -> descriptor_pb2.Descriptor:
    """Convert a descriptor to containerd's."""
    return descriptor_pb2.Descriptor(
        media_type=descriptor.media_type,
        digest=descriptor.digest,
        size=descriptor.size,
        annotations=descriptor.annotations,
    )


def to_mounts(messages: Iterable[mount_pb2.Mount]) -> tuple[Mount, ...]:
    """Convert mounts."""
    return tuple(
        Mount(type=item.type, source=item.source, target=item.target, options=tuple(item.options))
        for item in messages
    )


def from_mounts(mounts: Iterable[Mount]) -> list[mount_pb2.Mount]:
    """Convert mounts to containerd's."""
    from pyctrd.protos.types import mount_pb2

    return [
        mount_pb2.Mount(type=item.type, source=item.source, target=item.target, options=item.options)
        for item in mounts
    ]


def to_content_info(message: content_pb2.Info) -> ContentInfo:
    """Convert the description of a blob."""
    created, updated = _to_times(message)
    return ContentInfo(
        digest=to_digest(message.digest),
        size=_to_size(message.size),
        labels=_to_labels(message.labels),
        created_at=created,
        updated_at=updated,
    )


def to_ingest_status(message: content_pb2.Status) -> IngestStatus:
    """Convert the status of an unfinished write."""
    return IngestStatus(
        ref=message.ref,
        offset=message.offset,
        total=message.total,
        expected=message.expected,
        started_at=to_datetime(message.started_at),
        updated_at=to_datetime(message.updated_at),
    )


def to_image_record(message: images_pb2.Image) -> ImageRecord:
    """Convert an image record. The answer to an update has removed labels with empty values."""
    created, updated = _to_times(message)
    labels = _to_labels(message.labels)
    return ImageRecord(
        name=message.name,
        target=to_descriptor(message.target),
        labels=labels if all(labels.values()) else {key: value for key, value in labels.items() if value},
        created_at=created,
        updated_at=updated,
    )


def from_image_record(image: ImageRecord) -> images_pb2.Image:
    """Convert an image record to containerd's, without times, which the server sets."""
    from pyctrd.protos.services.images.v1 import images_pb2

    return images_pb2.Image(name=image.name, labels=image.labels, target=from_descriptor(image.target))


def to_snapshot_info(message: snapshots_pb2.Info) -> SnapshotInfo:
    """Convert the description of a snapshot."""
    created, updated = _to_times(message)
    return SnapshotInfo(
        name=message.name,
        parent=message.parent,
        kind=_KINDS.get(message.kind, ""),
        labels=_to_labels(message.labels),
        created_at=created,
        updated_at=updated,
    )
