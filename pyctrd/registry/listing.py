"""What a repository has: its tags, and what refers to a manifest of it.

A list is asked of the registry itself first, of mirrors only where that gives none: nobody sees from a
list what it lacks. It always comes from one host; pages of two would make a list that is nobody's.

Sources: OCI distribution-spec 1.1 ("Listing Tags", "Listing Referrers", "Unavailable Referrers API");
containerd core/remotes/docker/referrers.go for who may be asked.
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
    NotFound,
    RegistryContentError,
    RegistryError,
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
# As crane asks: large registries allow no more.
PAGE_TAGS: Final = 1000

# How registries without lists of referrers say so: the spec knows 404 only, ggcr met 400 and 406, too.
_NO_LISTS: Final = frozenset({400, 404, 405, 406, 501})
_VAGUE: Final = frozenset({"", "application/json", "text/plain", mediatypes.OCTET_STREAM})

_T = TypeVar("_T")
_log = redact.logger(__name__)


@dataclass(frozen=True)
class TagList:
    """The tags of a repository, in the order of the registry, each once.

    `repository` is the full name, `host` (host[:port]) who has listed them, `mirror` whether that is another
    one than the registry itself, which may have more.
    """

    repository: str
    host: str
    mirror: bool
    tags: tuple[str, ...]


@dataclass(frozen=True)
class ReferrerList:
    """The manifests that name another one, `subject`, as their subject; in the registry's order, each once.

    The descriptors have the artifact type and the annotations of those manifests, as the list has them.
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
    """List the tags, `page_size` (from 1) for each request; hosts that may resolve are asked.

    Raises NotFound when no host knows the repository, AuthenticationFailed, RegistryContentError for what
    is no list of tags, has pages without end, or more than MAX_TAGS of them, other RegistryErrors as they
    come. Source: OCI distribution-spec 1.1, "Listing Tags".
    """
    if page_size < 1:
        raise InvalidInput(f"a page of {page_size} tags")
    hosts = _registry_first(repository, {"pull", "resolve"})
    name = repository.reference.name
    try:
        return _first_answer(
            repository, hosts, lambda host, tries: _tags_at(repository, host, tries, page_size)
        )
    except RegistryError as error:
        if not is_absent(error):
            raise repository.retold(error, f'failed to list the tags of "{name}"') from error
        raise NotFound(
            f'failed to list the tags of "{name}": {name}: not found',
            kind="repository",
            name=name,
            hint=f"Asked {error.host}: check the spelling of the repository.",
        ) from error


def referrers(repository: RepositoryHosts, subject: Digest, artifact_type: str = "") -> ReferrerList:
    """List what refers to a digest, of one artifact type or ("") of all; it need not be there itself.

    Hosts with the `referrers` capability are asked for their lists, and for the tag of the referrers
    where they keep none; without such a host it is the tag alone, of hosts that may resolve. Raises as
    `tags` does, but for NotFound: where there is nothing the list is empty.
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
        raise repository.retold(error, f'failed to list what refers to "{name}"') from error


# --- who is asked


def _registry_first(repository: RepositoryHosts, needed: Set[str]) -> list[Endpoint]:
    """List who may be asked; the host behind all mirrors is the one that knows."""
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
            _log.info("%s", error.message)
            errors.append(error)
        else:
            if errors and endpoint.is_mirror:
                _log.warning(
                    "the list is of %s: a mirror may lack what %s has",
                    endpoint.host,
                    repository.host,
                )
            return found
    if not errors:
        raise RegistryError(
            f"{repository.host}: no host is configured that may be asked",
            host=repository.host,
            hint='add "pull" and "resolve", or for referrers "referrers", to the capabilities of one in '
            "its hosts.toml",
        )
    worst = max(errors, key=severity)
    if worst.status == 404 and isinstance(errors[0], RegistryUnreachable):
        worst = errors[0]  # a mirror's 404 tells nothing about the registry that did not answer
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
            # Link is optional; a registry that has no pages at all gives the same again: no news.
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
        _log.info("%s keeps no lists of referrers (status %d)", endpoint.host, error.status)
        return _tagged_referrers_at(repository, endpoint, tries, subject, artifact_type)
    found: dict[Digest, Descriptor] = {}
    seen: set[Digest] = set()
    while True:
        listed = _index_in(page).manifests
        before = len(seen)  # of every type: a page of others is one with something new, too
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
        if not is_absent(error) or endpoint.is_mirror:  # whom nothing compels to have all tags
            raise
        return _list(repository, endpoint, subject, "tag", found)
    try:
        listed = _index_in(page).manifests
    except RegistryContentError as error:
        if endpoint.is_mirror:
            raise
        _log.warning("tag %s: taken for no list of referrers: %s", tag, error.message)
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
        if not refused_with(error, {400}):  # which some say to a number that is too large for them
            raise
        return pages.first(address)


def _tags_in(page: Page) -> tuple[str, ...]:
    page.repository.refuse_html(page.response, "a list of tags")
    try:
        document = parse_json(page.raw)
        # `null` for no tags is common, and absent here.
        if not isinstance(document, dict) or not document.keys() & {"name", "tags"}:
            raise page.error("answered with something else than a list of tags")
        listed = convert(document, _Tags).tags
    except (ContentError, msgspec.ValidationError) as error:
        raise page.error(f"answered with something else than a list of tags: {error}") from error
    for tag in listed:
        if not reference.is_tag(tag):
            raise page.error(f"lists a tag that is none: {tag[:80]!r}")
    return listed


class _Tags(msgspec.Struct, frozen=True):
    name: str = ""
    tags: tuple[str, ...] = ()


def _index_in(page: Page) -> Index:
    page.repository.refuse_html(page.response, "a list of referrers")
    try:
        index = Index.parse(page.raw)
    except ContentError as error:
        raise page.error(f"answered with something else than a list of referrers: {error}") from error
    said = {page.media_type} - _VAGUE | {index.media_type} - {""}
    # Any JSON object could be read as an index that lists nothing.
    if said - {mediatypes.OCI_INDEX} or not (said or index.schema_version == 2):
        shown = ", ".join(sorted(said))[:150] or "no index"
        raise page.error(f"answered with something else than a list of referrers: {shown}")
    for item in index.manifests:
        if not f"{item.media_type}{item.artifact_type}".isprintable():
            raise page.error(f"lists a referrer with a media type that is none: {item.digest}")
    return index


def _is_filtered(page: Page) -> bool:
    applied = ",".join(page.response.header_values("OCI-Filters-Applied"))
    return "artifacttype" in (name.strip().lower() for name in applied.split(","))


def _of_type(listed: Iterable[Descriptor], artifact_type: str) -> list[Descriptor]:
    return [item for item in listed if artifact_type in ("", item.artifact_type)]


def _check_number(page: Page, count: int) -> None:
    if count > MAX_REFERRERS:
        raise page.error(f"lists more than {MAX_REFERRERS} referrers")
