"""What the names of image records say: a tag, a digest, a repository."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from pyctrd.oci.model import Digest, ImageRecord

# CRI's label for the records that it keeps: a tag, `name@digest` and the id of the config, of each image.
# Source: containerd internal/cri/labels/labels.go.
MANAGED_LABEL: Final = "io.cri-containerd.image"
MANAGED: Final = "managed"
_DIGEST = re.compile(r"@?sha(?:256|384|512):[0-9a-f]+$")


def first_name(names: Iterable[str]) -> str:
    """Return the name to show of an image: the first one with a tag, else the first one."""
    return min(names, key=lambda name: (not has_tag(name), name))


def has_tag(name: str) -> bool:
    """Whether a name is not just a digest (`app@sha256:...`), an id (`sha256:...`) or `<none>`.

    CRI adds such records to each image, and only they are left when a pull moves the tag; tools that build
    images write `<none>` or names of their own with a digest.
    """
    rest = _DIGEST.sub("", name)
    if rest == name:
        return "<none>" not in name
    return ":" in rest.rpartition("/")[2] and "<none>" not in rest


def repository(name: str) -> str:
    """Return a name without its tag and digest; empty for an id."""
    rest = _DIGEST.sub("", name)
    path, slash, last = rest.rpartition("/")
    return f"{path}{slash}{last.partition(':')[0]}"


def aliases(images: Iterable[ImageRecord]) -> Mapping[str, str]:
    """Return the records that CRI made in addition to a name of the same target, each with that name.

    `name@digest` stands for a tag of that name, an id for the first name. All other records are left out.
    """
    names: dict[Digest, list[str]] = {}
    made: list[ImageRecord] = []
    for image in images:
        if image.labels.get(MANAGED_LABEL) == MANAGED and not has_tag(image.name):
            made.append(image)
        else:
            names.setdefault(image.target.digest, []).append(image.name)
    found: dict[str, str] = {}
    for image in sorted(made, key=lambda image: (not repository(image.name), image.name)):
        known = names.setdefault(image.target.digest, [])
        same = [name for name in known if repository(image.name) in ("", repository(name))]
        if same:
            found[image.name] = first_name(same)
        else:
            known.append(image.name)
    return found
