"""Read the archives that tools wrote, without any code of pyctrd."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.images import INDEX_TYPES, MANIFEST_TYPES, Descriptor

LAYOUT = frozenset({"oci-layout", "index.json"})
LOADABLE = LAYOUT | {"manifest.json"}
"""The files besides blobs that an archive needs, also for docker."""


@dataclass(frozen=True)
class Archive:
    """A complete archive: it has an end, and every blob matches the digest in its name."""

    path: Path
    blobs: Mapping[str, bytes]
    roots: tuple[Descriptor, ...]

    @classmethod
    def read(cls, path: Path, needed: frozenset[str] = LOADABLE) -> Archive | None:
        """Read it; None if there is none, or if it is truncated or lacks a file that is `needed`."""
        try:
            with tarfile.open(path) as tar:
                files = {item.name: _bytes(tar, item) for item in tar if item.isfile()}
        except (OSError, tarfile.TarError):
            return None
        if not set(files) >= needed:
            return None
        blobs = {f"sha256:{name.rpartition('/')[2]}": data for name, data in files.items() if "/" in name}
        if any(digest != f"sha256:{hashlib.sha256(data).hexdigest()}" for digest, data in blobs.items()):
            return None
        return cls(path, blobs, tuple(json.loads(files["index.json"])["manifests"] or ()))

    def lacks(self, platform: str | None) -> set[str]:
        """The blobs that an image of this platform needs and that are missing; None: of every platform.

        Children without a platform count as of every platform. The only member of an archive without any
        image for the platform is the word "no manifest".
        """
        needed = [item for root in self.roots for item in self._below(root, platform)]
        if not any(item["mediaType"] in MANIFEST_TYPES for item in needed):
            return {"no manifest"}
        return {str(item["digest"]) for item in needed} - set(self.blobs)

    def _below(self, descriptor: Descriptor, platform: str | None) -> Iterator[Descriptor]:
        yield descriptor
        if descriptor["digest"] not in self.blobs:
            return
        document = json.loads(self.blobs[descriptor["digest"]])
        if descriptor["mediaType"] in MANIFEST_TYPES:
            yield from (document["config"], *document["layers"])
        elif descriptor["mediaType"] in INDEX_TYPES:
            for child in document["manifests"]:
                if platform is None or _is_for(child, platform):
                    yield from self._below(child, platform)


def _bytes(tar: tarfile.TarFile, item: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(item)
    assert stream
    return stream.read()


def _is_for(child: Mapping[str, Any], platform: str) -> bool:
    on = child.get("platform")
    if on is None:
        return True
    words = [on["os"], on["architecture"], on.get("variant", "")]
    if words[1:] == ["arm64", "v8"]:
        words[2] = ""  # arm64 means v8 anyway
    return "/".join(filter(None, words)) == platform
