"""Filters for lists of images: containerd's own, and those of docker."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final, TypeAlias

from pyctrd.errors import InvalidInput, InvalidReference
from pyctrd.oci import reference
from pyctrd.oci.image_names import has_tag
from pyctrd.oci.model import ImageRecord
from pyctrd.operations import lookup
from pyctrd.operations.images.model import ImageOverview
from pyctrd.ports import Containerd

# Whether an image of the list matches.
_Test: TypeAlias = Callable[[ImageRecord], bool]

_DOCKER: Final = re.compile(r"([a-z-]+)=([^=~].*)?", re.DOTALL)
_FIELDS: Final = ("name", "target", "labels", "annotations")
_KEYS: Final = ("before", "since", "reference", "label", "dangling", "complete", "in-use", "pinned")
_FLAGS: Final[Mapping[str, Callable[[ImageOverview], bool]]] = {
    "complete": lambda item: bool(item.platforms) and not item.incomplete,
    "in-use": lambda item: item.in_use,
    "pinned": lambda item: item.pinned,
}


class ImageFilters:
    """Filters of a list of images; raises InvalidInput for one that is neither containerd's nor docker's.

    An image has to match one of containerd's filters (`name~=alpine`, `labels.key==value`), and for each key
    of docker's one of its values; of `label`, all. The keys are `reference=PATTERN`, `label=KEY[=VALUE]`,
    `before=REF` and `since=REF` (created earlier or later than that image), `dangling=BOOL` (it has no name
    with a tag), `complete=BOOL` (all of its platforms), `in-use=BOOL` (by a container) and `pinned=BOOL`.
    """

    def __init__(self, filters: Sequence[str]) -> None:
        self._containerd: list[str] = []
        self._docker: dict[str, list[str]] = {}
        for text in filters:
            found = _DOCKER.fullmatch(text)
            if found and found[1] in _KEYS:
                self._docker.setdefault(found[1], []).append(found[2] or "")
            elif re.match(rf"({'|'.join(_FIELDS)})\b", text):
                self._containerd.append(text)
            else:
                raise InvalidInput(
                    f"invalid filter {text!r}",
                    hint=f"use one of {', '.join(f'{key}=' for key in _KEYS)}, or a filter of containerd on "
                    f"{', '.join(_FIELDS)}, e.g. name~=alpine",
                )
        for key in ("dangling", *_FLAGS):
            for value in self._docker.get(key, ()):
                _flag(key, value)

    def chosen(self, store: Containerd, images: Sequence[ImageRecord]) -> Sequence[ImageRecord]:
        """Return the images that match, by their records. Raises ImageNotFound, DaemonError."""
        if self._containerd:
            names = {image.name for image in store.images.list(self._containerd)}
            chosen: Iterable[ImageRecord] = (image for image in images if image.name in names)
        else:
            chosen = images
        tests = self._tests(store, images)
        return [image for image in chosen if all(test(image) for test in tests)]

    def matches(self, item: ImageOverview) -> bool:
        """Whether an image matches the filters on what is known only after reading it."""
        return all(
            any(_flag(key, value) == test(item) for value in self._docker[key])
            for key, test in _FLAGS.items()
            if key in self._docker
        )

    def _tests(self, store: Containerd, images: Sequence[ImageRecord]) -> Sequence[_Test]:
        tests: list[_Test] = []
        if patterns := self._docker.get("reference"):
            tests.append(lambda image: any(_is_named(image.name, pattern) for pattern in patterns))
        tests += [_labelled(text) for text in self._docker.get("label", ())]
        for key in ("before", "since"):
            for text in self._docker.get(key, ()):
                tests.append(_created(key, lookup.find(store.images, text)))
        if values := self._docker.get("dangling"):
            tagged = {image.target.digest for image in images if has_tag(image.name)}
            wanted = {_flag("dangling", value) for value in values}
            tests.append(lambda image: (image.target.digest not in tagged) in wanted)
        return tests


def _is_named(name: str, pattern: str) -> bool:
    """Whether a name, its familiar form, or either without the tag matches a pattern of the shell."""
    names = {name}
    try:
        parsed = reference.parse(name)
    except InvalidReference:
        pass
    else:
        names |= {parsed.familiar, parsed.familiar.partition("@")[0].removesuffix(f":{parsed.tag}")}
        names.add(f"{parsed.domain}/{parsed.repository}")
    return any(fnmatchcase(one, pattern) for one in names)


def _labelled(text: str) -> _Test:
    key, equals, value = text.partition("=")
    if equals:
        return lambda image: image.labels.get(key) == value
    return lambda image: key in image.labels


def _created(key: str, than: ImageRecord) -> _Test:
    moment = than.created_at

    def test(image: ImageRecord) -> bool:
        if moment is None or image.created_at is None:
            return False
        return image.created_at < moment if key == "before" else image.created_at > moment

    return test


def _flag(key: str, value: str) -> bool:
    try:
        return {"true": True, "1": True, "false": False, "0": False}[value.lower()]
    except KeyError:
        raise InvalidInput(f"invalid filter {key}={value}: it must be true or false") from None
