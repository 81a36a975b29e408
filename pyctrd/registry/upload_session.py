"""One blob's upload: opened, sent whole or in pieces, gone on with after a cut, or given up.

Sources: OCI distribution-spec ("Pushing a blob monolithically", "... in chunks"). Real registries differ:
that of the CNCF says `Range: 0-0` of an empty upload, takes no notice of Content-Range, and refuses to go on
with an upload that was cut within a request, which begins again then.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlencode, urljoin, urlsplit, urlunsplit

from pyctrd import redact
from pyctrd.errors import RegistryContentError, RegistryError, RegistryUnreachable
from pyctrd.oci.model import Descriptor
from pyctrd.registry.config.endpoints import Endpoint, is_url_text, origin_of
from pyctrd.registry.hosts import RepositoryHosts
from pyctrd.registry.http import errors, retry
from pyctrd.registry.http.request_body import BlobReader, Stream
from pyctrd.registry.http.transport import Request, Response

_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,18})")
_STORED: Final = frozenset({200, 201, 204})
_TAKEN: Final = frozenset({200, 201, 202, 204})
# The registry has lost the upload, or is elsewhere than we think: it may be asked, or begun again.
_ASTRAY: Final = frozenset({404, 416})
# What registries without chunked uploads say to the first PATCH.
_NO_PATCH: Final = frozenset({400, 404, 405, 415, 416, 501})

_log = redact.logger(__name__)


@dataclass
class UploadSession:
    """An upload that the registry has opened: where to send the next part, and how much of it is there."""

    url: str
    offset: int = 0
    minimum: int = 0
    """The smallest chunk that the registry takes, in bytes (OCI-Chunk-Min-Length)."""

    @classmethod
    def of(cls, repository: RepositoryHosts, answer: Response) -> UploadSession:
        """Read the answer that opened it; raises RegistryContentError without a usable Location."""
        minimum = answer.header("OCI-Chunk-Min-Length").strip()
        limited = minimum.isascii() and minimum.isdigit() and len(minimum) < 16
        return cls(location_of(repository, answer), minimum=int(minimum) if limited else 0)


def location_of(repository: RepositoryHosts, answer: Response) -> str:
    """Return the address of the upload that an answer names: relative or absolute, with its query.

    What a redirect may not name is refused here, too; the transport refuses addresses that the registry may
    not send us to.
    """
    text = answer.header("Location").strip()
    try:
        url = urljoin(answer.url, text)
        parts = urlsplit(url)
        redact.remember(parts.query)
        usable = bool(text and parts.hostname) and parts.scheme in ("http", "https") and parts.port != 0
        usable = usable and is_url_text(text)
    except ValueError:
        usable = False
    if not usable or parts.username is not None:
        raise repository.content_error(answer, f"names no usable place to upload to: Location {text[:80]!r}")
    if parts.scheme == "http" and urlsplit(answer.url).scheme == "https":
        raise repository.content_error(
            answer,
            f"wants the upload on plain http: {parts.netloc}",
            hint="The registry does not know its own URL: set its external URL or X-Forwarded-Proto.",
        )
    return urlunsplit(parts._replace(fragment=""))


class BlobUpload:
    """Sends one blob until the registry has it, or it is of no use to try on."""

    def __init__(
        self,
        repository: RepositoryHosts,
        endpoint: Endpoint,
        reader: BlobReader,
        descriptor: Descriptor,
        *,
        chunk_bytes: int,
        has: Callable[[Descriptor], bool],
    ) -> None:
        self._repository = repository
        self._endpoint = endpoint
        self._reader = reader
        self._descriptor = descriptor
        self._chunk_bytes = chunk_bytes
        self._has = has
        self._session: UploadSession | None = None
        self._in_chunks = 0 < chunk_bytes < descriptor.size
        self._patched = False
        self._reached = 0
        self._fruitless = 0
        self._disturbed = False
        self._retry_after = ""

    def run(self, session: UploadSession | None = None) -> None:
        """Send it all; `session` is an upload that is open already. Raises RegistryError."""
        self._session = session
        try:
            while not self._tried():
                pass
        except RegistryError as error:
            if not isinstance(error, RegistryUnreachable) or error is self._reader.failure:
                self._cancel()
            if error is self._reader.failure:
                raise
            raise self._repository.retold(error, f"could not push blob {self._descriptor.digest}") from error
        except BaseException:
            self._cancel()
            raise

    def _tried(self) -> bool:
        """Try once; tells whether the registry has the blob now. Raises what cannot be helped."""
        self._retry_after = ""
        if self._session is None:
            self._session = self._begin()  # which is patient by itself
        try:
            self._send_rest(self._session)
        except RegistryError as error:
            if error is self._reader.failure or not self._may_help(error):
                raise
            self._pause(error)
            return self._look()
        return True

    def _begin(self) -> UploadSession:
        url = self._repository.url(self._endpoint, "blobs", "uploads/")
        with self._ask("POST", url, tries=retry.TRIES) as answer:
            if answer.status not in _TAKEN:
                raise self._refused(answer)
            return UploadSession.of(self._repository, answer)

    def _send_rest(self, session: UploadSession) -> None:
        size = self._descriptor.size
        if self._in_chunks or session.offset:
            while session.offset < size:
                if not self._patch(session):
                    self._in_chunks = False
                    self._cancel()
                    self._session = session = self._begin()
                    break
        whole = not session.offset
        self._finish(session, self._reader.part(0, size) if whole else Stream.of(b""))

    def _patch(self, session: UploadSession) -> bool:
        """Send one chunk; False when the registry does not know how to take one."""
        start = session.offset
        rest = self._descriptor.size - start
        length = min(max(self._chunk_bytes, session.minimum), rest) if self._chunk_bytes else rest
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Range": f"{start}-{start + length - 1}",
        }
        body = self._reader.part(start, length)
        with self._ask("PATCH", session.url, headers, body) as answer:
            if answer.status in _NO_PATCH and not self._patched:
                _log.info("%s takes no chunks (status %d)", answer.host, answer.status)
                return False
            if answer.status not in _TAKEN:
                raise self._refused(answer)
            self._patched = True
            if answer.header("Location"):
                session.url = location_of(self._repository, answer)
            session.offset = self._offset_in(answer, at_most=start + length) or start + length
            if session.offset < start + min(length, retry.UPLOAD_PROGRESS_BYTES):
                raise self._repository.content_error(
                    answer, f"took {session.offset - start} of {length} bytes, and says that this is fine"
                )
        self._advanced(session.offset)
        return True

    def _finish(self, session: UploadSession, body: Stream) -> None:
        """Close the upload, with the whole blob as body or with nothing more to say than its digest."""
        parts = urlsplit(session.url)
        query = "&".join(filter(None, (parts.query, urlencode({"digest": str(self._descriptor.digest)}))))
        headers = {"Content-Type": "application/octet-stream"}
        url = urlunsplit(parts._replace(query=query))
        with self._ask("PUT", url, headers, body) as answer:
            if answer.status not in _STORED:
                raise self._refused(answer)
            self._session = None
            stored = answer.header("Docker-Content-Digest").strip()
            algorithm = f"{self._descriptor.digest.algorithm}:"
            if stored.startswith(algorithm) and stored != self._descriptor.digest:
                raise self._repository.content_error(
                    answer, f"{self._descriptor.digest} was pushed, stored was {stored[:150]}"
                )

    # --- after a failure

    def _may_help(self, error: RegistryError) -> bool:
        if isinstance(error, RegistryContentError) or self._fruitless >= retry.MAX_FRUITLESS_UPLOADS:
            return False
        if error.status == 400:
            # After a cut the registry may have other bytes than we think: it is begun anew, once.
            disturbed, self._disturbed = self._disturbed, False
            return disturbed
        return errors.is_transient(error) or error.status in retry.TRANSIENT_STATUSES | _ASTRAY

    def _pause(self, error: RegistryError) -> None:
        self._fruitless += 1
        if error.status == 400:
            self._cancel()
        elif error.status not in _ASTRAY:
            self._disturbed = True
            seconds = retry.seconds_to_wait(self._fruitless, self._retry_after)
            if not self._repository.transport.budget.spend(seconds):
                raise error
            _log.info("%s; going on with the upload in %.1f s", error.message, seconds)
            self._repository.transport.sleep(seconds)

    def _look(self) -> bool:
        """Ask the registry where it is, for the next try; an upload that it has forgotten may be complete."""
        session = self._session
        if session is None:
            return False
        try:
            answer = self._ask("GET", session.url)
        except RegistryError:
            return False  # the next try finds out
        with answer:
            if answer.status in _TAKEN:
                if answer.header("Location"):
                    session.url = location_of(self._repository, answer)
                offset = self._offset_in(answer, at_most=self._reader.hashed)
                if offset or not self._reached:  # it may well have nothing, when it has never said otherwise
                    session.offset = offset or 0
                    self._advanced(session.offset)
                    return False
        self._cancel()
        return self._has(self._descriptor)

    def _offset_in(self, answer: Response, *, at_most: int) -> int | None:
        """Read `Range: 0-N`. `0-0` says nothing: some mean one byte by it, and others none."""
        found = _RANGE.fullmatch(answer.header("Range").strip())
        offset = int(found[1]) + 1 if found else 0
        return offset if 1 < offset <= at_most else None

    def _advanced(self, offset: int) -> None:
        if offset >= min(self._reached + retry.UPLOAD_PROGRESS_BYTES, self._descriptor.size) > self._reached:
            self._reached = offset
            self._fruitless = 0

    def _cancel(self) -> None:
        """Let the registry forget the upload, if it will."""
        session, self._session = self._session, None
        if session is not None:
            with contextlib.suppress(RegistryError):
                self._ask("DELETE", session.url).close()

    # --- requests

    def _ask(
        self,
        method: str,
        url: str,
        headers: dict[str, str] | None = None,
        body: Stream | None = None,
        *,
        tries: int = 1,
    ) -> Response:
        """Send a request; what we are known by stays with the registry's own host."""
        if origin_of(url) in self._endpoint.origins:
            return self._repository.send(self._endpoint, method, url, headers or {}, tries=tries, body=body)
        request = Request(
            method,
            url,
            headers=headers or {},
            body=body,
            tls=replace(self._endpoint.tls, client_certs=()),
            tries=tries,
            proxy=self._endpoint.proxy,
            named_by=self._endpoint.base,
        )
        return self._repository.transport.send(request)

    def _refused(self, answer: Response) -> RegistryError:
        self._retry_after = answer.header("Retry-After")
        return self._repository.status_error(answer)
