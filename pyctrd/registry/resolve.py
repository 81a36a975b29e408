"""Resolve a reference to a descriptor, at the first host that knows it.

Sources: OCI distribution-spec ("Pulling manifests"); containerd core/remotes/docker/resolver.go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pyctrd import redact
from pyctrd.errors import ContentError, InvalidReference, RegistryError, RegistryNotFound, RegistryUnreachable
from pyctrd.oci import mediatypes
from pyctrd.oci.model import MAX_MANIFEST_BYTES, Descriptor, Digest, parse_json
from pyctrd.registry.config.endpoints import Endpoint
from pyctrd.registry.hosts import RepositoryHosts, media_type_of, severity, with_tries
from pyctrd.registry.http.response import Response

# What containerd accepts (resolver.go), in its order: registries convert for clients that accept less.
ACCEPT: Final = ", ".join(
    (
        mediatypes.DOCKER_MANIFEST,
        mediatypes.DOCKER_LIST,
        mediatypes.OCI_MANIFEST,
        mediatypes.OCI_INDEX,
        "*/*",
    )
)

# Generic types, for which the manifest's own `mediaType` is used.
_VAGUE: Final = frozenset({"", "application/json", "text/json", "text/plain", mediatypes.OCTET_STREAM})
# Statuses after which GET may succeed, or at least explain the error: a response to HEAD has no body.
_HEAD_REFUSED: Final = frozenset({400, 403, 405, 501})

_log = redact.logger("pyctrd.registry")


def resolve(repository: RepositoryHosts) -> Descriptor:
    """Resolve by HEAD, or by GET if the response to HEAD is not sufficient; try the next host on failure.

    Raises RegistryNotFound if no host knows the reference, else the most informative RegistryError. Source:
    containerd core/remotes/docker/resolver.go Resolve.
    """
    needed = {"pull"} if repository.reference.digest else {"pull", "resolve"}
    errors: list[RegistryError] = []
    for endpoint, tries in with_tries(repository.allowed(needed)):
        try:
            return _resolve_at(repository, endpoint, tries)
        except RegistryError as error:
            _log.info("%s", error.message, extra={"host": error.host, "status": error.status})
            errors.append(error)
    raise _unresolved(repository, errors)


def _unresolved(repository: RepositoryHosts, errors: Sequence[RegistryError]) -> RegistryError:
    name = str(repository.reference)
    prefix = f'failed to resolve reference "{name}"'
    if not errors:
        return RegistryError(
            f"{prefix}: no host is configured that may pull and resolve", host=repository.host
        )
    worst = max(errors, key=severity)
    if worst.status == 404 and isinstance(errors[-1], RegistryUnreachable):
        worst = errors[-1]  # a mirror's 404 is no statement about the registry, which did not respond
    if worst.status == 404:
        return RegistryNotFound(
            f"{prefix}: {name}: not found",
            kind="image",
            name=name,
            host=repository.host,
            repository=repository.repository,
            hint=f"Asked {worst.host}: check the spelling of repository and tag.",
        )
    return repository.with_context(worst, prefix)


def _resolve_at(repository: RepositoryHosts, endpoint: Endpoint, tries: int) -> Descriptor:
    target = str(repository.reference.digest or repository.reference.tag)
    url = repository.url(endpoint, "manifests", target)
    response = repository.send(endpoint, "HEAD", url, {"Accept": ACCEPT}, tries=tries)
    with response:
        if response.status == 200:
            descriptor = _from_headers(repository, response)
            if descriptor is not None:
                return descriptor
        elif response.status not in _HEAD_REFUSED:
            raise repository.status_error(response)
    response = repository.send(endpoint, "GET", url, {"Accept": ACCEPT}, tries=tries)
    with response:
        if response.status != 200:
            raise repository.status_error(response)
        return _from_document(repository, response)


def _from_headers(repository: RepositoryHosts, response: Response) -> Descriptor | None:
    """Return the descriptor that the headers describe, or None if they are not sufficient."""
    media_type = _media_type(repository, response)
    _check_manifest_size(repository, response)
    digest = _stated_digest(repository, response)
    wanted = repository.reference.digest
    if not digest or response.length is None or media_type in _VAGUE:
        return None
    if wanted and digest.algorithm != wanted.algorithm:
        return None  # the same bytes may have both digests: they must be hashed
    _check_digest(repository, response, digest)
    return Descriptor(media_type=media_type, digest=digest, size=response.length)


def _from_document(repository: RepositoryHosts, response: Response) -> Descriptor:
    media_type = _media_type(repository, response)
    _check_manifest_size(repository, response)
    repository.check_encoding(response)
    raw = response.read(MAX_MANIFEST_BYTES)
    digest = Digest.of(
        raw,
        repository.reference.digest.algorithm if repository.reference.digest else "sha256",
    )
    _check_digest(repository, response, digest)
    stated = _stated_digest(repository, response)
    if stated and stated.algorithm == digest.algorithm and stated != digest:
        raise repository.content_error(response, f"says that the digest is {stated}, but sent {digest}")
    if media_type in _VAGUE:
        media_type = _own_media_type(raw) or media_type or mediatypes.OCTET_STREAM
    return Descriptor(media_type=media_type, digest=digest, size=len(raw))


def _media_type(repository: RepositoryHosts, response: Response) -> str:
    repository.refuse_html(response, "a manifest")
    return media_type_of(response)


def _check_manifest_size(repository: RepositoryHosts, response: Response) -> None:
    if response.length is not None and response.length > MAX_MANIFEST_BYTES:
        raise repository.content_error(
            response, f"rejecting {response.length} byte manifest: more than {MAX_MANIFEST_BYTES} bytes"
        )


def _stated_digest(repository: RepositoryHosts, response: Response) -> Digest | None:
    text = response.header("Docker-Content-Digest").strip()
    if not text:
        return None
    try:
        return Digest(text)
    except InvalidReference as error:
        raise repository.content_error(response, f"Docker-Content-Digest: {error.message[:200]}") from error


def _check_digest(repository: RepositoryHosts, response: Response, digest: Digest) -> None:
    wanted = repository.reference.digest
    if wanted and wanted != digest:
        raise repository.content_error(response, f"{wanted} was asked for, but it has {digest}")


def _own_media_type(raw: bytes) -> str:
    """Return the `mediaType` of a manifest; "" if it has none."""
    try:
        document = parse_json(raw)
    except ContentError:
        return ""
    found = document.get("mediaType") if isinstance(document, dict) else None
    return found if isinstance(found, str) else ""
