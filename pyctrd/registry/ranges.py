"""Several ranges of one large blob at once, delivered in order.

The plain way comes first, and is what everything falls back to: it goes on until the first range has arrived
whole, and again from the byte reached when a range fails, so that content, errors and hints are the plain
way's. The governor decides how many connections there are. containerd 2.1 has the same idea with a fixed
number (core/remotes/docker/fetcher.go, concurrent_layer_fetch_buffer); there it is off unless configured.
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
from pyctrd.registry.range_control import SEGMENT_BYTES, Governor
from pyctrd.registry.range_workers import LaneFailed, Lanes
from pyctrd.registry.resuming import ResumingBody

_log = redact.logger(__name__)


class Segments:
    """Ranges of the blobs of one repository, each from the first host that has it."""

    def __init__(self, repository: RepositoryHosts) -> None:
        self._repository = repository
        self.refused = False
        """Whether a host does not do ranges, or has asked for fewer requests: they are not tried again."""

    def usable(self, descriptor: Descriptor) -> bool:
        """Tell whether a blob may be asked for in ranges: one with URLs of its own may not."""
        return not (self.refused or descriptor.urls or mediatypes.is_nondistributable(descriptor.media_type))

    def fetch(self, descriptor: Descriptor, start: int, end: int) -> bytes:
        """Give the bytes [start, end) of a blob; goes on after a cut. Raises RegistryError."""
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
        """Ask the hosts in order, each once: whoever is patient is the plain way."""
        failure = RegistryError("no host is configured that may pull", host=self._repository.host)
        headers = {"Accept": f"{descriptor.media_type}, */*", "Range": f"bytes={start}-{end - 1}"}
        for endpoint in self._repository.able({"pull"}):
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
            raise self._refuse(response, "answered with another range than was asked for")

    def _refuse(self, response: Response, text: str) -> RegistryContentError:
        self.refused = True
        return self._repository.content_error(response, text)


class RangedDownload:
    """The bytes of a blob from `offset`: over one connection, or over several where that is faster.

    The first connection is opened at once, so that its errors come before any byte is asked for.
    """

    def __init__(self, requests: BlobRequests, offset: int, segments: Segments, governor: Governor) -> None:
        self._requests = requests
        self._descriptor = requests.descriptor
        self._position = offset
        self._segments = segments
        self._governor = governor
        self._body = ResumingBody(requests, offset)
        self._lanes: Lanes | None = None
        self._held = 0
        self._failures = 0
        self._busy_since = governor.clock()

    def close(self) -> None:
        """Let go of all connections."""
        self._drop()
        self._body.close()

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes; raises what the plain way raises."""
        while self._position < self._descriptor.size:
            yield from self._plainly()
            if self._lanes is None:
                return
            yield from self._in_lanes(self._lanes)

    # --- the plain way, until the lanes have shown that they work

    def _plainly(self) -> Iterator[bytes]:
        for chunk in self._timed(self._body.chunks()):
            lanes = self._lanes
            if lanes is not None and self._position + len(chunk) >= lanes.start:
                if lanes.proven():
                    self._body.close()
                    yield self._passed_on(chunk[: lanes.start - self._position])
                    return
                self._fail()
            yield self._passed_on(chunk)
            self._adjust()

    def _timed(self, stream: Iterator[bytes]) -> Iterator[bytes]:
        while True:
            started = self._governor.clock()
            chunk = next(stream, None)
            if chunk is None:
                return
            self._saw(started, len(chunk))
            yield chunk

    def _passed_on(self, chunk: bytes) -> bytes:
        self._position += len(chunk)
        self._busy_since = self._governor.clock()
        return chunk

    def _saw(self, started: float, count: int) -> None:
        busy = started - self._busy_since
        self._governor.saw(count, waited=self._governor.clock() - started, busy=busy)

    def _adjust(self) -> None:
        """Open, add or take away lanes, as the governor says."""
        if self._lanes is None and not (
            self._failures < MAX_RANGE_FAILURES and self._segments.usable(self._descriptor)
        ):
            return
        remaining = self._descriptor.size - self._position
        self._held = self._governor.lanes(self._held, remaining)
        if self._lanes is None and self._held:
            self._lanes = Lanes(
                lambda start, end: self._segments.fetch(self._descriptor, start, end),
                self._position + SEGMENT_BYTES,
                self._descriptor.size,
            )
        if self._lanes is not None:
            self._lanes.resize(self._held)

    # --- in lanes

    def _in_lanes(self, lanes: Lanes) -> Iterator[bytes]:
        while not lanes.drained:
            started = self._governor.clock()
            try:
                data = lanes.take()
            except LaneFailed as error:
                _log.info("%s: %s; going on with one connection", self._descriptor.digest, error)
                self._fail()
                break
            self._saw(started, len(data))
            yield self._passed_on(data)
            self._adjust()
        self._drop()
        if self._position < self._descriptor.size:
            self._body = ResumingBody(self._requests, self._position)

    def _fail(self) -> None:
        self._failures += 1
        self._drop()

    def _drop(self) -> None:
        if self._lanes is not None:
            self._lanes.close()
            self._lanes = None
        self._governor.release(self._held)
        self._held = 0
