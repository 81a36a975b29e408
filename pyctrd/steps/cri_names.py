"""The names under which CRI stores an image: a tag, `name@digest`, and the id, which is its config's digest.

Source: containerd internal/cri/server/images/image_pull.go, createImageReference.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from pyctrd.errors import InvalidReference
from pyctrd.oci import reference
from pyctrd.oci.model import Digest, ImageRecord


def aliases(images: Iterable[ImageRecord]) -> dict[str, str]:
    """Return the names that are only other names of a record with the same target, and that record's name.

    A name with a digest stands for a tag of the same repository, an id for any other name.
    """
    groups: dict[Digest, list[str]] = {}
    for image in images:
        groups.setdefault(image.target.digest, []).append(image.name)
    return {name: primary for names in groups.values() for name, primary in _in_group(names).items()}


def _in_group(names: list[str]) -> dict[str, str]:
    marked = [name for name in names if "sha256:" in name]
    if not marked or len(names) == 1:
        return {}
    ids = {name for name in marked if _is_id(name)}
    tags = {_repository(name): name for name in sorted(names, reverse=True) if name not in marked}
    found = {
        name: tags[_repository(name)] for name in marked if name not in ids and _repository(name) in tags
    }
    left = sorted(name for name in names if name not in ids and name not in found)
    primary = min(left, key=lambda name: ("sha256:" in name, name), default="")
    return {**found, **(dict.fromkeys(ids, primary) if primary else {})}


def _is_id(name: str) -> bool:
    try:
        return str(Digest(name)) == name
    except InvalidReference:
        return False


def _repository(name: str) -> str:
    try:
        return str(msgspec.structs.replace(reference.parse(name), tag="", digest=None))
    except InvalidReference:
        return name
