"""What removes images, and what says why something is still here."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from pyctrd import arguments, namespaces
from pyctrd.errors import InvalidInput
from pyctrd.images.part import Part

if TYPE_CHECKING:
    import threading

    from pyctrd.operations.why import WhyResult
    from pyctrd.steps.removal import RemoveResult


class Removals(Part):
    """The methods of Images that remove them, and say what keeps them."""

    def remove(
        self,
        refs: str | Iterable[str],
        *,
        all_names: bool = False,
        force: bool = False,
        sync: bool = True,
        dry_run: bool = False,
        cancel: threading.Event | None = None,
    ) -> RemoveResult:
        """Remove images, and what nothing else refers to; return what is gone.

        A name means this name only, and the image stays as long as it has others, as with other tools. An id,
        or a prefix of it, means all names of the image, and so does `all_names`: on a Kubernetes node, CRI
        has several for each image. If one image is not found, nothing is removed. The same if a container
        needs one, or if it is pinned, unless `force` is set.

        With `sync` the content is gone when the call returns, otherwise containerd removes it soon after, and
        the result is a prediction; also with `dry_run`, which removes nothing. Raises ImageNotFound,
        ImageInUse, AmbiguousReference.
        """
        from pyctrd.operations.remove import RemoveOptions, remove

        names = arguments.texts("refs", refs)
        if not names:
            raise InvalidInput("refs: name at least one image")
        options = RemoveOptions(all_names=all_names, force=force, sync=sync, dry_run=dry_run)
        with self._working(cancel) as (daemon, _):
            return remove(
                daemon,
                names,
                options,
                find=partial(namespaces.find_image, daemon),
                now=dt.datetime.now(dt.UTC),
            )

    def why(self, name: str) -> WhyResult:
        """Return the chains of references that keep something from the garbage collector.

        `name` is that of an image, the digest of a blob, the key of a snapshot (of an image's, the chain id),
        or a prefix of either. Raises NotFound, ImageNotFound, and AmbiguousReference for a prefix of several.
        """
        from pyctrd.operations.why import why

        wanted = arguments.text("name", name)
        with self._working() as (daemon, _):
            return why(
                daemon, wanted, find=partial(namespaces.find_image, daemon), now=dt.datetime.now(dt.UTC)
            )
