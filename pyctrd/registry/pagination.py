"""Read the pages of a list from one endpoint, with limits; Link names the next page.

Sources: OCI distribution-spec 1.1 ("Listing Tags", "Listing Referrers"); RFC 8288.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Final
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

from pyctrd.errors import AuthenticationFailed, RegistryContentError, RegistryError
from pyctrd.oci.model import MAX_MANIFEST_BYTES
from pyctrd.registry.config.endpoints import Endpoint, is_url_text, origin_of
from pyctrd.registry.hosts import RepositoryHosts, media_type_of
from pyctrd.registry.http import link_header, retry
from pyctrd.registry.http.response import Response
from pyctrd.registry.values import Confidential

MAX_PAGES: Final = 5_000
MAX_LIST_BYTES: Final = 64 << 20
# Pages in a row without anything new: a registry may filter, but not forever.
MAX_PAGES_WITHOUT_NEWS: Final = 10


class Page(Confidential, frozen=True):
    """One page: its bytes, and the URL of the next one or None."""

    HIDDEN = frozenset({"raw"})

    repository: RepositoryHosts
    response: Response
    raw: bytes
    next: str | None

    @property
    def media_type(self) -> str:
        """The Content-Type without parameters."""
        return media_type_of(self.response)

    def error(self, text: str) -> RegistryContentError:
        """Return the error for an invalid page."""
        return self.repository.content_error(self.response, text)


class Pages:
    """The pages of one list at one endpoint. `tries` is for the first page; later ones are retried."""

    def __init__(self, repository: RepositoryHosts, endpoint: Endpoint, tries: int, *, accept: str) -> None:
        self._repository = repository
        self._endpoint = endpoint
        self._tries = tries
        self._accept = accept
        self._asked: set[str] = set()
        self._bytes = 0
        self._without_news = 0

    def first(self, url: str) -> Page:
        """Request the first page. Raises RegistryError, also for any status except 200."""
        return self._get(url, self._tries)

    def after(self, page: Page, url: str, *, news: bool) -> Page:
        """Request the page after `page`; `news` is whether that had something new. Raises like `first`.

        Raises RegistryContentError for a URL that was requested before, more than MAX_PAGES pages, more than
        MAX_LIST_BYTES in total, and MAX_PAGES_WITHOUT_NEWS pages in a row with nothing new.
        """
        self._without_news = 0 if news else self._without_news + 1
        if url in self._asked:
            raise page.error("the pages of its list go in a circle")
        if self._without_news >= MAX_PAGES_WITHOUT_NEWS or len(self._asked) >= MAX_PAGES:
            raise page.error(f"its list does not end: {len(self._asked)} pages")
        try:
            return self._get(url, retry.TRIES)
        except RegistryError as error:
            if is_absent(error):
                raise page.error("names a next page that it does not have") from error
            raise

    def _get(self, url: str, tries: int) -> Page:
        self._asked.add(url)
        response = self._repository.send(self._endpoint, "GET", url, {"Accept": self._accept}, tries=tries)
        with response:
            if response.status != 200:
                raise self._repository.status_error(response)
            self._repository.check_encoding(response)
            raw = response.read(MAX_MANIFEST_BYTES)
            self._bytes += len(raw)
            if self._bytes > MAX_LIST_BYTES:
                raise self._repository.content_error(
                    response, f"its list has more than {MAX_LIST_BYTES} bytes"
                )
            return Page(self._repository, response, raw, self._next(response))

    def _next(self, response: Response) -> str | None:
        """Return the URL of the next page, which must be at the same endpoint, since it gets credentials."""
        try:
            target = link_header.next_of(response.header_values("Link"))
            if target is None:
                return None
            url = urljoin(response.url, target)
            usable = is_url_text(target)
            own = origin_of(url) == origin_of(response.url) and origin_of(url) in self._endpoint.origins
            parts = urlsplit(url)
        except ValueError:
            usable = False
        if not usable or parts.username is not None:
            raise self._repository.content_error(response, "its Link header cannot be read")
        if not own:
            raise self._repository.content_error(
                response,
                f"names a next page of its list at another origin: {parts.scheme}://{parts.netloc[:80]}",
                hint="The registry may not know its own URL: set its external URL or X-Forwarded-Proto.",
            )
        url = urlunsplit(parts._replace(fragment=""))
        lacking = self._endpoint.namespace and "ns" not in dict(parse_qsl(parts.query))
        return with_query(url, ns=self._endpoint.namespace) if lacking else url


def with_query(url: str, **parameters: str) -> str:
    """Add parameters to the query of a URL."""
    return f"{url}{'&' if '?' in url else '?'}{urlencode(parameters)}"


def is_absent(error: RegistryError) -> bool:
    """Whether an error is a 404 of the registry, and not of a token server."""
    return refused_with(error, {404})


def refused_with(error: RegistryError, statuses: Set[int]) -> bool:
    """Whether the registry itself responded with one of these statuses."""
    return error.status in statuses and not isinstance(error, AuthenticationFailed | RegistryContentError)
