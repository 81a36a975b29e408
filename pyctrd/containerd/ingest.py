"""Write one blob with the Write stream of containerd's content service.

The protocol: STAT opens an ingest and returns the offset that the store has, WRITE appends at the current
offset, COMMIT may append, too, and turns the ingest into content. A message with offset 0 truncates an ingest
that has data, so every message carries the current offset. The server answers each message once, and COMMIT
twice.
Source: containerd plugins/services/content/contentserver/contentserver.go (Write), core/metadata/content.go.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator, Mapping
from typing import Any, Final

import grpc

from pyctrd.containerd.channel import Connection, Subject, status_of
from pyctrd.errors import AlreadyExists, DaemonError, IngestLocked, NotFound, PyctrdError
from pyctrd.oci.model import Digest
from pyctrd.ports import Chunk
from pyctrd.protos.services.content.v1 import content_pb2

MESSAGE_BYTES: Final = 1024 * 1024
# How many messages may be unanswered: the client prepares the next ones while the daemon writes to disk.
WINDOW: Final = 3
# gRPC uses the same code for a lost connection: only the message distinguishes a lock from a dead daemon
# (containerd plugins/content/local/locks.go).
_LOCKED: Final = " locked"
# The message of the content service itself; the metadata store, which knows the leases, was not asked.
_OVERTAKEN: Final = "blob with expected digest"
_WRITE: Final = "/containerd.services.content.v1.Content/Write"
# The tag of WriteContentRequest.data: field 6, with a length before its bytes.
_DATA_TAG: Final = b"\x32"

_Request = content_pb2.WriteContentRequest


def _write_method(channel: Any) -> Any:
    """Return the method Write of a channel, for serialized requests."""
    return channel.stream_stream(
        _WRITE, request_serializer=None, response_deserializer=content_pb2.WriteContentResponse.FromString
    )


def _with_data(request: _Request, data: Chunk | bytearray) -> bytes:
    """Return a serialized request with data as its last field.

    The data is copied once; protobuf would copy it three times, which takes a fifth of the time of a write.
    """
    head = request.SerializeToString()
    return b"".join((head, _DATA_TAG, _to_varint(len(data)), data))


def _to_varint(number: int) -> bytes:
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


class _Requests:
    """The serialized messages of the stream, for gRPC's sending thread.

    Never raises: gRPC would only log the error, and the server would see the end of the stream.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def put(self, message: bytes) -> None:
        self._queue.put(message)

    def end(self) -> None:
        self._queue.put(None)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._queue.get, None)


class Overtaken(AlreadyExists):
    """Another client committed the blob while it was being opened, so it was not added to the lease."""


