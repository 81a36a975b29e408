"""Indexes, manifests and configs of many images, each read once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from pyctrd.errors import ContentError, NotFound
from pyctrd.oci import graph, mediatypes
from pyctrd.oci.details import ImageDetails
from pyctrd.oci.model import EMPTY, Descriptor, Digest, ImageConfig, Platform
from pyctrd.ports import Store


class Children(NamedTuple):
    """What a document refers to: `nested` are indexes and manifests, `leaves` is the rest.

    `config` is that of a manifest.
    """

    nested: tuple[Descriptor, ...] = ()
    leaves: tuple[Digest, ...] = ()
    config: Descriptor | None = None


class Config(NamedTuple):
    """The platform and the labels in an image config; any other config has none."""

    platform: Platform | None = None
    labels: Mapping[str, str] = EMPTY


_NO_CHILDREN = Children()
_NO_CONFIG = Config()


class Parsed:
    """What the documents of one containerd say, whatever namespaces they are in: a digest is one content.

    `labels` says whether the labels in configs are needed.
    """

    def __init__(self, *, labels: bool = False) -> None:
        self.labels = labels
        self.children: dict[tuple[Digest, str], Children] = {}
        self.configs: dict[Digest, Config] = {}
        self._configs: dict[Config, Config] = {}
        self._platforms: dict[Platform, Platform] = {}

    def shared_platform(self, platform: Platform) -> Platform:
        """Return an equal platform, the same one for all documents: most of them have one of a few."""
        return self._platforms.setdefault(platform, platform)

    def shared_config(self, config: Config) -> Config:
        """Return an equal config, the same one for all documents."""
        return self._configs.setdefault(config, config)


class Documents:
    """The documents in one namespace. One that cannot be read counts as empty.

    `known` returns the same digest as the caller has it in memory, None for content that is not in the store.
    """

    def __init__(self, parsed: Parsed, store: Store, known: Callable[[Digest], Digest | None]) -> None:
        self._parsed = parsed
        self._store = store
        self._known = known
        self._raw: dict[Digest, bytes] = {}

    def read_ahead(self, roots: Iterable[Descriptor]) -> None:
        """Read all documents of some images, many at a time."""
        generation = [item for item in roots if self._known(item.digest)]
        for _ in range(graph.MAX_DEPTH):
            self._read_several(generation)
            following: list[Descriptor] = []
            for item in generation:
                if not graph.has_children(item) or self._key(item) in self._parsed.children:
                    continue
                children = self.children(item)
                following += children.nested
                if children.config and (self._parsed.labels or item.platform is None):
                    following.append(children.config)
            generation = [item for item in following if self._known(item.digest)]
            if not generation:
                return

    def _read_several(self, documents: Iterable[Descriptor]) -> None:
        """Read documents that are not known yet; what is left out is read later, by itself."""
        new = {item.digest: item for item in documents if not self._is_parsed(item)}
        self._raw.clear()
        for digest, raw in self._store.content.read_several(new.values()):
            if graph.has_children(new[digest]):
                self._raw[digest] = raw
            else:
                self._parsed.configs[digest] = self._parse(raw)

    def _is_parsed(self, item: Descriptor) -> bool:
        if graph.has_children(item):
            return self._key(item) in self._parsed.children
        return not mediatypes.is_image_config(item.media_type) or item.digest in self._parsed.configs

    def children(self, parent: Descriptor) -> Children:
        """Return what an index or a manifest refers to; other content refers to nothing."""
        if not graph.has_children(parent):
            return _NO_CHILDREN
        key = self._key(parent)
        if key not in self._parsed.children:
            try:
                found = graph.read_children(self._read)(parent)
            except (ContentError, NotFound):
                found = ()
            config = found[0] if found and mediatypes.is_manifest(parent.media_type) else None
            self._parsed.children[key] = Children(
                nested=tuple(self._light(item) for item in found if graph.has_children(item)),
                leaves=tuple(self._digest(item) for item in found if not graph.has_children(item)),
                config=config and self._light(config),
            )
        return self._parsed.children[key]

    def config(self, config: Descriptor) -> Config:
        """Return what a config says."""
        if not mediatypes.is_image_config(config.media_type):
            return _NO_CONFIG
        if config.digest not in self._parsed.configs:
            try:
                self._parsed.configs[config.digest] = self._parse(self._read(config))
            except (ContentError, NotFound):
                self._parsed.configs[config.digest] = _NO_CONFIG
        return self._parsed.configs[config.digest]

    def _parse(self, raw: bytes) -> Config:
        """Return what a config says; equal results are the same one."""
        config = self._parsed_config(raw)
        return self._parsed.shared_config(config)

    def _parsed_config(self, raw: bytes) -> Config:
        try:
            found = ImageConfig.parse(raw)
        except ContentError:
            return _NO_CONFIG
        named = found.os or found.architecture  # a signature has neither
        labels = ImageDetails.of(found).labels if self._parsed.labels else EMPTY
        return Config(self._parsed.shared_platform(found.platform) if named else None, labels)

    def _read(self, descriptor: Descriptor) -> bytes:
        raw = self._raw.pop(descriptor.digest, None)
        if raw is not None:
            return raw
        return self._store.content.read_all(descriptor.digest, limit=graph.size_limit(descriptor))

    def _light(self, item: Descriptor) -> Descriptor:
        """Return a descriptor without what is not needed here."""
        platform = item.platform and self._parsed.shared_platform(item.platform)
        return Descriptor(
            media_type=item.media_type, digest=self._digest(item), size=item.size, platform=platform
        )

    def _digest(self, item: Descriptor) -> Digest:
        return self._known(item.digest) or item.digest

    def _key(self, item: Descriptor) -> tuple[Digest, str]:
        return self._digest(item), item.media_type
