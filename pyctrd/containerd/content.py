"""containerd's content service in one namespace: blobs, their labels, and unfinished writes.

Source: containerd api/services/content/v1/content.proto, core/metadata/content.go,
plugins/services/content/contentserver/contentserver.go.
"""

from __future__ import annotations

import io
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final

from pyctrd.containerd import convert
from pyctrd.containerd.channel import Connection
from pyctrd.containerd.ingest import IngestWriter, Overtaken
from pyctrd.containerd.listing import bounded
from pyctrd.errors import REPAIR, REPAIR_HINT, ContentError, DigestMismatch, NotFound
from pyctrd.oci.model import ContentInfo, Digest, IngestStatus
from pyctrd.ports import Chunk
from pyctrd.protos.services.content.v1 import content_pb2, content_pb2_grpc

_KIND = "content"
_READ: Final = "/containerd.services.content.v1.Content/Read"
_TRIES: Final = 10


class ContentService:
    """Implements ports.ContentStore."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = content_pb2_grpc.ContentStub(connection.channel)
        channel: Any = connection.channel
        self._read = channel.unary_stream(
            _READ,
            request_serializer=content_pb2.ReadContentRequest.SerializeToString,
            response_deserializer=data_of,
        )

    @property
    def stall_seconds(self) -> float:
        """How long something may stand still before it is given up."""
        return self._connection.stall_seconds

    def info(self, digest: Digest) -> ContentInfo:
        """Give a blob's size and labels; raises NotFound."""
        with self._connection.calling(_KIND, digest):
            answer = self._stub.Info(content_pb2.InfoRequest(digest=digest))
        return convert.to_content_info(answer.info)

    def list(self, filters: Sequence[str] = ()) -> Generator[ContentInfo]:
        """List blobs that match any of the filters (containerd filter syntax), as the server sends them."""
        call = self._stub.List(content_pb2.ListContentRequest(filters=filters))
        try:
            with self._connection.calling(_KIND, "list"):
                for answer in bounded(call, _KIND):
                    yield from map(convert.to_content_info, answer.info)
        finally:
            call.cancel()

    @contextmanager
    def read(self, digest: Digest, *, offset: int = 0, size: int = 0) -> Iterator[Iterator[Chunk]]:
        """Open a blob's bytes from an offset; `size` 0 is to the end.

        The iterator gives chunks of at most 1 MiB and raises NotFound at its first step when the blob is
        absent, ContentError when only its file is; leaving the context cancels what was not read.
        """
        call = self._read(content_pb2.ReadContentRequest(digest=digest, offset=offset, size=size))
        try:
            yield self._chunks(call, digest)
        finally:
            call.cancel()

    def _chunks(self, answers: Iterable[Chunk], digest: Digest) -> Iterator[Chunk]:
        try:
            with self._connection.calling(_KIND, digest):
                yield from answers
        except NotFound as error:
            raise self._unreadable(digest, error) from error

    def read_all(self, digest: Digest, *, limit: int) -> bytes:
        """Read a small blob whole, and check it: the disk may have changed it since its commit.

        Raises NotFound when absent, ContentError above `limit` bytes and when its file is gone, and
        DigestMismatch for other bytes than the digest names.
        """
        buffer = io.BytesIO()  # unlike joined pieces, never twice in memory
        with self.read(digest, size=limit + 1) as chunks:
            for chunk in chunks:
                buffer.write(chunk)
                if (
                    buffer.tell() > limit
                ):  # also where somebody else's socket sends more than it was asked for
                    raise ContentError(f"content {digest} is larger than {limit} bytes")
        data = buffer.getvalue()
        actual = Digest.of(data, digest.algorithm)
        if actual != digest:
            raise DigestMismatch(
                f"unexpected digest {actual}: the content store's {digest} is corrupt",
                expected=digest,
                actual=actual,
                hint=REPAIR_HINT,
                remedy=REPAIR,
            )
        return data

    def _unreadable(self, digest: Digest, error: NotFound) -> NotFound | ContentError:
        """Tell content that is listed and has lost its file from content that is not there."""
        try:
            self.info(digest)
        except NotFound:
            return error
        return ContentError(
            f"the file of content {digest} is gone: {error.message}", hint=REPAIR_HINT, remedy=REPAIR
        )

    @contextmanager
    def open_ingest(
        self, ref: str, *, digest: Digest, size: int, expected: bool = True
    ) -> Iterator[IngestWriter]:
        """Open a write of a blob of known digest and size in bytes; leaving the context closes the stream.

        Without `expected` the store hears the digest at the commit only, and so opens the write although it
        has such a blob already.

        An ingest that was not committed stays, with every byte that was written, for a later resume. Raises
        AlreadyExists when the namespace has the blob (a lease in force has it then, too), IngestLocked while
        somebody else writes it, and NotFound (kind `lease`) when the lease of this view is gone.
        """
        writer = self._open(ref, digest, size, expected)
        try:
            yield writer
        except Exception:
            writer.close(keep=True)
            raise
        except BaseException:
            writer.close(keep=False)
            raise
        else:
            writer.close(keep=True)

    def _open(self, ref: str, digest: Digest, size: int, expected: bool) -> IngestWriter:
        start = partial(IngestWriter, self._connection, self._stub, ref, digest, size, expected=expected)
        for _ in range(_TRIES):
            with suppress(Overtaken):  # the next time it is there from the beginning, and leased for that
                return start()
        return start()

    def set_labels(self, digest: Digest, labels: Mapping[str, str]) -> None:
        """Set labels, leaving all others alone; an empty value removes one. Raises NotFound."""
        if not labels:
            return
        request = content_pb2.UpdateRequest(info=content_pb2.Info(digest=digest, labels=labels))
        request.update_mask.paths.extend(f"labels.{key}" for key in labels)
        with self._connection.calling(_KIND, digest):
            self._stub.Update(request)

    def delete(self, digest: Digest) -> None:
        """Delete a blob from the namespace; raises NotFound."""
        with self._connection.calling(_KIND, digest):
            self._stub.Delete(content_pb2.DeleteContentRequest(digest=digest))

    def ingests(self) -> Sequence[IngestStatus]:
        """List the unfinished writes of the namespace."""
        with self._connection.calling("ingest", "list"):
            answer = self._stub.ListStatuses(content_pb2.ListStatusesRequest())
        return tuple(map(convert.to_ingest_status, answer.statuses))

    def ingest_status(self, ref: str) -> IngestStatus:
        """Give one unfinished write; raises NotFound."""
        with self._connection.calling("ingest", ref):
            answer = self._stub.Status(content_pb2.StatusRequest(ref=ref))
        return convert.to_ingest_status(answer.status)

    def abort(self, ref: str) -> None:
        """Throw an unfinished write away; absent is fine."""
        try:
            with self._connection.calling("ingest", ref):
                self._stub.Abort(content_pb2.AbortRequest(ref=ref))
        except NotFound:
            return


def data_of(message: bytes) -> Chunk:
    """Give the data of a serialized ReadContentResponse where it stands: it is nearly all of the message.

    protobuf would copy it twice, which costs a save a twentieth of its time. Anything but the one form that
    is sent, the offset and then the data, is left to it.
    """
    position = _after_varint(message, 1) if message[:1] == b"\x08" else 0  # field 1, offset
    if message[position : position + 1] == b"\x12":  # field 2, data: its length, then the bytes to the end
        start = _after_varint(message, position + 1)
        length = _varint(message[position + 1 : start])
        if start + length == len(message):
            return memoryview(message)[start:]
    return content_pb2.ReadContentResponse.FromString(message).data


def _after_varint(message: bytes, position: int) -> int:
    while position < len(message) and message[position] >= 0x80:
        position += 1
    return position + 1


def _varint(encoded: bytes) -> int:
    return sum((byte & 0x7F) << (7 * number) for number, byte in enumerate(encoded))
