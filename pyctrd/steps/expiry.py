"""Check that an image can expire, before anything is done."""

from __future__ import annotations

from pyctrd.errors import FailedPrecondition, Remedy, Unsupported
from pyctrd.oci.expiry import EXPIRE_LABEL
from pyctrd.oci.model import ImageRecord
from pyctrd.oci.resources import DaemonVersion


def check_version(version: DaemonVersion) -> None:
    """Raise Unsupported if images do not expire in this containerd."""
    if version.is_1:
        raise Unsupported(
            f"images do not expire in containerd {version.version}: its garbage collector ignores the label "
            f"{EXPIRE_LABEL} of images, which containerd 2.0 and later obey",
            code="UNIMPLEMENTED",
            kind="containerd",
            name=version.version,
            hint="nothing was done; leave out `ttl`, and remove the image when it is no longer needed",
        )


def check_not_pinned(image: ImageRecord) -> None:
    """Raise FailedPrecondition if an image that is to expire is pinned."""
    if image.is_pinned:
        raise FailedPrecondition(
            f'image "{image.name}" is pinned, so it cannot expire',
            code="FAILED_PRECONDITION",
            kind="image",
            name=image.name,
            hint="nothing was done; unpin it first",
            remedy=Remedy(method="unpin", images=(image.name,)),
        )
