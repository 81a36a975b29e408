"""Convert manifests of Docker before 1.10, whose config has the media type application/octet-stream.

ctr rewrites such a manifest after a pull and points the image at the new one (containerd
core/remotes/docker/converter.go ConvertManifest). This writes the same bytes.
"""

from __future__ import annotations

import msgspec

from pyctrd.oci import gojson, mediatypes
from pyctrd.oci.model import MAX_MANIFEST_BYTES, Descriptor, Digest, Manifest
from pyctrd.ports import ContentStore
from pyctrd.steps.fetch import Downloader

_GO_INDENT = 3


def with_image_config(content: ContentStore, root: Descriptor) -> Descriptor:
    """Store a converted manifest and return its descriptor; return any other root unchanged.

    Raises DaemonError.
    """
    if not mediatypes.is_manifest(root.media_type):
        return root
    manifest = Manifest.parse(content.read_all(root.digest, limit=MAX_MANIFEST_BYTES))
    if manifest.config.media_type != mediatypes.OCTET_STREAM:
        return root
    converted = msgspec.structs.replace(
        manifest, config=msgspec.structs.replace(manifest.config, media_type=mediatypes.DOCKER_CONFIG)
    )
    raw = gojson.marshal(gojson.manifest(converted), indent=_GO_INDENT)
    target = msgspec.structs.replace(root, digest=Digest.of(raw), size=len(raw))
    Downloader(content, (), claim_present=False).fetch(msgspec.structs.replace(target, data=raw))
    # The converter numbers config and layers together, in the oldest form of the labels.
    children = (converted.config, *converted.layers)
    labels = {f"{mediatypes.GC_REF}{index}": str(child.digest) for index, child in enumerate(children)}
    content.set_labels(target.digest, labels)
    return target
