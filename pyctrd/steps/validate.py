"""Documents at the door: an index, manifest or config is judged before the store gets a byte of it.

What is committed is believed by every client of this containerd, so it has to be what it says, in one
reading. Sources: OCI image-spec manifest.md and image-index.md (`mediaType` has to match), Go's encoding/json
(keys in any case, and of two equal ones both count), containerd core/remotes/docker/resolver.go (the limit).
"""

from __future__ import annotations

import io
import json
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
_HINT: Final = "The image is broken, or the registry hostile; nothing of this document was kept."


def is_document(descriptor: Descriptor) -> bool:
    """Tell whether the media type is one that is read before it is stored."""
    return graph.has_children(descriptor) or mediatypes.is_image_config(descriptor.media_type)


def fetch(fetcher: Fetcher, descriptor: Descriptor) -> bytes:
    """Read a document from a registry, of the digest and size that its descriptor promises.

    Raises RegistryContentError for other bytes, and RegistryError as they come.
    """
    limit = graph.size_limit(descriptor)
    if descriptor.size > limit:
        kind = mediatypes.document_kind(descriptor.media_type)
        raise refused(
            fetcher, f"rejecting {descriptor.size} byte {kind} {descriptor.digest}: more than {limit} bytes"
        )
    buffer = io.BytesIO()  # unlike joined pieces, never twice in memory
    with fetcher.fetch(descriptor) as chunks:
        buffer.writelines(chunks)
    raw = buffer.getvalue()
    found = Digest.of(raw, descriptor.digest.algorithm)
    if found != descriptor.digest:
        raise refused(fetcher, f"wrong content for {descriptor.digest}: got {found}")
    return raw


def refused(fetcher: Fetcher, text: str, hint: str | None = None) -> RegistryContentError:
    """Make the error for a document that a repository should not have served."""
    return RegistryContentError(
        f"{fetcher.host}/{fetcher.repository}: {text}",
        host=fetcher.host,
        repository=fetcher.repository,
        hint=hint or _HINT,
    )


class Validator:
    """Fetches documents and judges them, by themselves and by what their parents said."""

    def __init__(self) -> None:
        # By the digest of a manifest, and of a config: one platform for each os and architecture.
        self._listed: dict[Digest, dict[tuple[str, str], Platform]] = {}
        self._promised: dict[Digest, dict[tuple[str, str], Platform]] = {}

    def watch(self, children: graph.Children, matcher: Matcher) -> graph.Children:
        """Wrap a step, to note which platform an index promises of each config that is wanted.

        BuildKit lists attestations as unknown/unknown whatever their configs say: that promises nothing.
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
        """Note the platform that a manifest is listed for; it may be listed for several."""
        listed = descriptor.platform
        if listed is not None and not platforms.is_unknown(listed) and matcher.match(listed):
            wanted = platforms.normalize(listed)
            self._listed.setdefault(descriptor.digest, {})[wanted.os, wanted.architecture] = wanted

    def fetch(self, fetcher: Fetcher, descriptor: Descriptor) -> bytes:
        """Read a document whole, judged; raises RegistryContentError, and RegistryError as they come."""
        raw = fetch(fetcher, descriptor)
        try:
            self.check(descriptor, raw)
        except ContentError as error:
            raise refused(fetcher, f"{descriptor.digest}: {error.message}", error.hint) from error
        return raw

    def check(self, descriptor: Descriptor, raw: bytes) -> None:
        """Judge a document; raises ContentError saying what is wrong with it."""
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
        """Compare what index and config say of a wanted image; variants differ in many good images."""
        if not (config.os and config.architecture):
            return
        found = platforms.normalize(config.platform)
        for pair, wanted in self._promised.get(descriptor.digest, {}).items():
            if pair != (found.os, found.architecture):
                raise ContentError(
                    f"the index promises {platforms.format_all(wanted)}, the config is for "
                    f"{platforms.format_all(found)}"
                )


def _check_readings(raw: bytes, document: Mapping[str, Any]) -> None:
    """Refuse what another reader takes otherwise: keys that occur twice, or are written in another case."""

    def unique(pairs: list[tuple[str, Any]]) -> None:
        keys = [key for key, _ in pairs]
        if len(set(keys)) != len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ContentError(f"the key {twice[:100]!r} occurs twice in one object")

    try:
        json.loads(raw, object_pairs_hook=unique, parse_int=len, parse_float=len)
    except (ValueError, RecursionError) as error:
        raise ContentError(f"not valid JSON: {str(error)[:200]}") from error
    for part in _structures(document):
        for key in part:
            if key not in _KNOWN_KEYS and key.lower() in _CANONICAL:
                raise ContentError(f"the key {key!r} stands for {_CANONICAL[key.lower()]!r} in other case")


def _structures(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """List the objects whose keys mean something: the document and its descriptors."""
    found = [document]
    for name in ("config", "subject", "layers", "manifests"):
        part = document.get(name)
        found += [item for item in (part if isinstance(part, list) else [part]) if isinstance(item, dict)]
    return found
