"""What the kubelet's services in containerd, its CRI plugin, expect of image records.

Besides the names of an image they keep a record of its id, the digest of the host's config. They create it
when they see a name that does not have their label. Source: containerd internal/cri/server/images
image_pull.go (UpdateImage), internal/cri/labels/labels.go.
"""

from __future__ import annotations

from typing import Final

from pyctrd.errors import AlreadyExists, NotFound
from pyctrd.oci import graph, image_names
from pyctrd.oci.expiry import EXPIRE_LABEL
from pyctrd.oci.model import Digest, ImageRecord, Manifest, Platform
from pyctrd.oci.platforms import only
from pyctrd.ports import ImageStore, Store
from pyctrd.steps.local import LocalImage

NAMESPACE: Final = "k8s.io"
MANAGED: Final = {image_names.MANAGED_LABEL: image_names.MANAGED}


def put_expiring_id(store: Store, image: ImageRecord, host: Platform) -> None:
    """Create or update the record of an image's id so that it expires with the image.

    Otherwise the kubelet's services would create one that does not expire, and keeps the content. If the
    image has other names that stay, or expire later, so does its id.
    """
    name = _image_id(store, image, host)
    if name is None:
        return
    labels = {**MANAGED, EXPIRE_LABEL: image.labels[EXPIRE_LABEL]}
    wanted = ImageRecord(name=name, target=image.target, labels=labels)
    while True:
        try:
            store.images.create(wanted)
        except AlreadyExists:
            try:
                if _may_expire(store.images, wanted, image.name):
                    store.images.update(wanted, fields=[f"labels.{EXPIRE_LABEL}"])
            except NotFound:
                continue  # deleted in the meantime
        return


def _may_expire(images: ImageStore, wanted: ImageRecord, name: str) -> bool:
    """Whether nothing needs the existing record of an id longer than the name that expires."""
    existing = images.get(wanted.name)
    if existing.is_pinned or existing.target.digest != wanted.target.digest:
        return False
    until = wanted.expires_at
    found = images.list([f"target.digest=={wanted.target.digest}"])
    return until is not None and all(
        record.expires_at is not None and record.expires_at <= until
        for record in found
        if record.name not in (wanted.name, name)
    )


def keep_id(images: ImageStore, image: ImageRecord) -> None:
    """Remove the expiry of the record of an image's id, since the image does not expire any more."""
    for record in images.list([f"target.digest=={image.target.digest}"]):
        if record.name.startswith("sha256:") and EXPIRE_LABEL in record.labels:
            kept = ImageRecord(name=record.name, target=record.target)
            images.update(kept, fields=[f"labels.{EXPIRE_LABEL}"])


def _image_id(store: Store, image: ImageRecord, host: Platform) -> Digest | None:
    """Return the digest of the config for a host; None if the image has none that runs there."""
    local = LocalImage(store, image.target)
    matcher = only(host)
    leaves = [leaf for leaf in graph.leaves_of(image.target, local.children) if graph.is_image(leaf)]
    fits = [leaf for leaf in leaves if leaf.platform is None or matcher.match(leaf.platform)]
    found = graph.closest(fits, matcher)
    if not found or not local.is_present(found[0]):
        return None
    return Manifest.parse(local.read(found[0])).config.digest
