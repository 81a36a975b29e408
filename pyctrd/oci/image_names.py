"""What the names of image records say: a tag, a digest, a repository."""

from __future__ import annotations

import re
from collections.abc import Iterable

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
