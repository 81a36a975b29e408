"""The names under which the images of an archive are recorded.

Sources: containerd client/import.go, core/transfer/image/imagestore.go Store; core/images/mediatypes.go.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Final

from pyctrd.archive.images import image_name
from pyctrd.errors import ArchiveError, InvalidReference, NotFound
from pyctrd.oci import graph, reference, referrers
from pyctrd.oci.model import Descriptor, Digest

# The server's limit is that of a bolt key, 32 KiB; no reference is longer than this.
_MAX_LENGTH: Final = 1024


class Naming:
    """Finds the names of an archive's entries, as `ctr images import` does.

    Only names that begin with `base` count, if it is not empty; tags are appended to it. Without it, tags are
    appended to `import-` and the date. If no image has a name, they get one with their digest: containerd
    would discard them. `digests` adds that name to every image.
    """

    def __init__(self, base: str, today: dt.date, *, digests: bool) -> None:
        self._only = bool(base)
        self._prefix = base or f"import-{today.isoformat()}"
        self._digests = digests

    def names(self, entries: Sequence[Descriptor]) -> dict[str, list[Descriptor]]:
        """Return the entries of each name, without those that are not images.

        Raises NotFound if no name begins with the base name, ArchiveError for an invalid name.
        """
        found: dict[str, list[Descriptor]] = {}
        others: list[str] = []
        for entry in entries:
            name = image_name(entry.annotations, prefix=self._prefix, only_prefix=self._only)
            if name and not is_name(name):
                raise ArchiveError(f"invalid name of an image in the archive: {name[:100]!r}")
            if name:
                found.setdefault(name, []).append(entry)
            elif entry.annotations.get("io.containerd.image.name"):
                others.append(entry.annotations["io.containerd.image.name"])
        if self._digests or not (found or self._only):
            for entry in filter(_is_image, entries):
                found.setdefault(f"{self._prefix}@{entry.digest}", []).append(entry)
        if not found and others:
            raise NotFound(
                f"no image of the archive begins with {self._prefix}",
                kind="image",
                name=self._prefix,
                hint=f"it has {', '.join(others[:8])}",
            )
        return found

    def is_made(self, name: str) -> bool:
        """Whether a name is not of the archive, but made of the digest."""
        return name.startswith(f"{self._prefix}@")


def is_name(text: str) -> bool:
    """Whether a text can be the name of an image: containerd would accept any."""
    return 0 < len(text) <= _MAX_LENGTH and text.isprintable() and " " not in text


def _is_image(entry: Descriptor) -> bool:
    """Whether an entry is an image of its own; attestations and referrers only accompany one."""
    return (
        graph.has_children(entry)
        and not graph.is_attestation(entry)
        and not entry.artifact_type
        and referrers.SUBJECT not in entry.annotations
    )


def kubelet_names(name: str, target: Digest, config: Digest) -> list[str]:
    """Return the names under which containerd's CRI plugin records an image.

    They are its name in normal form, as the kubelet's are, the name with the digest of the target, and the
    digest of the config, which is the id. Raises InvalidReference.
    Source: containerd internal/cri/server/images/image_pull.go.
    """
    try:
        parsed = reference.parse(name)
    except InvalidReference as error:
        error.hint = "the kubelet cannot use this name: choose another one with `name`"
        raise
    return [str(parsed), f"{parsed.name}@{target}", str(config)]
