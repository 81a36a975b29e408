"""Upload one blob: whole or in chunks, resumed after an interruption, or cancelled.

Sources: OCI distribution-spec ("Pushing a blob monolithically", "... in chunks"). Real registries differ:
that of the CNCF sends `Range: 0-0` for an empty upload, ignores Content-Range, and refuses to resume an
upload after an interrupted request, which is then restarted.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import Final
from urllib.parse import urlencode, urljoin, urlsplit, urlunsplit

import msgspec

from pyctrd import redact
from pyctrd.errors import RegistryContentError, RegistryError, RegistryUnreachable
from pyctrd.oci.model import Descriptor
from pyctrd.registry.config.endpoints import Endpoint, is_url_text, origin_of
from pyctrd.registry.hosts import RepositoryHosts
from pyctrd.registry.http import errors, retry
from pyctrd.registry.http.request_body import BlobReader, Stream
from pyctrd.registry.http.response import Response
from pyctrd.registry.http.transport import Request

_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,18})")
_STORED: Final = frozenset({200, 201, 204})
_TAKEN: Final = frozenset({200, 201, 202, 204})
# The registry has lost the upload, or has another offset: request it, or restart.
_LOST: Final = frozenset({404, 416})
# How registries without chunked uploads respond to the first PATCH.
_NO_PATCH: Final = frozenset({400, 404, 405, 415, 416, 501})

_log = redact.logger("pyctrd.registry")


class UploadSession(msgspec.Struct):
    """An upload that the registry has opened: the URL for the next part, and how much the registry has."""

    url: str
    offset: int = 0
    minimum: int = 0
    """The smallest chunk that the registry accepts, in bytes (OCI-Chunk-Min-Length)."""

    @classmethod
    def of(cls, repository: RepositoryHosts, response: Response) -> UploadSession:
        """Read the response that opened it. Raises RegistryContentError without a usable Location."""
        minimum = response.header("OCI-Chunk-Min-Length").strip()
        limited = minimum.isascii() and minimum.isdigit() and len(minimum) < 16
        return cls(location_of(repository, response), minimum=int(minimum) if limited else 0)


def location_of(repository: RepositoryHosts, response: Response) -> str:
    """Return the URL of the upload from the Location of a response, with its query.

    Refuses the same URLs as for redirects; the transport refuses addresses that the registry must not direct
    us to.
    """
    text = response.header("Location").strip()
    try:
        url = urljoin(response.url, text)
        parts = urlsplit(url)
        redact.remember(parts.query)
        usable = bool(text and parts.hostname) and parts.scheme in ("http", "https") and parts.port != 0
        usable = usable and is_url_text(text)
    except ValueError:
        usable = False
    if not usable or parts.username is not None:
        raise repository.content_error(
            response, f"names no usable URL for the upload: Location {text[:80]!r}"
        )
    if parts.scheme == "http" and urlsplit(response.url).scheme == "https":
        raise repository.content_error(
            response,
            f"wants the upload over plain http: {parts.netloc}",
            hint="The registry does not know its own URL: set its external URL or X-Forwarded-Proto.",
        )
    return urlunsplit(parts._replace(fragment=""))


class BlobUpload:
    """Sends one blob until the registry has it, or another attempt cannot help."""

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
        self._cut = False
        self._retry_after = ""

    def run(self, session: UploadSession | None = None) -> None:
        """Send the blob; `session` is an upload that is already open. Raises RegistryError."""
        self._session = session
        try:
            while not self._attempt():
                pass
        except RegistryError as error:
            if not isinstance(error, RegistryUnreachable) or error is self._reader.failure:
                self._cancel()
            if error is self._reader.failure:
                raise
            raise self._repository.with_context(
                error, f"could not push blob {self._descriptor.digest}"
            ) from error
        except BaseException:
            self._cancel()
            raise

    def _attempt(self) -> bool:
        """Try once; return whether the registry has the blob now. Raises errors that a retry cannot fix."""
        self._retry_after = ""
        if self._session is None:
            self._session = self._begin()  # with retries of its own
        try:
            self._send_rest(self._session)
        except RegistryError as error:
            if error is self._reader.failure or not self._can_retry(error):
                raise
            self._pause(error)
            return self._ask_offset()
        return True

    def _begin(self) -> UploadSession:
        url = self._repository.url(self._endpoint, "blobs", "uploads/")
        with self._ask("POST", url, tries=retry.TRIES) as response:
            if response.status not in _TAKEN:
                raise self._refused(response)
            return UploadSession.of(self._repository, response)

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
        """Send one chunk; False if the registry does not support chunks."""
        start = session.offset
        rest = self._descriptor.size - start
        length = min(max(self._chunk_bytes, session.minimum), rest) if self._chunk_bytes else rest
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Range": f"{start}-{start + length - 1}",
        }
        body = self._reader.part(start, length)
        with self._ask("PATCH", session.url, headers, body) as response:
            if response.status in _NO_PATCH and not self._patched:
                _log.info(
                    "%s does not support chunked uploads (status %d)",
                    response.host,
                    response.status,
                    extra={"host": response.host, "status": response.status},
                )
                return False
            if response.status not in _TAKEN:
                raise self._refused(response)
            self._patched = True
            if response.header("Location"):
                session.url = location_of(self._repository, response)
            session.offset = self._offset_in(response, at_most=start + length) or start + length
            if session.offset < start + min(length, retry.UPLOAD_PROGRESS_BYTES):
                raise self._repository.content_error(
                    response,
                    f"accepted a chunk of {length} bytes, but took only {session.offset - start} of them",
                )
        self._note_progress(session.offset)
        return True

    def _finish(self, session: UploadSession, body: Stream) -> None:
        """Finish the upload, with the whole blob or with an empty body."""
        parts = urlsplit(session.url)
        query = "&".join(filter(None, (parts.query, urlencode({"digest": str(self._descriptor.digest)}))))
        headers = {"Content-Type": "application/octet-stream"}
        url = urlunsplit(parts._replace(query=query))
        with self._ask("PUT", url, headers, body) as response:
            if response.status not in _STORED:
                raise self._refused(response)
            self._session = None
            stored = response.header("Docker-Content-Digest").strip()
            algorithm = f"{self._descriptor.digest.algorithm}:"
            if stored.startswith(algorithm) and stored != self._descriptor.digest:
                raise self._repository.content_error(
                    response, f"{self._descriptor.digest} was pushed, but the registry stored {stored[:150]}"
                )

    # --- after a failure

    def _can_retry(self, error: RegistryError) -> bool:
        if isinstance(error, RegistryContentError) or self._fruitless >= retry.MAX_FRUITLESS_UPLOADS:
            return False
        if error.status == 400:
            # After a cut the registry may have another offset than expected: restart, once.
            cut, self._cut = self._cut, False
            return cut
        return errors.is_transient(error) or error.status in retry.TRANSIENT_STATUSES | _LOST

    def _pause(self, error: RegistryError) -> None:
        self._fruitless += 1
        if error.status == 400:
            self._cancel()
        elif error.status not in _LOST:
            self._cut = True
            seconds = retry.seconds_to_wait(self._fruitless, self._retry_after)
            if not self._repository.transport.budget.spend(seconds):
                raise error
            _log.info(
                "%s; resuming the upload in %.1f s",
                error.message,
                seconds,
                extra={"host": error.host, "status": error.status, "pause": seconds},
            )
            self._repository.transport.sleep(seconds)

    def _ask_offset(self) -> bool:
        """Request the offset to resume at; an upload that the registry does not know may be complete."""
        session = self._session
        if session is None:
            return False
        try:
            response = self._ask("GET", session.url)
        except RegistryError:
            return False  # the next attempt raises it
        with response:
            if response.status in _TAKEN:
                if response.header("Location"):
                    session.url = location_of(self._repository, response)
                offset = self._offset_in(response, at_most=self._reader.hashed)
                if offset or not self._reached:  # 0 is plausible if the registry never had any data
                    session.offset = offset or 0
                    self._note_progress(session.offset)
                    return False
        self._cancel()
        return self._has(self._descriptor)

    def _offset_in(self, response: Response, *, at_most: int) -> int | None:
        """Read `Range: 0-N`. `0-0` is ambiguous: for some registries it means one byte, for others none."""
        found = _RANGE.fullmatch(response.header("Range").strip())
        offset = int(found[1]) + 1 if found else 0
        return offset if 1 < offset <= at_most else None

    def _note_progress(self, offset: int) -> None:
        if offset >= min(self._reached + retry.UPLOAD_PROGRESS_BYTES, self._descriptor.size) > self._reached:
            self._reached = offset
            self._fruitless = 0

    def _cancel(self) -> None:
        """Cancel the upload at the registry, if it is possible."""
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
        """Send a request, with credentials and client certificates only to the registry's own host."""
        if origin_of(url) in self._endpoint.origins:
            return self._repository.send(self._endpoint, method, url, headers or {}, tries=tries, body=body)
        request = Request(
            method,
            url,
            headers=headers or {},
            body=body,
            tls=msgspec.structs.replace(self._endpoint.tls, client_certs=()),
            tries=tries,
            proxy=self._endpoint.proxy,
            named_by=self._endpoint.base,
        )
        return self._repository.transport.send(request)

    def _refused(self, response: Response) -> RegistryError:
        self._retry_after = response.header("Retry-After")
        return self._repository.status_error(response)
