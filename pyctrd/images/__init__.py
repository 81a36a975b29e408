"""Images: the operations on the images of one namespace, as `client.images`."""

from __future__ import annotations

from pyctrd.images.checks import Checks
from pyctrd.images.records import Records
from pyctrd.images.removals import Removals
from pyctrd.images.space import Space
from pyctrd.images.transfers import Metadata, Transfers

__all__ = ["Images", "Metadata"]


class Images(Records, Space, Transfers, Checks, Removals):
    """The images of one namespace, as `client.images`. Thread safe.

    `ref` is an image's exact name, a reference, or a prefix of its digest or of the id that crictl shows.
    `platforms` is a string like `linux/arm64` or `arm64,amd64`, a Platform, or an iterable of these; `all`
    means every platform of the image, `local` those that are complete in the store, and None the host's.

    `progress` is called from one thread at a time. Setting `cancel` makes the call raise Cancelled; what a
    pull has fetched by then is kept for a day, and the next pull resumes from it. Every method may raise
    DaemonError, DaemonUnreachable, ClientClosed and InvalidInput. Each method lists its other errors.
    """
