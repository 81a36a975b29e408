"""Indexes, manifests and configs of many images, each read once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pyctrd.errors import ContentError, NotFound
from pyctrd.oci import graph, mediatypes
from pyctrd.oci.details import ImageDetails
from pyctrd.oci.model import EMPTY, Descriptor, Digest, ImageConfig, Platform
from pyctrd.ports import Store


class _Config(NamedTuple):
    platform: Platform | None = None
    labels: Mapping[str, str] = EMPTY


class Documents:
    """What documents say. All stores belong to one containerd, so that equal digests are equal content.

    A document that cannot be read counts as empty.
    """

    def __init__(self, *, labels: bool = False) -> None:
        self._with_labels = labels
        self._children: dict[tuple[Digest, str], Sequence[Descriptor]] = {}
        self._configs: dict[Digest, _Config] = {}

    def children(self, store: Store, descriptor: Descriptor) -> Sequence[Descriptor]:
        """Return the children of an index or a manifest; other content has none."""
        if not graph.has_children(descriptor):
            return ()
        key = (descriptor.digest, descriptor.media_type)
        if key not in self._children:
            try:
                self._children[key] = graph.read_children(lambda item: _read(store, item))(descriptor)
            except (ContentError, NotFound):
                self._children[key] = ()
        return self._children[key]

    def platform(self, store: Store, config: Descriptor) -> Platform | None:
        """Return the platform in an image config; None in any other config."""
        return self._config(store, config).platform

    def labels(self, store: Store, config: Descriptor) -> Mapping[str, str]:
        """Return the labels in an image config."""
        return self._config(store, config).labels

    def _config(self, store: Store, config: Descriptor) -> _Config:
        if config.digest not in self._configs:
            self._configs[config.digest] = self._parse(store, config)
        return self._configs[config.digest]

    def _parse(self, store: Store, config: Descriptor) -> _Config:
        if not mediatypes.is_image_config(config.media_type):
            return _Config()
        try:
            found = ImageConfig.parse(_read(store, config))
        except (ContentError, NotFound):
            return _Config()
        named = found.os or found.architecture  # a signature has neither
        labels = ImageDetails.of(found).labels if self._with_labels else EMPTY
        return _Config(found.platform if named else None, labels)


def _read(store: Store, descriptor: Descriptor) -> bytes:
    return store.content.read_all(descriptor.digest, limit=graph.size_limit(descriptor))
