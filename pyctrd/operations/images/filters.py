"""Filters for lists of images: containerd's own, and those of docker."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeAlias

from pyctrd.errors import ImageNotFound, InvalidInput, InvalidReference
from pyctrd.oci import reference
from pyctrd.oci.gotime import parse_duration, parse_time
from pyctrd.oci.image_names import has_tag
from pyctrd.oci.model import ImageRecord
from pyctrd.operations import lookup
from pyctrd.operations.images.model import ImageOverview
from pyctrd.operations.images.patterns import matcher
from pyctrd.ports import Containerd

# Whether an image of the list matches.
_Test: TypeAlias = Callable[[ImageRecord], bool]

_DOCKER: Final = re.compile(r"([a-z-]+)=([^=~].*)?", re.DOTALL)
_FIELDS: Final = ("name", "target", "labels", "annotations")
_KEYS: Final = (
    *("before", "since", "until", "reference", "label", "dangling"),
    *("complete", "in-use", "pinned"),
)
_FLAGS: Final[Mapping[str, Callable[[ImageOverview], bool]]] = {
    "complete": lambda item: item.status == "complete",
    "in-use": lambda item: item.in_use,
    "pinned": lambda item: item.pinned,
}


class ImageFilters:
    """Filters of a list of images; raises InvalidInput for one that is neither containerd's nor docker's.

    An image has to match one of containerd's filters (`name~=alpine`, `labels.key==value`), and for each key
    of docker's one of its values; of `label`, `before`, `since` and `until`, all. The keys are
    `reference=PATTERN`, `label=KEY[=VALUE]` (of the record or of its config), `before=REF` and `since=REF`
    (created earlier or later than that record), `until=TIME` (created earlier; also how long ago),
    `dangling=BOOL` (it has no name with a tag), `complete=BOOL` (its status), `in-use=BOOL` (by a container)
    and `pinned=BOOL`.
    """

    def __init__(self, filters: Sequence[str] = (), now: dt.datetime | None = None) -> None:
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
        self._until = [
            _moment(text, now or dt.datetime.now(dt.UTC)) for text in self._docker.get("until", ())
        ]
        self._matchers = list(map(matcher, self._docker.get("reference", ())))

    @property
    def needs_labels(self) -> bool:
        """Whether `matches` needs the labels in configs."""
        return "label" in self._docker

    def find(self, stores: Sequence[Containerd]) -> Mapping[str, ImageRecord]:
        """Return the images that filters name, from the first store that has them.

        Raises ImageNotFound, AmbiguousReference, InvalidReference, DaemonError.
        """
        named = [text for key in ("before", "since") for text in self._docker.get(key, ())]
        return {text: _find(stores, text) for text in named}

    def __bool__(self) -> bool:
        """Whether there is any filter."""
        return bool(self._containerd or self._docker)

    def chosen(
        self, store: Containerd, images: Sequence[ImageRecord], named: Mapping[str, ImageRecord]
    ) -> Sequence[ImageRecord]:
        """Return the images that match, by their records; `named` is what `find` returned.

        Raises InvalidInput for a filter that containerd refuses, DaemonError.
        """
        chosen: Iterable[ImageRecord] = images
        if self._containerd:
            names = {image.name for image in store.images.list(self._containerd)}
            chosen = (image for image in images if image.name in names)
        tests = self._tests(images, named)
        return [image for image in chosen if all(test(image) for test in tests)]

    def matches(self, item: ImageOverview, labels: Callable[[], Iterable[Mapping[str, str]]]) -> bool:
        """Whether an image matches the filters on what is known only after reading it.

        `labels` returns the labels in its configs.
        """
        return all(
            any(_flag(key, value) == test(item) for value in self._docker[key])
            for key, test in _FLAGS.items()
            if key in self._docker
        ) and (not self.needs_labels or self._is_labelled([item.image.labels, *labels()]))

    def _is_labelled(self, found: Sequence[Mapping[str, str]]) -> bool:
        return all(
            any(_has_label(labels, *text.partition("=")) for labels in found)
            for text in self._docker.get("label", ())
        )

    def _tests(self, images: Sequence[ImageRecord], named: Mapping[str, ImageRecord]) -> Sequence[_Test]:
        tests: list[_Test] = []
        if self._matchers:
            tests.append(lambda image: any(match(name) for name in _names(image) for match in self._matchers))
        tests += [_created_before(named[text].created_at) for text in self._docker.get("before", ())]
        tests += [_created_after(named[text].created_at) for text in self._docker.get("since", ())]
        tests += map(_created_before, self._until)
        if values := self._docker.get("dangling"):
            tagged = {image.target.digest for image in images if has_tag(image.name)}
            wanted = {_flag("dangling", value) for value in values}
            tests.append(lambda image: (image.target.digest not in tagged) in wanted)
        return tests


def _find(stores: Sequence[Containerd], text: str) -> ImageRecord:
    for store in stores[:-1]:
        try:
            return lookup.find(store.images, text)
        except ImageNotFound:
            continue
    return lookup.find(stores[-1].images, text)


def _names(image: ImageRecord) -> set[str]:
    """Return what a pattern is compared with: the name and its familiar form, each also without the tag.

    docker compares only with the familiar forms (distribution/reference helpers.go FamiliarMatch).
    """
    try:
        parsed = reference.parse(image.name)
    except InvalidReference:
        return {image.name}
    bare = parsed.familiar.partition("@")[0].removesuffix(f":{parsed.tag}")
    return {image.name, parsed.familiar, bare, parsed.name}


def _has_label(labels: Mapping[str, str], key: str, equals: str, value: str) -> bool:
    return labels.get(key) == value if equals else key in labels


def _created_before(moment: dt.datetime | None) -> _Test:
    return lambda image: moment is not None and image.created_at is not None and image.created_at < moment


def _created_after(moment: dt.datetime | None) -> _Test:
    return lambda image: moment is not None and image.created_at is not None and image.created_at > moment


def _moment(text: str, now: dt.datetime) -> dt.datetime:
    """Return a moment given as a time, a date, seconds since 1970, or a duration until now, as in Go."""
    moment = parse_time(text) or parse_time(f"{text}T00:00:00Z")
    duration = parse_duration(text)
    try:
        if moment is None and text.isascii() and text.isdigit():
            moment = dt.datetime.fromtimestamp(int(text), dt.UTC)
        if moment is None and duration is not None:
            moment = now - duration
    except (OverflowError, OSError, ValueError):
        moment = None
    if moment is None:
        raise InvalidInput(
            f"invalid filter until={text}",
            hint="write a duration like 24h, or a time like 2026-11-27T19:00:00Z",
        )
    return moment


def _flag(key: str, value: str) -> bool:
    try:
        return {"true": True, "1": True, "false": False, "0": False}[value.lower()]
    except KeyError:
        raise InvalidInput(f"invalid filter {key}={value}: it must be true or false") from None
