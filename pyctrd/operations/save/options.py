"""What a save is asked to do, and what it did."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from pyctrd.archive.compress import Compression
from pyctrd.archive.contents import IndexMode
from pyctrd.archive.inventory import Have
from pyctrd.errors import InvalidInput
from pyctrd.oci.model import Descriptor, Digest, Platform
from pyctrd.oci.platforms import Selection
from pyctrd.oci.referrers import Referrer

EnsureMode: TypeAlias = Literal["target", "all", "none"]
ArchiveFormat: TypeAlias = Literal["oci", "docker", "dir"]
AttestationMode: TypeAlias = Literal["keep", "drop"]
OnMissing: TypeAlias = Literal["fail", "warn", "skip"]


class SaveOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to save images.

    `ensure` says what is fetched first: the missing content of the saved platforms ("target"), also what
    nerdctl 2.0.0 - 2.0.3 would fetch ("all"), or nothing ("none"). `index` says what to do with an image's
    index. `reproducible` leaves out what depends on this host. `attestations` says whether those of the saved
    platforms are saved; None means only with all platforms. `on_missing` says what to do about platforms
    that an image lacks, or whose content is missing and cannot be fetched: fail, or leave them out. Layers
    that the target is known to `have` are neither fetched nor written. With `referrers`, manifests that refer
    to the saved ones are saved, too.
    """

    platforms: Selection = msgspec.field(default_factory=Selection)
    ensure: EnsureMode = "target"
    index: IndexMode = "keep"
    format: ArchiveFormat = "oci"
    compression: Compression = "none"
    attestations: AttestationMode | None = None
    on_missing: OnMissing = "fail"
    have: Have | None = None
    referrers: bool = False
    reproducible: bool = False
    concurrency: int | None = None

    def __post_init__(self) -> None:
        """Raise InvalidInput for a combination that makes no sense."""
        if self.format == "docker" and self.index != "keep":
            raise InvalidInput(
                f"`index={self.index}` cannot be used with `format=docker`, which has no index"
            )
        if self.format == "docker" and self.have is not None:
            raise InvalidInput(
                "`format=docker` cannot leave out layers: `have` and `since` need an OCI layout"
            )
        if self.format == "docker" and self.referrers:
            raise InvalidInput("`format=docker` has no place for referrers: they need an OCI layout")
        if self.format == "dir" and self.compression != "none":
            raise InvalidInput("a folder cannot be compressed", hint="use `format=oci` with `compress`")


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """What a save left out: a platform or a referrer of an image, or if there is neither, the whole image.

    `missing` is the content that is missing; it is empty if the image does not have the platform.
    """

    image: str
    platform: Platform | None = None
    referrer: Digest | None = None
    missing: tuple[Descriptor, ...] = ()
    message: str = ""


class SaveResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a save did, or with `dry_run` would do.

    `blobs` are the blobs from the store in the archive, in the order of writing. `bytes_resumed` are the
    bytes that an interrupted download had already stored. `bytes_written` is the size of the archive; of a
    `dry_run` it is the size without compression, and for Docker's format with the layers as they are stored.
    `compression` is that of the archive. `presumed` are layers that are left out since the target has them.
    `referrers` are the signatures, SBOMs and the like in the archive. `skipped` was left out because of
    `on_missing`. If `import_platforms` is not empty, `ctr images import` of containerd 1.x refuses the
    archive unless its `--platform` is one of them.
    """

    images: tuple[str, ...]
    platforms: tuple[Platform, ...]
    fetched: tuple[Descriptor, ...]
    bytes_fetched: int
    blobs: tuple[Digest, ...]
    bytes_written: int
    bytes_resumed: int = 0
    compression: Compression = "none"
    presumed: tuple[Descriptor, ...] = ()
    referrers: tuple[Referrer, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    import_platforms: tuple[Platform, ...] = ()
    dry_run: bool = False