class IngestWriter:
    """An open write of a blob. Implements ports.Ingest."""

    def __init__(
        self,
        connection: Connection,
        ref: str,
        digest: Digest | None,
        size: int,
        *,
        expected: bool = True,
    ) -> None:
        self._connection = connection
        self._ref, self._digest, self._size = ref, digest, size
        self._buffer = bytearray()
        self._unanswered = 0
        self._finished = False
        self._requests = _Requests()
        known = digest if expected and digest else ""
        stat = _Request(action=content_pb2.STAT, ref=ref, total=size, expected=known)
        self._requests.put(stat.SerializeToString())
        self._call = _write_method(connection.channel)(iter(self._requests), subject=digest or ref)
        try:
            self._sent: int = next(self._call).offset
        except grpc.RpcError as error:
            self._shut()
            raise self._translate_open(error) from error
        except BaseException:
            self._shut()
            raise

    @property
    def offset(self) -> int:
        """How many bytes were written, including those not sent yet; writing continues there."""
        return self._sent + len(self._buffer)

    def write(self, data: Chunk) -> None:
        """Append bytes at the offset; small chunks are collected into messages of 1 MiB.

        An error of the store may be raised by a later `write`, or by `commit`. Raises AlreadyExists if
        another client has committed the blob in the meantime, DaemonError.
        """
        if not self._buffer and len(data) == MESSAGE_BYTES:
            self._send(data)  # the common case, without a copy
            return
        self._buffer += data
        while len(self._buffer) >= MESSAGE_BYTES:
            self._send_buffered(MESSAGE_BYTES)

    def commit(self, digest: Digest | None = None, labels: Mapping[str, str] | None = None) -> None:
        """Turn the ingest into content; `digest` is needed if it was unknown when the write was opened.

        Raises AlreadyExists if another client has committed the blob in the meantime: the blob is added to
        the current lease only when it is opened again. Raises FailedPrecondition if the size or the digest is
        not the expected one. Then the ingest stays, and has to be aborted, or the next client would try to
        commit the same bytes.
        """
        self._digest = digest or self._digest
        if not self._digest:
            raise ValueError("a write without a digest can only be committed with one")
        request = _Request(
            action=content_pb2.COMMIT,
            offset=self._sent,
            total=self._size,
            expected=self._digest,
            labels=labels,
        )
        self._sent += len(self._buffer)
        rest, self._buffer = self._buffer, bytearray()
        self._exchange(_with_data(request, rest) if rest else request.SerializeToString())
        self._drain()
        self._end()

    def close(self, *, keep: bool) -> None:
        """End the stream; with `keep`, flush what was written first, so that it can be resumed later.

        Never raises: the write is either committed, or the caller already has the error that ended it.
        """
        if self._finished:
            return
        try:
            if keep:
                self._flush()
                self._end()
        except PyctrdError:
            return
        finally:
            self._shut()

    def _flush(self) -> None:
        if self._buffer:
            self._send_buffered(len(self._buffer))
        self._drain()

    def _send_buffered(self, count: int) -> None:
        with memoryview(self._buffer) as view, view[:count] as data:
            message = self._message(data)
        del self._buffer[:count]
        self._sent += count
        self._exchange(message)

    def _send(self, data: Chunk) -> None:
        message = self._message(data)
        self._sent += len(data)
        self._exchange(message)

    def _message(self, data: Chunk) -> bytes:
        return _with_data(_Request(action=content_pb2.WRITE, offset=self._sent), data)

    def _exchange(self, message: bytes) -> None:
        if self._finished:
            raise DaemonError(f"the write of {self._ref} is closed", kind="ingest", name=self._ref)
        self._requests.put(message)
        self._unanswered += 1
        self._drain(WINDOW - 1)

    def _drain(self, leave: int = 0) -> None:
        """Read responses until only `leave` are outstanding. Closes the stream and raises its error."""
        while self._unanswered > leave:
            try:
                next(self._call)
            except grpc.RpcError as error:
                self._shut()
                raise self._translate(error) from error
            except StopIteration as error:
                self._shut()
                message = f"containerd ended the write of {self._ref} without a response"
                raise DaemonError(message, kind="ingest", name=self._ref) from error
            except BaseException:
                self._shut()
                raise
            self._unanswered -= 1

    def _end(self) -> None:
        """Half-close the stream and read it to the end, so that the ingest is unlocked when this returns.

        What still arrives is the second response to a COMMIT, or the one to the half-close.
        """
        self._requests.end()
        try:
            for _ in self._call:
                pass
        except grpc.RpcError:
            pass  # everything that matters was answered before
        finally:
            self._shut()

    def _shut(self) -> None:
        self._finished = True
        self._requests.end()  # or gRPC's sending thread would wait forever
        self._call.cancel()

    def _translate(self, error: grpc.RpcError) -> PyctrdError:
        return self._connection.translate(error, Subject("content", self._digest or ""))

    def _translate_open(self, error: grpc.RpcError) -> PyctrdError:
        """Translate an error of STAT, for which some codes have a special meaning."""
        code, details = status_of(error)
        if code is grpc.StatusCode.UNAVAILABLE and _LOCKED in details:
            return IngestLocked(details, code=code.name, kind="ingest", name=self._ref)
        if code is grpc.StatusCode.ALREADY_EXISTS and _OVERTAKEN in details:
            return Overtaken(details, code=code.name, kind="content", name=self._digest or "")
        if code is grpc.StatusCode.NOT_FOUND and self._connection.lease:
            # Content need not exist to be written, so it is the lease that does not exist.
            lease = self._connection.lease
            message = details if lease in details else f"lease {lease}: {details}"
            return NotFound(message, kind="lease", name=lease)
        return self._translate(error)
