"""Media types, and what containerd derives from them: gc labels and ingest references.

Sources: OCI image-spec media-types.md; containerd core/images/mediatypes.go, core/remotes/handlers.go.
"""

from __future__ import annotations

from typing import Final

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER_PREFIX: Final = "application/vnd.oci.image.layer."
OCI_LAYER_GZIP: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_NONDISTRIBUTABLE_PREFIX: Final = "application/vnd.oci.image.layer.nondistributable."
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_FOREIGN: Final = "application/vnd.docker.image.rootfs.foreign.diff.tar"
DOCKER_SCHEMA1: Final = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    }
)
IN_TOTO: Final = "application/vnd.in-toto+json"
OCTET_STREAM: Final = "application/octet-stream"

# The annotations of attestations in an index (BuildKit docs/attestations/attestation-storage.md).
ATTESTED_DIGEST: Final = "vnd.docker.reference.digest"
ATTESTATION_TYPE: Final = "vnd.docker.reference.type"

_CONFIGS: Final = frozenset(
    {
        DOCKER_CONFIG,
        OCI_CONFIG,
        "application/vnd.containerd.container.criu.checkpoint.runtime.name+proto",
        "application/vnd.containerd.container.checkpoint.config.v1+proto",
    }
)
_DOCKER_LAYERS: Final = frozenset(
    {
        DOCKER_LAYER,
        f"{DOCKER_LAYER}.gzip",
        f"{DOCKER_LAYER}.zstd",
        DOCKER_FOREIGN,
        f"{DOCKER_FOREIGN}.gzip",
    }
)

GC_REF: Final = "containerd.io/gc.ref.content."
GC_REF_SNAPSHOT: Final = "containerd.io/gc.ref.snapshot."
DISTRIBUTION_SOURCE: Final = "containerd.io/distribution.source."
UNCOMPRESSED: Final = "containerd.io/uncompressed"


def is_index(media_type: str) -> bool:
    """Whether this is an OCI index or a Docker manifest list."""
    return media_type in (OCI_INDEX, DOCKER_LIST)


def is_manifest(media_type: str) -> bool:
    """Whether this is an OCI or Docker (schema 2) image manifest."""
    return media_type in (OCI_MANIFEST, DOCKER_MANIFEST)


def is_image_config(media_type: str) -> bool:
    """Whether this is the config of an image that can be run, as containerd's unpacker sees it."""
    return media_type in (OCI_CONFIG, DOCKER_CONFIG)


def is_known_config(media_type: str) -> bool:
    """Whether containerd labels this child as a config (core/images/mediatypes.go IsKnownConfig)."""
    return media_type in _CONFIGS


def is_layer(media_type: str) -> bool:
    """Whether this is a file system layer (core/images/mediatypes.go IsLayerType)."""
    return media_type.startswith(OCI_LAYER_PREFIX) or media_type.partition("+")[0] in _DOCKER_LAYERS


def is_nondistributable(media_type: str) -> bool:
    """Whether this is a foreign layer, which registries need not have."""
    return media_type.startswith((OCI_NONDISTRIBUTABLE_PREFIX, DOCKER_FOREIGN))


def document_kind(media_type: str) -> str:
    """Return the name of an index, a manifest or a config for messages."""
    if is_index(media_type):
        return "index"
    return "manifest" if is_manifest(media_type) else "image config"


def gc_label_prefix(media_type: str) -> str:
    """Return the key of the gc label with which a parent protects a child of this media type.

    A key that ends in "." is followed by a counter; the config's key has none for the first config
    (containerd core/images/mediatypes.go ChildGCLabels).
    """
    if is_manifest(media_type):
        return f"{GC_REF}m."
    if is_layer(media_type):
        return f"{GC_REF}l."
    if is_known_config(media_type):
        return f"{GC_REF}config"
    return GC_REF


def ingest_prefix(media_type: str) -> str:
    """Return the first word of the ingest reference (containerd core/remotes/handlers.go MakeRefKey)."""
    if is_manifest(media_type):
        return "manifest"
    if is_index(media_type):
        return "index"
    if is_layer(media_type):
        return "layer"
    if is_known_config(media_type):
        return "config"
    return "attestation" if media_type == IN_TOTO else "unknown"
