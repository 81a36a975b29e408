"""What a reference points at: media type, digest and size, of the first host that knows.

Sources: OCI distribution-spec ("Pulling manifests"); containerd core/remotes/docker/resolver.go.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import Final

from pyctrd.errors import ContentError, InvalidReference, RegistryError, RegistryNotFound, RegistryUnreachable
from pyctrd.oci import mediatypes
from pyctrd.oci.model import MAX_MANIFEST_BYTES, Descriptor, Digest, parse_json
from pyctrd.registry.config.endpoints import Endpoint
from pyctrd.registry.http import retry
from pyctrd.registry.http.transport import Response
from pyctrd.registry.repository import Repository, media_type_of, severity, with_patience

# What containerd accepts (resolver.go), in its order: registries convert for clients that ask for less.
ACCEPT: Final = ", ".join(
    (
        mediatypes.DOCKER_MANIFEST,
        mediatypes.DOCKER_LIST,
        mediatypes.OCI_MANIFEST,
        mediatypes.OCI_INDEX,
        "*/*",
    )
)

# Types that say nothing about a manifest: then the document itself is asked.
_VAGUE: Final = frozenset({"", "application/json", "text/json", "text/plain", mediatypes.OCTET_STREAM})
# Where GET may do better, or says at least why not: an answer to HEAD has no body.
_HEAD_REFUSED: Final = frozenset({400, 403, 405, 501})

_log = logging.getLogger(__name__)


class Resolver:
    """Asks the endpoints of one repository in order."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def resolve(self) -> Descriptor:
        """Ask what the reference points at: HEAD, or GET where HEAD does not tell; the next host on failure.

        Raises NotFound when no host knows it (containerd's phrase), else RegistryError of the host that
        got furthest. Source: containerd core/remotes/docker/resolver.go Resolve.
        """
        needed = {"pull"} if self._repository.reference.digest else {"pull", "resolve"}
        errors: list[RegistryError] = []
        for endpoint, patience in with_patience(self._repository.able(needed)):
            try:
                return self._resolve_at(endpoint, patience)
            except RegistryError as error:
                _log.info("%s", error.message)
                errors.append(error)
        raise self._unresolved(errors)

    def _unresolved(self, errors: Sequence[RegistryError]) -> RegistryError:
        name = str(self._repository.reference)
        prefix = f'failed to resolve reference "{name}"'
        if not errors:
            return RegistryError(
                f"{prefix}: no host is configured that may pull and resolve", host=self._repository.host
            )
        worst = max(errors, key=severity)
        if worst.status == 404 and isinstance(errors[-1], RegistryUnreachable):
            worst = errors[-1]  # a mirror's 404 tells nothing about the registry that did not answer
        if worst.status == 404:
            return RegistryNotFound(
                f"{prefix}: {name}: not found",
                kind="image",
                name=name,
                host=self._repository.host,
                repository=self._repository.name,
                hint=f"Asked {worst.host}: check the spelling of repository and tag.",
            )
        return self._repository.retold(worst, prefix)

    def _resolve_at(self, endpoint: Endpoint, patience: retry.Patience) -> Descriptor:
        target = str(self._repository.reference.digest or self._repository.reference.tag)
        url = endpoint.url(self._repository.name, "manifests", target)
        response = self._repository.send(endpoint, "HEAD", url, {"Accept": ACCEPT}, patience)
        with contextlib.closing(response):
            if response.status == 200:
                descriptor = self._from_headers(response)
                if descriptor is not None:
                    return descriptor
            elif response.status not in _HEAD_REFUSED:
                raise self._repository.status_error(response)
        response = self._repository.send(endpoint, "GET", url, {"Accept": ACCEPT}, patience)
        with contextlib.closing(response):
            if response.status != 200:
                raise self._repository.status_error(response)
            return self._from_document(response)

    def _from_headers(self, response: Response) -> Descriptor | None:
        """Make the descriptor of what HEAD told, or None when that is not enough."""
        media_type = self._media_type(response)
        self._check_manifest_size(response)
        digest = self._stated_digest(response)
        wanted = self._repository.reference.digest
        if not digest or response.length is None or media_type in _VAGUE:
            return None
        if wanted and digest.algorithm != wanted.algorithm:
            return None  # the same bytes may well have both digests: only they can tell
        self._check_digest(response, digest)
        return Descriptor(media_type=media_type, digest=digest, size=response.length)

    def _from_document(self, response: Response) -> Descriptor:
        media_type = self._media_type(response)
        self._check_manifest_size(response)
        self._repository.check_encoding(response)
        raw = response.read(MAX_MANIFEST_BYTES)
        digest = Digest.of(
            raw,
            self._repository.reference.digest.algorithm if self._repository.reference.digest else "sha256",
        )
        self._check_digest(response, digest)
        stated = self._stated_digest(response)
        if stated and stated.algorithm == digest.algorithm and stated != digest:
            raise self._repository.content_error(
                response, f"says that the digest is {stated}, but sent {digest}"
            )
        if media_type in _VAGUE:
            media_type = _own_media_type(raw) or media_type or mediatypes.OCTET_STREAM
        return Descriptor(media_type=media_type, digest=digest, size=len(raw))

    def _media_type(self, response: Response) -> str:
        media_type = media_type_of(response)
        if media_type == "text/html":
            raise self._repository.content_error(
                response,
                "answered with an HTML page where a manifest was asked for",
                hint="This is not a registry, or a login page or proxy stands before it.",
            )
        return media_type

    def _check_manifest_size(self, response: Response) -> None:
        if response.length is not None and response.length > MAX_MANIFEST_BYTES:
            raise self._repository.content_error(
                response, f"rejecting {response.length} byte manifest: more than {MAX_MANIFEST_BYTES} bytes"
            )

    def _stated_digest(self, response: Response) -> Digest | None:
        text = response.header("Docker-Content-Digest").strip()
        if not text:
            return None
        try:
            return Digest(text)
        except InvalidReference as error:
            raise self._repository.content_error(
                response, f"Docker-Content-Digest: {error.message[:200]}"
            ) from error

    def _check_digest(self, response: Response, digest: Digest) -> None:
        wanted = self._repository.reference.digest
        if wanted and wanted != digest:
            raise self._repository.content_error(response, f"{wanted} was asked for, {digest} is what it has")


def _own_media_type(raw: bytes) -> str:
    """Give the media type that a manifest states in itself, "" when it states none."""
    try:
        document = parse_json(raw)
    except ContentError:
        return ""
    found = document.get("mediaType") if isinstance(document, dict) else None
    return found if isinstance(found, str) else ""
