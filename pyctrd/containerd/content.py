"""containerd's content service in one namespace: blobs, their labels, and unfinished writes.

Source: containerd api/services/content/v1/content.proto, core/metadata/content.go,
plugins/services/content/contentserver/contentserver.go.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import grpc

from pyctrd.containerd import convert, wire
from pyctrd.containerd.calls import Call, ahead
from pyctrd.containerd.channel import Connection, status_of
from pyctrd.containerd.listing import bounded
from pyctrd.errors import REPAIR, REPAIR_HINT, ContentError, DigestMismatch, NotFound
from pyctrd.oci.model import ContentInfo, Descriptor, Digest, IngestStatus
from pyctrd.ports import Chunk, SmallBlob
from pyctrd.protos.services.content.v1 import content_pb2, content_pb2_grpc

if TYPE_CHECKING:
    from pyctrd.containerd.ingest import IngestWriter

_KIND = "content"
_INFO: Final = "/containerd.services.content.v1.Content/Info"
_READ: Final = "/containerd.services.content.v1.Content/Read"
_WRITE: Final = "/containerd.services.content.v1.Content/Write"
_TRIES: Final = 10
# How many small calls are started before their results are needed.
_AHEAD: Final = 64
# The same for writes, which have up to half a MiB.
_WRITES_AHEAD: Final = 6
# So many blobs are looked up by listing, unless the namespace has many more.
_MANY: Final = 100
_LISTED_FOR_EACH: Final = 8
# Of `read_several`. containerd sends up to 1 MiB in one message.
_SMALL_BYTES: Final = 64 << 10
_SMALL_SECONDS: Final = 20.0


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
        self._info: Callable[..., Call] = channel.unary_future(
            _INFO,
            request_serializer=content_pb2.InfoRequest.SerializeToString,
            response_deserializer=content_pb2.InfoResponse.FromString,
        )
        self._sends_one_message = True
        self._read_first: Callable[..., Call] = channel.unary_future(
            _READ,
            request_serializer=content_pb2.ReadContentRequest.SerializeToString,
            response_deserializer=data_of,
        )
        self._write_once: Callable[..., Call] = channel.unary_stream(
            _WRITE,
            request_serializer=content_pb2.WriteContentRequest.SerializeToString,
            response_deserializer=content_pb2.WriteContentResponse.FromString,
        )

    @property
    def stall_seconds(self) -> float:
        """After how many seconds without progress an operation is aborted."""
        return self._connection.stall_seconds

    def info(self, digest: Digest) -> ContentInfo:
        """Return a blob's size and labels. Raises NotFound."""
        with self._connection.calling(_KIND, digest):
            answer = self._info(content_pb2.InfoRequest(digest=digest)).result()
        return convert.to_content_info(answer.info)

    def infos(self, digests: Collection[Digest]) -> dict[Digest, ContentInfo]:
        """Return the blobs of these that exist, in any order. Raises DaemonError.

        `updated_at` may be None, since a list of containerd 1.x does not have it.
        """
        rest = set(digests)
        found: dict[Digest, ContentInfo] = {}
        if len(rest) > _MANY:
            with closing(self._listed()) as messages:
                for number, message in enumerate(messages):
                    if number == _LISTED_FOR_EACH * len(digests):
                        break
                    if message.digest in rest:
                        info = convert.to_content_info(message)
                        found[info.digest] = info
                else:
                    return found
            rest -= found.keys()

        def start(digest: Digest) -> Call:
            return self._info(content_pb2.InfoRequest(digest=digest))

        for digest, call in ahead(start, rest, _AHEAD):
            with suppress(NotFound), self._connection.calling(_KIND, digest):
                found[digest] = convert.to_content_info(call.result().info)
        return found

    def list(self, filters: Sequence[str] = ()) -> Generator[ContentInfo]:
        """Yield the blobs that match any of the filters (containerd filter syntax), as they arrive."""
        with closing(self._listed(filters)) as messages:
            yield from map(convert.to_content_info, messages)

    def _listed(self, filters: Sequence[str] = ()) -> Generator[content_pb2.Info]:
        call = self._stub.List(content_pb2.ListContentRequest(filters=filters))
        try:
            with self._connection.calling(_KIND, "list"):
                for answer in bounded(call, _KIND):
                    yield from answer.info
        finally:
            call.cancel()

    @contextmanager
    def read(self, digest: Digest, *, offset: int = 0, size: int = 0) -> Iterator[Iterator[Chunk]]:
        """Open a blob at an offset; `size` 0 means to the end.

        The iterator yields chunks of at most 1 MiB. Its first step raises NotFound if the blob does not
        exist, and ContentError if only its file is missing. Leaving the context cancels the rest of the read.
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
        """Return a whole blob, checked against its digest: it may have been damaged on disk.

        Raises NotFound, ContentError if it is larger than `limit` bytes or its file is missing, and
        DigestMismatch.
        """
        buffer = io.BytesIO()  # unlike joined chunks, never twice in memory
        with self.read(digest, size=limit + 1) as chunks:
            for chunk in chunks:
                buffer.write(chunk)
                if buffer.tell() > limit:  # even if a foreign server sends more than was requested
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

    def read_several(self, blobs: Iterable[Descriptor]) -> Iterator[tuple[Digest, bytes]]:
        """Yield small blobs by digest, in order, many of them requested ahead.

        Leaves out what is large or cannot be read: `read` and `read_all` read it, or say why. A read of its
        own takes five times as much CPU time, of which most goes into a stream with several messages: the
        data of a small blob is one message, so that the call counts as one with a single response.
        """

        def start(blob: Descriptor) -> Call:
            request = content_pb2.ReadContentRequest(digest=blob.digest, size=_SMALL_BYTES)
            return self._read_first(request, _SMALL_SECONDS)

        small = (blob for blob in blobs if blob.size <= _SMALL_BYTES and self._sends_one_message)
        for blob, call in ahead(start, small, _AHEAD):
            yield from self._whole(blob.digest, call)

    def _whole(self, digest: Digest, call: Call) -> Iterator[tuple[Digest, bytes]]:
        """Yield a blob if the call brought all of it."""
        try:
            data = bytes(call.result() or b"")  # there is no message for an empty blob
        except grpc.RpcError as error:
            # gRPC waits for the end of a response with several messages, which no containerd sends here.
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                self._sends_one_message = False
        else:
            if Digest.of(data, digest.algorithm) == digest:
                yield digest, data

    def _unreadable(self, digest: Digest, error: NotFound) -> NotFound | ContentError:
        """Return the error for content that does not exist, or for content whose file is missing."""
        try:
            self.info(digest)
        except NotFound:
            return error
        return ContentError(
            f"the file of content {digest} is missing: {error.message}", hint=REPAIR_HINT, remedy=REPAIR
        )

    @contextmanager
    def open_ingest(
        self, ref: str, *, digest: Digest | None, size: int, expected: bool = True
    ) -> Iterator[IngestWriter]:
        """Open a write of a blob of known size in bytes; leaving the context closes the stream.

        With `expected` false, or no digest, the store learns the digest only at the commit, so it opens the
        write even if it already has the blob.

        An ingest that is not committed stays, with everything written so far, to be resumed later. Raises
        AlreadyExists if the namespace has the blob (which is then added to the current lease), IngestLocked
        while another client writes it, and NotFound (kind `lease`) if the current lease does not exist.
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

    def write_small(self, blobs: Iterable[SmallBlob]) -> Iterator[bool]:
        """Store small blobs with their labels, in order, with several requests ahead.

        Yields whether each was stored: if not, `open_ingest` gives the reason.
        """

        def start(blob: SmallBlob) -> Call:
            request = content_pb2.WriteContentRequest(
                action=content_pb2.COMMIT,
                ref=blob.ref,
                total=len(blob.data),
                expected=blob.digest,
                data=blob.data,
                labels=blob.labels,
            )
            return self._write_once(request)

        # The first message may be the last one: it opens the ingest, replaces what an earlier write has left
        # in it, and commits it. Without a stream of requests, gRPC needs no thread.
        for blob, call in ahead(start, blobs, _WRITES_AHEAD):
            try:
                for _ in call:
                    pass
            except grpc.RpcError as error:
                if status_of(error)[0] is grpc.StatusCode.FAILED_PRECONDITION:
                    self.abort(blob.ref)  # or the next client would try to commit the same bytes
                yield False
            else:
                yield True

    def _open(self, ref: str, digest: Digest | None, size: int, expected: bool) -> IngestWriter:
        from pyctrd.containerd.ingest import IngestWriter, Overtaken

        start = partial(IngestWriter, self._connection, ref, digest, size, expected=expected)
        for _ in range(_TRIES):
            with suppress(Overtaken):  # the next try finds the blob, and so adds it to the lease
                return start()
        return start()

    def set_labels(self, digest: Digest, labels: Mapping[str, str]) -> None:
        """Set labels without changing the others; an empty value removes a label. Raises NotFound."""
        if not labels:
            return
        request = content_pb2.UpdateRequest(info=content_pb2.Info(digest=digest, labels=labels))
        request.update_mask.paths.extend(f"labels.{key}" for key in labels)
        with self._connection.calling(_KIND, digest):
            self._stub.Update(request)

    def delete(self, digest: Digest) -> None:
        """Delete a blob from the namespace. Raises NotFound."""
        with self._connection.calling(_KIND, digest):
            self._stub.Delete(content_pb2.DeleteContentRequest(digest=digest))

    def ingests(self) -> Sequence[IngestStatus]:
        """Return the unfinished writes of the namespace."""
        with self._connection.calling("ingest", "list"):
            answer = self._stub.ListStatuses(content_pb2.ListStatusesRequest())
        return tuple(map(convert.to_ingest_status, answer.statuses))

    def ingest_status(self, ref: str) -> IngestStatus:
        """Return an unfinished write. Raises NotFound."""
        with self._connection.calling("ingest", ref):
            answer = self._stub.Status(content_pb2.StatusRequest(ref=ref))
        return convert.to_ingest_status(answer.status)

    def abort(self, ref: str) -> None:
        """Discard an unfinished write, if it exists."""
        try:
            with self._connection.calling("ingest", ref):
                self._stub.Abort(content_pb2.AbortRequest(ref=ref))
        except NotFound:
            return


def data_of(message: bytes) -> Chunk:
    """Return the data of a serialized ReadContentResponse without copying it.

    protobuf would copy it twice, which takes 5 % of the time of a save. Only the form that containerd sends
    (the offset, then the data) is handled here; protobuf parses anything else.
    """
    position = wire.after_varint(message, 1) if message[:1] == b"\x08" else 0  # field 1, offset
    if message[position : position + 1] == b"\x12":  # field 2, data: its length, then the bytes to the end
        start = wire.after_varint(message, position + 1)
        length = wire.varint(message[position + 1 : start])
        if start + length == len(message):
            return memoryview(message)[start:]
    return content_pb2.ReadContentResponse.FromString(message).data
