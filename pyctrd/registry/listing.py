"""List the tags of a repository, and the referrers of a manifest.

The registry itself is used first, mirrors only if it fails, since a list does not show what it lacks. All
pages of a list come from one host.

Sources: OCI distribution-spec 1.1 ("Listing Tags", "Listing Referrers", "Unavailable Referrers API");
containerd core/remotes/docker/referrers.go for which hosts are asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

import msgspec

from pyctrd import redact
from pyctrd.errors import (
    ContentError,
    InvalidInput,
    RegistryContentError,
    RegistryError,
    RegistryNotFound,
    RegistryUnreachable,
)
from pyctrd.oci import mediatypes, reference
from pyctrd.oci.graph import MAX_CHILDREN
from pyctrd.oci.model import Descriptor, Digest, Index, convert, parse_json
from pyctrd.registry import referrers_tag
from pyctrd.registry.config.endpoints import Endpoint
from pyctrd.registry.hosts import RepositoryHosts, severity, with_tries
from pyctrd.registry.pagination import Page, Pages, is_absent, refused_with, with_query

MAX_TAGS: Final = 250_000
MAX_REFERRERS: Final = MAX_CHILDREN
# As in crane: large registries do not allow more.
PAGE_TAGS: Final = 1000

# Responses of registries without the referrers API: 404 by the spec, but 400 and 406 also occur (see ggcr).
_NO_LISTS: Final = frozenset({400, 404, 405, 406, 501})
_VAGUE: Final = frozenset({"", "application/json", "text/plain", mediatypes.OCTET_STREAM})

_T = TypeVar("_T")
_log = redact.logger("pyctrd.registry")


@dataclass(frozen=True)
class TagList:
    """The tags of a repository, in the order of the registry, without duplicates.

    `repository` is the full name, `host` the host[:port] that listed them, `mirror` whether that is another
    one than the registry itself, which may have more.
    """

    repository: str
    host: str
    mirror: bool
    tags: tuple[str, ...]


@dataclass(frozen=True)
class ReferrerList:
    """The manifests whose subject is `subject`, in the order of the registry, without duplicates.

    The descriptors have the artifact type and the annotations of those manifests.
    `repository`, `host` and `mirror` are as in TagList; `source` is `api` for a list that the registry keeps,
    `tag` for one that clients keep under a tag.
    """

    repository: str
    host: str
    mirror: bool
    subject: Digest
    source: Literal["api", "tag"]
    referrers: tuple[Descriptor, ...]


def tags(repository: RepositoryHosts, page_size: int = PAGE_TAGS) -> TagList:
    """List the tags, `page_size` (at least 1) per request, from a host with the capability to resolve.

    Raises RegistryNotFound if no host has the repository, AuthenticationFailed, RegistryContentError for an
    invalid list, one with endless pages or with more than MAX_TAGS tags, and other RegistryErrors. Source:
    OCI distribution-spec 1.1, "Listing Tags".
    """
    if page_size < 1:
        raise InvalidInput(f"page size {page_size} is not positive")
    hosts = _registry_first(repository, {"pull", "resolve"})
    name = repository.reference.name
    try:
        return _first_answer(
            repository, hosts, lambda host, tries: _tags_at(repository, host, tries, page_size)
        )
    except RegistryError as error:
        if not is_absent(error):
            raise repository.with_context(error, f'failed to list the tags of "{name}"') from error
        raise RegistryNotFound(
            f'failed to list the tags of "{name}": {name}: not found',
            kind="repository",
            name=name,
            host=repository.host,
            repository=repository.repository,
            hint=f"Asked {error.host}: check the spelling of the repository.",
        ) from error


def referrers(repository: RepositoryHosts, subject: Digest, artifact_type: str = "") -> ReferrerList:
    """List the referrers of a digest, which need not exist, of one artifact type or (with "") of all.

    Hosts with the `referrers` capability are used, with the referrers API or, if they do not have it, the
    referrers tag; without such a host only the tag is read, from hosts that may resolve. Raises the errors of
    `tags` except RegistryNotFound, since the list may be empty.
    Source: OCI distribution-spec 1.1, "Listing Referrers"; containerd's FetchReferrers.
    """
    hosts = _registry_first(repository, {"referrers"})
    ask = _referrers_at
    if not hosts:
        hosts, ask = _registry_first(repository, {"pull", "resolve"}), _tagged_referrers_at
    try:
        return _first_answer(
            repository, hosts, lambda host, tries: ask(repository, host, tries, subject, artifact_type)
        )
    except RegistryError as error:
        if is_absent(error):
            return ReferrerList(repository.reference.name, error.host, True, subject, "tag", ())
        name = f"{repository.reference.name}@{subject}"
        raise repository.with_context(error, f'failed to list the referrers of "{name}"') from error


# --- hosts


def _registry_first(repository: RepositoryHosts, needed: Set[str]) -> list[Endpoint]:
    """List the hosts with the capabilities needed, the registry itself before its mirrors."""
    *_mirrors, last = repository.endpoints
    able = [item for item in repository.endpoints if needed <= item.capabilities]
    return sorted(able, key=lambda item: item is not last)


def _first_answer(
    repository: RepositoryHosts, hosts: Sequence[Endpoint], ask: Callable[[Endpoint, int], _T]
) -> _T:
    errors: list[RegistryError] = []
    for endpoint, tries in with_tries(hosts):
        try:
            found = ask(endpoint, tries)
        except RegistryError as error:
            _log.info("%s", error.message, extra={"host": error.host, "status": error.status})
            errors.append(error)
        else:
            if errors and endpoint.is_mirror:
                _log.warning(
                    "the list is from %s: a mirror may lack some of what %s has",
                    endpoint.host,
                    repository.host,
                    extra={"host": endpoint.host},
                )
            return found
    if not errors:
        raise RegistryError(
            f"{repository.host}: no configured host may be asked",
            host=repository.host,
            hint='Add "pull" and "resolve", or "referrers" for referrers, to the capabilities of a host in '
            "its hosts.toml.",
        )
    worst = max(errors, key=severity)
    if worst.status == 404 and isinstance(errors[0], RegistryUnreachable):
        worst = errors[0]  # a mirror's 404 is no statement about the registry, which did not respond
    raise worst


# --- tags


def _tags_at(repository: RepositoryHosts, endpoint: Endpoint, tries: int, page_size: int) -> TagList:
    pages = Pages(repository, endpoint, tries, accept="application/json")
    address = repository.url(endpoint, "tags", "list")
    page = _first_tags(pages, address, page_size)
    found: dict[str, None] = {}
    linked = False
    while True:
        listed = _tags_in(page)
        before = len(found)
        found.update(dict.fromkeys(listed))
        news = len(found) > before
        if len(found) > MAX_TAGS:
            raise page.error(f"lists more than {MAX_TAGS} tags")
        following = page.next
        linked = linked or following is not None
        if not linked and news and len(listed) == page_size:
            # Link is optional; a registry without pages returns the same again, which ends the loop.
            following = with_query(address, n=str(page_size), last=listed[-1])
        if following is None:
            return TagList(repository.reference.name, endpoint.host, endpoint.is_mirror, tuple(found))
        page = pages.after(page, following, news=news)


# --- referrers


def _referrers_at(
    repository: RepositoryHosts, endpoint: Endpoint, tries: int, subject: Digest, artifact_type: str
) -> ReferrerList:
    pages = Pages(repository, endpoint, tries, accept=mediatypes.OCI_INDEX)
    address = repository.url(endpoint, "referrers", str(subject))
    try:
        page = pages.first(with_query(address, artifactType=artifact_type) if artifact_type else address)
    except RegistryError as error:
        if not refused_with(error, _NO_LISTS):
            raise
        _log.info(
            "%s does not support the referrers API (status %d)",
            endpoint.host,
            error.status,
            extra={"host": endpoint.host, "status": error.status},
        )
        return _tagged_referrers_at(repository, endpoint, tries, subject, artifact_type)
    found: dict[Digest, Descriptor] = {}
    seen: set[Digest] = set()
    while True:
        listed = _index_in(page).manifests
        before = len(seen)  # of every type: a page with other types only has something new, too
        seen.update(item.digest for item in listed)
        _check_number(page, len(seen))
        for item in listed if _is_filtered(page) else _of_type(listed, artifact_type):
            found.setdefault(item.digest, item)
        if page.next is None:
            return _list(repository, endpoint, subject, "api", found)
        page = pages.after(page, page.next, news=len(seen) > before)


def _tagged_referrers_at(
    repository: RepositoryHosts, endpoint: Endpoint, tries: int, subject: Digest, artifact_type: str
) -> ReferrerList:
    tag = referrers_tag.tag_of(subject)
    pages = Pages(repository, endpoint, tries, accept=mediatypes.OCI_INDEX)
    found: dict[Digest, Descriptor] = {}
    try:
        page = pages.first(repository.url(endpoint, "manifests", tag))
    except RegistryError as error:
        if not is_absent(error) or endpoint.is_mirror:  # it need not have all tags
            raise
        return _list(repository, endpoint, subject, "tag", found)
    try:
        listed = _index_in(page).manifests
    except RegistryContentError as error:
        if endpoint.is_mirror:
            raise
        _log.warning(
            "tag %s is ignored, it is not a list of referrers: %s",
            tag,
            error.message,
            extra={"host": endpoint.host},
        )
        return _list(repository, endpoint, subject, "tag", found)
    _check_number(page, len(listed))
    for item in _of_type(listed, artifact_type):
        found.setdefault(item.digest, item)
    return _list(repository, endpoint, subject, "tag", found)


def _list(
    repository: RepositoryHosts,
    endpoint: Endpoint,
    subject: Digest,
    source: Literal["api", "tag"],
    found: Mapping[Digest, Descriptor],
) -> ReferrerList:
    name = repository.reference.name
    return ReferrerList(name, endpoint.host, endpoint.is_mirror, subject, source, tuple(found.values()))


def _first_tags(pages: Pages, address: str, page_size: int) -> Page:
    try:
        return pages.first(with_query(address, n=str(page_size)))
    except RegistryError as error:
        if not refused_with(error, {400}):  # for a page size that is too large
            raise
        return pages.first(address)


def _tags_in(page: Page) -> tuple[str, ...]:
    page.repository.refuse_html(page.response, "a list of tags")
    try:
        document = parse_json(page.raw)
        # `null` for no tags is common, and absent here.
        if not isinstance(document, dict) or not document.keys() & {"name", "tags"}:
            raise page.error("answered with something other than a list of tags")
        listed = convert(document, _Tags).tags
    except (ContentError, msgspec.ValidationError) as error:
        raise page.error(f"answered with something other than a list of tags: {error}") from error
    for tag in listed:
        if not reference.is_tag(tag):
            raise page.error(f"lists an invalid tag: {tag[:80]!r}")
    return listed


class _Tags(msgspec.Struct, frozen=True):
    name: str = ""
    tags: tuple[str, ...] = ()


def _index_in(page: Page) -> Index:
    page.repository.refuse_html(page.response, "a list of referrers")
    try:
        index = Index.parse(page.raw)
    except ContentError as error:
        raise page.error(f"answered with something other than a list of referrers: {error}") from error
    said = {page.media_type} - _VAGUE | {index.media_type} - {""}
    # Any JSON object could be read as an index without manifests.
    if said - {mediatypes.OCI_INDEX} or not (said or index.schema_version == 2):
        shown = ", ".join(sorted(said))[:150] or "no index"
        raise page.error(f"answered with something other than a list of referrers: {shown}")
    for item in index.manifests:
        if not f"{item.media_type}{item.artifact_type}".isprintable():
            raise page.error(f"lists a referrer with an invalid media type: {item.digest}")
    return index


def _is_filtered(page: Page) -> bool:
    applied = ",".join(page.response.header_values("OCI-Filters-Applied"))
    return "artifacttype" in (name.strip().lower() for name in applied.split(","))


def _of_type(listed: Iterable[Descriptor], artifact_type: str) -> list[Descriptor]:
    return [item for item in listed if artifact_type in ("", item.artifact_type)]


def _check_number(page: Page, count: int) -> None:
    if count > MAX_REFERRERS:
        raise page.error(f"lists more than {MAX_REFERRERS} referrers")
