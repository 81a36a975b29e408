"""What deals with disk space: usage."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from pyctrd.images.part import Part

if TYPE_CHECKING:
    import threading

    from pyctrd.operations.usage import UsageResult


class Space(Part):
    """The methods of Images for disk space."""

    def usage(self, *, all_namespaces: bool = False, cancel: threading.Event | None = None) -> UsageResult:
        """Return the disk space of images, blobs and snapshots, and how much of it can be freed.

        Does not read any content. containerd is asked for the size of each snapshot, which for those of
        containers takes as long as walking their files. `all_namespaces` covers all namespaces of this
        containerd, not only the client's.
        """
        from pyctrd.operations.usage import usage

        with self._working(cancel) as (daemon, _):
            return usage(daemon, dt.datetime.now(dt.UTC), all_namespaces=all_namespaces)
