"""containerd's image service in one namespace: names that point at targets.

Source: containerd api/services/images/v1/images.proto, core/metadata/images.go.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from typing import Any

import grpc

from pyctrd.containerd import convert, wire
from pyctrd.containerd.calls import Call, ahead
from pyctrd.containerd.channel import WORK_SECONDS, Connection
from pyctrd.containerd.listing import bounded
from pyctrd.errors import DaemonError, NotFound
from pyctrd.oci.model import ImageRecord
from pyctrd.protos.services.images.v1 import images_pb2, images_pb2_grpc

_KIND = "image"
_GET = "/containerd.services.images.v1.Images/Get"
_AHEAD = 64
_LIST = "/containerd.services.images.v1.Images/List"
_DIGEST_ENDS = 'target.digest~="{}$"'
_DIGITS = "0123456789abcdef"
_MAX_DIGITS = 3  # 4,096 parts of 16 MiB are more than `bounded` allows


class ImageService:
    """Implements ports.ImageStore."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = images_pb2_grpc.ImagesStub(connection.channel)
        channel: Any = connection.channel
        self._get: Callable[..., Call] = channel.unary_future(
            _GET,
            request_serializer=images_pb2.GetImageRequest.SerializeToString,
            response_deserializer=images_pb2.GetImageResponse.FromString,
        )
        self._list = channel.unary_unary(
            _LIST,
            request_serializer=images_pb2.ListImagesRequest.SerializeToString,
            response_deserializer=wire.Raw,
        )

    def get(self, name: str) -> ImageRecord:
        """Return the record with exactly this name. Raises NotFound."""
        with self._connection.calling(_KIND, name):
            answer = self._start_get(name).result()
        return convert.to_image_record(answer.image)

    def get_several(self, names: Collection[str]) -> dict[str, ImageRecord]:
        """Return the records with these names that exist, many of them requested at a time."""
        found: dict[str, ImageRecord] = {}
        for name, call in ahead(self._start_get, names, _AHEAD):
            with suppress(NotFound), self._connection.calling(_KIND, name):
                found[name] = convert.to_image_record(call.result().image)
        return found

    def _start_get(self, name: str) -> Call:
        return self._get(images_pb2.GetImageRequest(name=name))

    def list(self, filters: Sequence[str] = ()) -> Sequence[ImageRecord]:
        """Return the records that match any of the filters (containerd filter syntax).

        containerd sends all of them in one message of at most 16 MiB, and any client may set long labels; a
        list that does not fit is requested in parts.
        """
        answers = bounded(self._in_parts(filters, ""), "images")
        return tuple(convert.to_image_record(image) for answer in answers for image in _images(answer))

    def _in_parts(self, filters: Sequence[str], ending: str) -> Iterator[wire.Raw]:
        """Request the records whose target's digest ends with `ending`, in parts if necessary."""
        chosen = [f"{one},{_DIGEST_ENDS.format(ending)}" for one in filters] or [_DIGEST_ENDS.format(ending)]
        try:
            with self._connection.calling(_KIND, "list"):
                request = images_pb2.ListImagesRequest(filters=chosen if ending else filters)
                answer = self._list(request)
        except DaemonError as error:
            if error.code != grpc.StatusCode.RESOURCE_EXHAUSTED.name or len(ending) == _MAX_DIGITS:
                raise
        else:
            yield answer
            return
        for digit in _DIGITS:
            yield from self._in_parts(filters, digit + ending)

    def create(self, image: ImageRecord) -> ImageRecord:
        """Create a record and return it as stored. Raises AlreadyExists."""
        request = images_pb2.CreateImageRequest(image=convert.from_image_record(image))
        with self._connection.calling(_KIND, image.name):
            answer = self._stub.Create(request)
        return convert.to_image_record(answer.image)

    def update(self, image: ImageRecord, *, fields: Sequence[str]) -> ImageRecord:
        """Update the named fields (`target`, `labels`, `labels.<key>`) of a record. Raises NotFound.

        Without fields, the server would replace all labels, including those of other tools; so this raises
        ValueError.
        """
        if not fields:
            raise ValueError("an update of an image must name the fields to change")
        request = images_pb2.UpdateImageRequest(image=convert.from_image_record(image))
        request.update_mask.paths.extend(fields)
        with self._connection.calling(_KIND, image.name):
            answer = self._stub.Update(request)
        return convert.to_image_record(answer.image)

    def delete(self, name: str, *, sync: bool = False) -> None:
        """Delete a record; `sync` waits for a run of the garbage collector. Raises NotFound."""
        with self._connection.calling(_KIND, name):
            self._stub.Delete(images_pb2.DeleteImageRequest(name=name, sync=sync), timeout=WORK_SECONDS)


def _images(answer: wire.Raw) -> Iterator[images_pb2.Image]:
    """Yield the images of a serialized ListImagesResponse, each parsed when it is needed.

    Parsed, the records of 10,000 images take several times as much memory as their bytes.
    """
    parts = wire.repeated(answer, 1)
    if parts is None:
        yield from images_pb2.ListImagesResponse.FromString(answer).images
    else:
        yield from (images_pb2.Image.FromString(bytes(part)) for part in parts)
