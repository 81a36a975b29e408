"""Download several ranges of one large blob at once, and deliver them in order.

Every download begins over one connection, which continues until the first range has arrived whole. When a
range fails, one connection resumes at the byte reached, so that content, errors and hints are those of a
download without ranges. RangeControl decides how many connections there are. containerd 2.1 has the same
feature with a fixed number (core/remotes/docker/fetcher.go, concurrent_layer_fetch_buffer), off by default.
"""

from __future__ import annotations

from collections.abc import Iterator

from pyctrd import redact
from pyctrd.errors import RegistryContentError, RegistryError, RegistryUnreachable
from pyctrd.oci import mediatypes
from pyctrd.oci.model import Descriptor
from pyctrd.registry.fetch import CONTENT_RANGE, BlobRequests
from pyctrd.registry.hosts import RepositoryHosts
from pyctrd.registry.http.response import Response
from pyctrd.registry.http.retry import MAX_FRUITLESS_RANGES, MAX_RANGE_FAILURES
from pyctrd.registry.range_control import SEGMENT_BYTES, RangeControl
from pyctrd.registry.range_workers import RangeFailed, RangeWorkers
from pyctrd.registry.resuming import ResumingBody

_log = redact.logger("pyctrd.registry")


class Segments:
    """Requests for ranges of the blobs of one repository, each at the first host that has it."""

    def __init__(self, repository: RepositoryHosts) -> None:
        self._repository = repository
        self.refused = False
        """Whether a host does not support ranges, or limits requests: they are not tried again."""

    def usable(self, descriptor: Descriptor) -> bool:
        """Whether a blob may be requested in ranges: one with URLs of its own may not."""
        return not (self.refused or descriptor.urls or mediatypes.is_nondistributable(descriptor.media_type))

    def fetch(self, descriptor: Descriptor, start: int, end: int) -> bytes:
        """Return the bytes [start, end) of a blob; resumes after a cut. Raises RegistryError."""
        parts: list[bytes] = []
        position, fruitless = start, 0
        while position < end:
            before = position
            try:
                for chunk in self._chunks(descriptor, position, end):
                    position += len(chunk)
                    parts.append(chunk)
            except RegistryUnreachable as error:
                failure: RegistryError = error
            else:
                failure = RegistryError("the range ended early", host=self._repository.host)
            fruitless = 0 if position > before else fruitless + 1
            if fruitless >= MAX_FRUITLESS_RANGES:
                raise failure
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _chunks(self, descriptor: Descriptor, start: int, end: int) -> Iterator[bytes]:
        response = self._open(descriptor, start, end)
        try:
            room = end - start
            for chunk in response.chunks():
                room -= len(chunk)
                if room < 0:
                    raise self._refuse(response, "sent more than the range that was asked for")
                yield chunk
        finally:
            response.close()

    def _open(self, descriptor: Descriptor, start: int, end: int) -> Response:
        """Try the hosts in order, each once: only the download over one connection is retried."""
        failure = RegistryError("no host is configured that may pull", host=self._repository.host)
        headers = {"Accept": f"{descriptor.media_type}, */*", "Range": f"bytes={start}-{end - 1}"}
        for endpoint in self._repository.allowed({"pull"}):
            url = self._repository.url(endpoint, "blobs", str(descriptor.digest))
            try:
                response = self._repository.send(endpoint, "GET", url, headers, tries=1)
            except RegistryError as error:
                failure = error
                continue
            try:
                self._check(response, descriptor, start, end)
            except RegistryError as error:
                response.close()
                failure = error
            else:
                return response
        raise failure

    def _check(self, response: Response, descriptor: Descriptor, start: int, end: int) -> None:
        if response.status == 200:
            raise self._refuse(response, "ignores Range")
        if response.status != 206:
            self.refused = self.refused or response.status == 429
            raise self._repository.status_error(response)
        self._repository.check_encoding(response)
        found = CONTENT_RANGE.fullmatch(response.header("Content-Range").strip())
        if (
            not found
            or (int(found[1]), int(found[2])) != (start, end - 1)
            or found[3] not in ("*", str(descriptor.size))
            or response.length not in (None, end - start)
        ):
            raise self._refuse(response, "answered with another range than the one asked for")

    def _refuse(self, response: Response, text: str) -> RegistryContentError:
        self.refused = True
        return self._repository.content_error(response, text)


class RangedDownload:
    """The bytes of a blob from `offset`, over one connection, or over several if that is faster.

    The first connection is opened at once, so that its errors are raised before any byte is read.
    """

    def __init__(
        self, requests: BlobRequests, offset: int, segments: Segments, control: RangeControl
    ) -> None:
        self._requests = requests
        self._descriptor = requests.descriptor
        self._position = offset
        self._segments = segments
        self._control = control
        self._body = ResumingBody(requests, offset)
        self._workers: RangeWorkers | None = None
        self._held = 0
        self._failures = 0
        self._busy_since = control.clock()

    def close(self) -> None:
        """Close all connections."""
        self._drop()
        self._body.close()

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes. Raises the errors of ResumingBody.chunks."""
        while self._position < self._descriptor.size:
            yield from self._over_one()
            if self._workers is None:
                return
            yield from self._over_several(self._workers)

    # --- over one connection, until the first range has arrived

    def _over_one(self) -> Iterator[bytes]:
        for chunk in self._timed(self._body.chunks()):
            workers = self._workers
            if workers is not None and self._position + len(chunk) >= workers.start:
                if workers.wait_for_first():
                    self._body.close()
                    yield self._advance(chunk[: workers.start - self._position])
                    return
                self._fail()
            yield self._advance(chunk)
            self._adjust()

    def _timed(self, stream: Iterator[bytes]) -> Iterator[bytes]:
        while True:
            started = self._control.clock()
            chunk = next(stream, None)
            if chunk is None:
                return
            self._record(started, len(chunk))
            yield chunk

    def _advance(self, chunk: bytes) -> bytes:
        self._position += len(chunk)
        self._busy_since = self._control.clock()
        return chunk

    def _record(self, started: float, count: int) -> None:
        busy = started - self._busy_since
        self._control.record(count, waited=self._control.clock() - started, busy=busy)

    def _adjust(self) -> None:
        """Start, add or stop workers, as RangeControl says."""
        if self._workers is None and not (
            self._failures < MAX_RANGE_FAILURES and self._segments.usable(self._descriptor)
        ):
            return
        remaining = self._descriptor.size - self._position
        self._held = self._control.allot(self._held, remaining)
        if self._workers is None and self._held:
            self._workers = RangeWorkers(
                lambda start, end: self._segments.fetch(self._descriptor, start, end),
                self._position + SEGMENT_BYTES,
                self._descriptor.size,
            )
        if self._workers is not None:
            self._workers.resize(self._held)

    # --- over several connections

    def _over_several(self, workers: RangeWorkers) -> Iterator[bytes]:
        while not workers.drained:
            started = self._control.clock()
            try:
                data = workers.take()
            except RangeFailed as error:
                digest = str(self._descriptor.digest)
                _log.info("%s: %s; continuing over one connection", digest, error, extra={"digest": digest})
                self._fail()
                break
            self._record(started, len(data))
            yield self._advance(data)
            self._adjust()
        self._drop()
        if self._position < self._descriptor.size:
            self._body = ResumingBody(self._requests, self._position)

    def _fail(self) -> None:
        self._failures += 1
        self._drop()

    def _drop(self) -> None:
        if self._workers is not None:
            self._workers.close()
            self._workers = None
        self._control.release(self._held)
        self._held = 0
