"""A client for containerd: pull, diagnose, ensure, save and push images through a containerd socket.

    import pyctrd

    with pyctrd.Client(namespace="k8s.io") as client:
        diagnosis = client.images.diagnose("registry.k8s.io/pause:3.10")
        client.images.save("registry.k8s.io/pause:3.10", "pause.tar")

Names are imported on first use: `import pyctrd` alone loads neither grpc nor an HTTP library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pyctrd.aio import AsyncClient, ProgressStream
    from pyctrd.archive.compress import Compression
    from pyctrd.archive.contents import IndexMode
    from pyctrd.archive.inventory import Inventory, StoredBlob, StoredImage
    from pyctrd.archives import inspect_archive, verify_archive
    from pyctrd.client import Client
    from pyctrd.errors import (
        AlreadyExists,
        AmbiguousReference,
        ArchiveError,
        AuthenticationFailed,
        Cancelled,
        ClientClosed,
        ContentError,
        DaemonError,
        DaemonUnreachable,
        DigestMismatch,
        FailedPrecondition,
        ImageInUse,
        ImageNotFound,
        IngestLocked,
        InUse,
        InvalidInput,
        InvalidPlatform,
        InvalidReference,
        LeaseLost,
        NoMatchingPlatform,
        NotFound,
        PyctrdError,
        RegistryContentError,
        RegistryError,
        RegistryNotFound,
        RegistryUnreachable,
        Remedy,
        Unsupported,
    )
    from pyctrd.oci.details import HistoryEntry, ImageDetails
    from pyctrd.oci.errors import IncompleteContent
    from pyctrd.oci.model import (
        ContentInfo,
        Descriptor,
        Digest,
        ImageConfig,
        ImageRecord,
        Index,
        IngestStatus,
        Manifest,
        Mount,
        Platform,
        SnapshotInfo,
    )
    from pyctrd.oci.platforms import Platforms
    from pyctrd.oci.referrers import Referrer
    from pyctrd.oci.resources import (
        Container,
        DaemonVersion,
        Event,
        Lease,
        LeaseResource,
        Namespace,
        Plugin,
        SnapshotUsage,
    )
    from pyctrd.operations.archives import ArchiveInfo, VerifyArchiveResult
    from pyctrd.operations.archives.survey import ArchivedImage, ArchivedPlatform
    from pyctrd.operations.diagnose import (
        Cause,
        Content,
        Diagnosis,
        DiagnosisSummary,
        ExportForecast,
        PlatformState,
        SaveForecast,
        Tools,
    )
    from pyctrd.operations.doctor.model import (
        Advice,
        BugReport,
        BugReportFile,
        DoctorFinding,
        DoctorReport,
        SkippedCheck,
    )
    from pyctrd.operations.ensure import EnsureResult
    from pyctrd.operations.ensure_all import EnsureAllResult, EnsuredImage
    from pyctrd.operations.history import HistoryStep
    from pyctrd.operations.images.model import ImageOverview, ImagePlatform
    from pyctrd.operations.ingests import AbortResult, Ingest
    from pyctrd.operations.inspect import ImageInfo, ManifestInfo, UnpackedImage
    from pyctrd.operations.leases import LeaseDetails, LeasedSnapshot, LeaseOverview
    from pyctrd.operations.load import LoadedImage, LoadOnMissing, LoadResult
    from pyctrd.operations.namespaces import NamespaceOverview
    from pyctrd.operations.pin import PinResult
    from pyctrd.operations.pull import PullResult
    from pyctrd.operations.save.options import (
        ArchiveFormat,
        AttestationMode,
        EnsureMode,
        OnMissing,
        SaveResult,
        Skipped,
    )
    from pyctrd.operations.snapshots import SnapshotLevel, SnapshotSize
    from pyctrd.operations.sync import SyncResult
    from pyctrd.operations.tag import TagResult
    from pyctrd.operations.unpack import UnpackResult
    from pyctrd.operations.usage import ImageUsage, SnapshotTotal, SpaceTotal, UsageResult
    from pyctrd.operations.verify import Finding, VerifyResult
    from pyctrd.operations.why import WhyResult
    from pyctrd.progress import Progress, ProgressSink
    from pyctrd.registries import Registry
    from pyctrd.registry import Explanation, ReferrerList, RegistryOptions, TagList
    from pyctrd.services.events import EventStream
    from pyctrd.steps.removal import KeptImage, Reference, RemovedBlob, RemovedSnapshot, RemoveResult
    from pyctrd.steps.upload import SendResult
    from pyctrd.steps.upload_plan import PushIndex
    from pyctrd.version import __version__

__all__ = [
    "AbortResult",
    "Advice",
    "AlreadyExists",
    "AmbiguousReference",
    "ArchiveError",
    "ArchiveFormat",
    "ArchiveInfo",
    "ArchivedImage",
    "ArchivedPlatform",
    "AsyncClient",
    "AttestationMode",
    "AuthenticationFailed",
    "BugReport",
    "BugReportFile",
    "Cancelled",
    "Cause",
    "Client",
    "ClientClosed",
    "Compression",
    "Container",
    "Content",
    "ContentError",
    "ContentInfo",
    "DaemonError",
    "DaemonUnreachable",
    "DaemonVersion",
    "Descriptor",
    "Diagnosis",
    "DiagnosisSummary",
    "Digest",
    "DigestMismatch",
    "DoctorFinding",
    "DoctorReport",
    "EnsureAllResult",
    "EnsureMode",
    "EnsureResult",
    "EnsuredImage",
    "Event",
    "EventStream",
    "Explanation",
    "ExportForecast",
    "FailedPrecondition",
    "Finding",
    "HistoryEntry",
    "HistoryStep",
    "ImageConfig",
    "ImageDetails",
    "ImageInUse",
    "ImageInfo",
    "ImageNotFound",
    "ImageOverview",
    "ImagePlatform",
    "ImageRecord",
    "ImageUsage",
    "InUse",
    "IncompleteContent",
    "Index",
    "IndexMode",
    "Ingest",
    "IngestLocked",
    "IngestStatus",
    "InvalidInput",
    "InvalidPlatform",
    "InvalidReference",
    "Inventory",
    "KeptImage",
    "Lease",
    "LeaseDetails",
    "LeaseLost",
    "LeaseOverview",
    "LeaseResource",
    "LeasedSnapshot",
    "LoadOnMissing",
    "LoadResult",
    "LoadedImage",
    "Manifest",
    "ManifestInfo",
    "Mount",
    "Namespace",
    "NamespaceOverview",
    "NoMatchingPlatform",
    "NotFound",
    "OnMissing",
    "PinResult",
    "Platform",
    "PlatformState",
    "Platforms",
    "Plugin",
    "Progress",
    "ProgressSink",
    "ProgressStream",
    "PullResult",
    "PushIndex",
    "PyctrdError",
    "Reference",
    "Referrer",
    "ReferrerList",
    "Registry",
    "RegistryContentError",
    "RegistryError",
    "RegistryNotFound",
    "RegistryOptions",
    "RegistryUnreachable",
    "Remedy",
    "RemoveResult",
    "RemovedBlob",
    "RemovedSnapshot",
    "SaveForecast",
    "SaveResult",
    "SendResult",
    "Skipped",
    "SkippedCheck",
    "SnapshotInfo",
    "SnapshotLevel",
    "SnapshotSize",
    "SnapshotTotal",
    "SnapshotUsage",
    "SpaceTotal",
    "StoredBlob",
    "StoredImage",
    "SyncResult",
    "TagList",
    "TagResult",
    "Tools",
    "UnpackResult",
    "UnpackedImage",
    "Unsupported",
    "UsageResult",
    "VerifyArchiveResult",
    "VerifyResult",
    "WhyResult",
    "__version__",
    "inspect_archive",
    "verify_archive",
]

# Module -> the public names it defines. Names not listed here are in pyctrd.errors.
_HOMES: Final = {
    "aio": ("AsyncClient", "ProgressStream"),
    "archive.compress": ("Compression",),
    "archive.contents": ("IndexMode",),
    "archive.inventory": ("Inventory", "StoredBlob", "StoredImage"),
    "archives": ("inspect_archive", "verify_archive"),
    "client": ("Client",),
    "registries": ("Registry",),
    "operations.archives": ("ArchiveInfo", "VerifyArchiveResult"),
    "operations.archives.survey": ("ArchivedImage", "ArchivedPlatform"),
    "operations.diagnose": (
        "Cause",
        "Content",
        "Diagnosis",
        "DiagnosisSummary",
        "ExportForecast",
        "PlatformState",
        "SaveForecast",
        "Tools",
    ),
    "operations.doctor.model": (
        "Advice",
        "BugReport",
        "BugReportFile",
        "DoctorFinding",
        "DoctorReport",
        "SkippedCheck",
    ),
    "operations.ensure": ("EnsureResult",),
    "oci.details": ("HistoryEntry", "ImageDetails"),
    "operations.ensure_all": ("EnsureAllResult", "EnsuredImage"),
    "oci.errors": ("IncompleteContent",),
    "oci.model": (
        "ContentInfo",
        "Descriptor",
        "Digest",
        "ImageConfig",
        "ImageRecord",
        "Index",
        "IngestStatus",
        "Manifest",
        "Mount",
        "Platform",
        "SnapshotInfo",
    ),
    "oci.platforms": ("Platforms",),
    "oci.referrers": ("Referrer",),
    "oci.resources": (
        "Container",
        "DaemonVersion",
        "Event",
        "Lease",
        "LeaseResource",
        "Namespace",
        "Plugin",
        "SnapshotUsage",
    ),
    "progress": ("Progress", "ProgressSink"),
    "operations.pin": ("PinResult",),
    "operations.pull": ("PullResult",),
    "registry": ("Explanation", "ReferrerList", "RegistryOptions", "TagList"),
    "operations.history": ("HistoryStep",),
    "operations.images.model": ("ImageOverview", "ImagePlatform"),
    "operations.ingests": ("AbortResult", "Ingest"),
    "operations.leases": ("LeaseDetails", "LeaseOverview", "LeasedSnapshot"),
    "operations.namespaces": ("NamespaceOverview",),
    "operations.snapshots": ("SnapshotLevel", "SnapshotSize"),
    "services.events": ("EventStream",),
    "operations.inspect": ("ImageInfo", "ManifestInfo", "UnpackedImage"),
    "operations.load": ("LoadOnMissing", "LoadResult", "LoadedImage"),
    "operations.save.options": (
        "ArchiveFormat",
        "AttestationMode",
        "EnsureMode",
        "OnMissing",
        "SaveResult",
        "Skipped",
    ),
    "steps.removal": ("KeptImage", "Reference", "RemoveResult", "RemovedBlob", "RemovedSnapshot"),
    "steps.upload": ("SendResult",),
    "steps.upload_plan": ("PushIndex",),
    "operations.sync": ("SyncResult",),
    "operations.tag": ("TagResult",),
    "operations.unpack": ("UnpackResult",),
    "operations.usage": ("ImageUsage", "SnapshotTotal", "SpaceTotal", "UsageResult"),
    "operations.verify": ("Finding", "VerifyResult"),
    "operations.why": ("WhyResult",),
    "version": ("__version__",),
}
_HOME_OF: Final = {name: module for module, names in _HOMES.items() for name in names}


if not TYPE_CHECKING:  # type checkers use the imports above, and report names that do not exist

    def __getattr__(name: str) -> Any:
        """Import a public name on first use (PEP 562)."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF.get(name, 'errors')}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
