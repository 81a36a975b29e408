"""What a containerd has besides content and images: leases, containers, namespaces, snapshots in use.

Source: containerd's api/services, one folder per service.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from pyctrd.oci.expiry import expiry_of
from pyctrd.oci.model import Platform

PURPOSE_LABEL: Final = "pyctrd.io/command"


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A lease in a namespace."""

    id: str
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)
    created_at: dt.datetime | None = None

    @property
    def expires_at(self) -> dt.datetime | None:
        """When the lease expires; None if it does not, or if containerd ignores its label as invalid."""
        return expiry_of(self.labels)

    @property
    def purpose(self) -> str:
        """The command that created the lease, if that was pyctrd's."""
        return self.labels.get(PURPOSE_LABEL, "")

    def is_expired(self, now: dt.datetime) -> bool:
        """Whether the lease has expired, so that it protects nothing any more."""
        expiry = self.expires_at
        return expiry is not None and now > expiry


class LeaseResource(msgspec.Struct, frozen=True, kw_only=True):
    """An object that a lease protects.

    `type` is `content`, `ingests`, `images` (containerd 2) or `snapshots/<snapshotter>`.
    """

    type: str
    id: str


class Namespace(msgspec.Struct, frozen=True, kw_only=True):
    """A namespace and its labels."""

    name: str
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)

    @property
    def is_shareable(self) -> bool:
        """Whether other namespaces may use its content even if content is isolated.

        Source: containerd core/metadata/content.go isSharedContent.
        """
        return self.labels.get("containerd.io/namespace.shareable") == "true"


class Container(msgspec.Struct, frozen=True, kw_only=True):
    """A container: what it runs is `image`, its root filesystem the snapshot `snapshot_key`.

    `image` is a name, which may have moved to another image since. Containers of CRI also have `image_id`,
    the digest of the image's config.
    """

    id: str
    image: str = ""
    image_id: str = ""
    snapshotter: str = ""
    snapshot_key: str = ""
    runtime: str = ""
    sandbox: str = ""
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)
    created_at: dt.datetime | None = None
    updated_at: dt.datetime | None = None


class SnapshotUsage(msgspec.Struct, frozen=True, kw_only=True):
    """The disk space of one snapshot, without its parents: bytes of its blocks, and inodes."""

    bytes: int
    inodes: int


class DiskSpace(msgspec.Struct, frozen=True, kw_only=True):
    """The file system that a folder of containerd is on: its size, and the bytes that are free for it."""

    root: str
    bytes: int
    bytes_free: int


class Plugin(msgspec.Struct, frozen=True, kw_only=True):
    """A plugin of containerd; `error` says why it did not start, and is empty if it did.

    `platforms` are those that it works for, the preferred one first; none means any. `exports` are values
    that it publishes about its state and configuration.
    """

    type: str
    id: str
    capabilities: tuple[str, ...] = ()
    platforms: tuple[Platform, ...] = ()
    exports: Mapping[str, str] = msgspec.field(default_factory=dict)
    error: str = ""

    @property
    def status(self) -> Literal["ok", "skip", "error"]:
        """`ok`, `error`, or `skip` for a plugin that this machine does not support or need.

        Source: containerd cmd/ctr/commands/plugins/plugins.go, github.com/containerd/plugin ErrSkipPlugin.
        """
        if not self.error:
            return "ok"
        return "skip" if "skip plugin" in self.error else "error"


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened in a containerd.

    `kind` and `action` name it as Docker does, e.g. `container` and `die`; `name` is the object's: an image's
    name, a container's id, a digest, a snapshot's key. `payload` are the fields of containerd's message; it
    is None if `type_url` is unknown.
    """

    time: dt.datetime | None
    namespace: str
    topic: str
    kind: str
    action: str
    name: str
    type_url: str
    payload: Mapping[str, Any] | None


class DaemonVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A containerd's version, e.g. `1.7.24~ds1`, and the commit it was built from, if known."""

    version: str
    revision: str = ""

    @property
    def is_1(self) -> bool:
        """Whether this is containerd 1.x."""
        return self.version.lstrip("v").startswith("1.")
