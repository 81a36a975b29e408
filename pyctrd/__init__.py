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
        ImageNotFound,
        IngestLocked,
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
        Platform,
        SnapshotInfo,
    )
    from pyctrd.oci.platforms import Platforms
    from pyctrd.oci.referrers import Referrer
    from pyctrd.oci.resources import (
        Container,
        DaemonVersion,
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
    from pyctrd.operations.ensure import EnsureResult
    from pyctrd.operations.ensure_all import EnsureAllResult, EnsuredImage
    from pyctrd.operations.images import ImageOverview
    from pyctrd.operations.load import LoadedImage, LoadOnMissing, LoadResult
    from pyctrd.operations.pull import PullResult
    from pyctrd.operations.save.options import (
        ArchiveFormat,
        AttestationMode,
        EnsureMode,
        OnMissing,
        SaveResult,
        Skipped,
    )
    from pyctrd.operations.sync import SyncResult
    from pyctrd.operations.verify import Finding, VerifyResult
    from pyctrd.progress import Progress, ProgressSink
    from pyctrd.registries import Registry
    from pyctrd.registry import Explanation, ReferrerList, RegistryOptions, TagList
    from pyctrd.steps.upload import SendResult
    from pyctrd.steps.upload_plan import PushIndex

__version__: Final = "0.1.0"

__all__ = [
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
    "EnsureAllResult",
    "EnsureMode",
    "EnsureResult",
    "EnsuredImage",
    "Explanation",
    "ExportForecast",
    "FailedPrecondition",
    "Finding",
    "ImageConfig",
    "ImageNotFound",
    "ImageOverview",
    "ImageRecord",
    "IncompleteContent",
    "Index",
    "IndexMode",
    "IngestLocked",
    "IngestStatus",
    "InvalidInput",
    "InvalidPlatform",
    "InvalidReference",
    "Inventory",
    "Lease",
    "LeaseLost",
    "LeaseResource",
    "LoadOnMissing",
    "LoadResult",
    "LoadedImage",
    "Manifest",
    "Namespace",
    "NoMatchingPlatform",
    "NotFound",
    "OnMissing",
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
    "Referrer",
    "ReferrerList",
    "Registry",
    "RegistryContentError",
    "RegistryError",
    "RegistryNotFound",
    "RegistryOptions",
    "RegistryUnreachable",
    "Remedy",
    "SaveForecast",
    "SaveResult",
    "SendResult",
    "Skipped",
    "SnapshotInfo",
    "SnapshotUsage",
    "StoredBlob",
    "StoredImage",
    "SyncResult",
    "TagList",
    "Tools",
    "Unsupported",
    "VerifyArchiveResult",
    "VerifyResult",
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
    "operations.ensure": ("EnsureResult",),
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
        "Platform",
        "SnapshotInfo",
    ),
    "oci.platforms": ("Platforms",),
    "oci.referrers": ("Referrer",),
    "oci.resources": (
        "Container",
        "DaemonVersion",
        "Lease",
        "LeaseResource",
        "Namespace",
        "Plugin",
        "SnapshotUsage",
    ),
    "progress": ("Progress", "ProgressSink"),
    "operations.pull": ("PullResult",),
    "registry": ("Explanation", "ReferrerList", "RegistryOptions", "TagList"),
    "operations.images": ("ImageOverview",),
    "operations.load": ("LoadOnMissing", "LoadResult", "LoadedImage"),
    "operations.save.options": (
        "ArchiveFormat",
        "AttestationMode",
        "EnsureMode",
        "OnMissing",
        "SaveResult",
        "Skipped",
    ),
    "steps.upload": ("SendResult",),
    "steps.upload_plan": ("PushIndex",),
    "operations.sync": ("SyncResult",),
    "operations.verify": ("Finding", "VerifyResult"),
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
