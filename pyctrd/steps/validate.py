"""Validate indexes, manifests and configs before they are written to the store.

Every client of this containerd trusts committed content, so a document has to match its media type, and must
not be ambiguous. Sources: OCI image-spec manifest.md and image-index.md (`mediaType` has to match), Go's
encoding/json (it ignores the case of keys, and merges duplicates), containerd
core/remotes/docker/resolver.go (the size limit).
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pyctrd.errors import ContentError, RegistryContentError
from pyctrd.oci import graph, mediatypes, platforms
from pyctrd.oci.model import Descriptor, Digest, ImageConfig, Platform, parse_json
from pyctrd.oci.platforms import Matcher
from pyctrd.ports import Fetcher

_KNOWN_KEYS: Final = frozenset(
    {"mediaType", "digest", "size", "platform", "urls", "data", "annotations", "artifactType"}
    | {"schemaVersion", "config", "layers", "manifests", "subject"}
)
_CANONICAL: Final = {key.lower(): key for key in _KNOWN_KEYS}
_HINT: Final = "the image is broken, or the registry is malicious; the document was not stored"


def is_document(descriptor: Descriptor) -> bool:
    """Whether this is an index, a manifest or a config, which is validated before it is stored."""
    return graph.has_children(descriptor) or mediatypes.is_image_config(descriptor.media_type)


def fetch(fetcher: Fetcher, descriptor: Descriptor) -> bytes:
    """Fetch a document from a registry and check its digest and size.

    Raises RegistryContentError if they do not match the descriptor, RegistryError.
    """
    limit = graph.size_limit(descriptor)
    if descriptor.size > limit:
        kind = mediatypes.document_kind(descriptor.media_type)
        raise refused(
            fetcher, f"rejecting {descriptor.size} byte {kind} {descriptor.digest}: more than {limit} bytes"
        )
    buffer = io.BytesIO()  # unlike joined chunks, never twice in memory
    with fetcher.fetch(descriptor) as chunks:
        buffer.writelines(chunks)
    raw = buffer.getvalue()
    found = Digest.of(raw, descriptor.digest.algorithm)
    if found != descriptor.digest:
        raise refused(fetcher, f"wrong content for {descriptor.digest}: got {found}")
    return raw


def refused(fetcher: Fetcher, text: str, hint: str | None = None) -> RegistryContentError:
    """Return the error for an invalid document from a repository."""
    return RegistryContentError(
        f"{fetcher.host}/{fetcher.repository}: {text}",
        host=fetcher.host,
        repository=fetcher.repository,
        hint=hint or _HINT,
    )


class Validator:
    """Fetches and validates documents, also against what their parents say."""

    def __init__(self) -> None:
        # By the digest of a manifest, and of a config: one platform for each os and architecture.
        self._listed: dict[Digest, dict[tuple[str, str], Platform]] = {}
        self._promised: dict[Digest, dict[tuple[str, str], Platform]] = {}

    def watch(self, children: graph.Children, matcher: Matcher) -> graph.Children:
        """Wrap a step to record the platform in the index for each wanted config.

        Attestations are ignored: BuildKit lists them as unknown/unknown whatever their configs say.
        """

        def step(descriptor: Descriptor) -> Sequence[Descriptor]:
            found = children(descriptor)
            if mediatypes.is_index(descriptor.media_type):
                for child in found:
                    self._list(child, matcher)
            elif found and mediatypes.is_manifest(descriptor.media_type):
                self._list(descriptor, matcher)
                promised = self._promised.setdefault(found[0].digest, {})
                promised.update(self._listed.get(descriptor.digest, {}))
            return found

        return step

    def _list(self, descriptor: Descriptor, matcher: Matcher) -> None:
        """Record the platform that a manifest is listed for; it may be listed for several."""
        listed = descriptor.platform
        if listed is not None and not platforms.is_unknown(listed) and matcher.match(listed):
            wanted = platforms.normalize(listed)
            self._listed.setdefault(descriptor.digest, {})[wanted.os, wanted.architecture] = wanted

    def fetch(self, fetcher: Fetcher, descriptor: Descriptor) -> bytes:
        """Fetch and validate a document. Raises RegistryContentError, RegistryError."""
        raw = fetch(fetcher, descriptor)
        try:
            self.check(descriptor, raw)
        except ContentError as error:
            raise refused(fetcher, f"{descriptor.digest}: {error.message}", error.hint) from error
        return raw

    def check(self, descriptor: Descriptor, raw: bytes) -> None:
        """Validate a document. Raises ContentError, which says what is wrong."""
        if not graph.has_children(descriptor):
            self._check_platform(descriptor, ImageConfig.parse(raw))
            return
        graph.children_in(descriptor, raw)
        document = parse_json(raw)
        stated = document.get("mediaType", "")
        if stated and stated != descriptor.media_type:
            raise ContentError(f"media-type: expected {descriptor.media_type} but found {str(stated)[:100]}")
        _check_readings(raw, document)

    def _check_platform(self, descriptor: Descriptor, config: ImageConfig) -> None:
        """Compare the platforms in the index and in the config, without variants, which often differ."""
        if not (config.os and config.architecture):
            return
        found = platforms.normalize(config.platform)
        for pair, wanted in self._promised.get(descriptor.digest, {}).items():
            if pair != (found.os, found.architecture):
                raise ContentError(
                    f"the index says {platforms.format_all(wanted)}, but the config says "
                    f"{platforms.format_all(found)}"
                )


def _check_readings(raw: bytes, document: Mapping[str, Any]) -> None:
    """Refuse what other parsers may read differently: duplicate keys, or keys in another case."""
    import json

    def unique(pairs: list[tuple[str, Any]]) -> None:
        keys = [key for key, _ in pairs]
        if len(set(keys)) != len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ContentError(f"duplicate key {twice[:100]!r}")

    try:
        json.loads(raw, object_pairs_hook=unique, parse_int=len, parse_float=len)
    except (ValueError, RecursionError) as error:
        raise ContentError(f"not valid JSON: {str(error)[:200]}") from error
    for part in _structures(document):
        for key in part:
            if key not in _KNOWN_KEYS and key.lower() in _CANONICAL:
                raise ContentError(f"the key {key!r} has to be {_CANONICAL[key.lower()]!r}")


def _structures(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the objects whose keys are checked: the document and its descriptors."""
    found = [document]
    for name in ("config", "subject", "layers", "manifests"):
        part = document.get(name)
        found += [item for item in (part if isinstance(part, list) else [part]) if isinstance(item, dict)]
    return found
