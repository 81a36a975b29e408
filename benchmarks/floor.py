"""The calls that a command cannot do without, and nothing else: a client in Python can hardly be faster.

    python -m benchmarks.floor VERB ADDRESS NAMESPACE [HOST REPOSITORY]

`list` prints images, after reading their documents. `read` reads all blobs, in small calls: what a save of
many images does, without an archive. `fetch` stores the image `latest` of a repository; `pull` unpacks it,
too, and needs containerd 2.2. Both know neither logins nor errors, set no labels, check nothing and record no
image. All of them use the settings of the command line.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias

from pyctrd.cli import process

MESSAGE_BYTES = 1 << 20
_AT_ONCE = 64
_LARGE_BYTES = 4 << 20
_WRITE = "/containerd.services.content.v1.Content/Write"
_ACCEPT = "application/vnd.oci.image.manifest.v1+json"
Blob: TypeAlias = dict[str, Any]


class _Calls:
    """Calls of containerd's services."""

    def __init__(self, channel: Any, namespace: str) -> None:
        from pyctrd.protos.services.content.v1 import content_pb2

        self._channel = channel
        self._metadata: tuple[tuple[str, str], ...] = (("containerd-namespace", namespace),)
        self.content = content_pb2

    def hold(self, lease: str) -> None:
        """Protect what is stored from now on, until `drop`."""
        from pyctrd.protos.services.leases.v1 import leases_pb2

        self.unary("leases", "Create", leases_pb2.CreateRequest(id=lease), leases_pb2.CreateResponse)
        self._metadata = (*self._metadata, ("containerd-lease", lease))

    def drop(self, lease: str) -> None:
        """Remove the lease."""
        from google.protobuf import empty_pb2

        from pyctrd.protos.services.leases.v1 import leases_pb2

        self.unary("leases", "Delete", leases_pb2.DeleteRequest(id=lease), empty_pb2.Empty)

    def unary(self, service: str, method: str, request: Any, answer: Any) -> Any:
        path = f"/containerd.services.{service}.v1.{service.capitalize()}/{method}"
        call = self._channel.unary_unary(path, type(request).SerializeToString, answer.FromString)
        return call(request, metadata=self._metadata)

    def infos(self) -> Iterator[Any]:
        pb = self.content
        listing = self._channel.unary_stream(
            "/containerd.services.content.v1.Content/List",
            pb.ListContentRequest.SerializeToString,
            pb.ListContentResponse.FromString,
        )
        for answer in listing(pb.ListContentRequest(), metadata=self._metadata):
            yield from answer.info

    def read(self, digests: Iterable[str]) -> Iterator[bytes]:
        """Read small blobs, each in one call with one answer, many ahead."""
        pb = self.content
        reading = self._channel.unary_unary(
            "/containerd.services.content.v1.Content/Read",
            pb.ReadContentRequest.SerializeToString,
            pb.ReadContentResponse.FromString,
        )
        waiting = deque[Any]()
        for digest in digests:
            waiting.append(reading.future(pb.ReadContentRequest(digest=digest), metadata=self._metadata))
            if len(waiting) == _AT_ONCE:
                yield waiting.popleft().result().data
        for call in waiting:
            yield call.result().data

    def write(self, requests: Iterable[bytes]) -> None:
        writing = self._channel.stream_stream(_WRITE, None, self.content.WriteContentResponse.FromString)
        for _ in writing(iter(requests), metadata=self._metadata):
            pass

    def write_at_once(self, request: bytes) -> None:
        writing = self._channel.unary_stream(_WRITE, None, self.content.WriteContentResponse.FromString)
        for _ in writing(request, metadata=self._metadata):
            pass


# --- list and read ------------------------------------------------------------------------------------------


def _list(calls: _Calls) -> None:
    from pyctrd.protos.services.images.v1 import images_pb2

    images = calls.unary(
        "images", "List", images_pb2.ListImagesRequest(), images_pb2.ListImagesResponse
    ).images
    manifests = map(json.loads, calls.read(image.target.digest for image in images))
    configs = calls.read([manifest["config"]["digest"] for manifest in manifests])
    for image, config in zip(images, map(json.loads, configs), strict=True):
        print(image.name, config["os"], config["architecture"])


def _read(calls: _Calls) -> None:
    for _ in calls.read(info.digest for info in calls.infos()):
        pass


# --- fetch and pull -----------------------------------------------------------------------------------------


class _Registry:
    """A repository, over a connection for each thread."""

    def __init__(self, host: str, repository: str) -> None:
        self._host = host
        self._repository = repository
        self._local = threading.local()

    def get(self, what: str) -> http.client.HTTPResponse:
        if not hasattr(self._local, "connection"):
            self._local.connection = http.client.HTTPConnection(self._host)
        self._local.connection.request("GET", f"/v2/{self._repository}/{what}", headers={"Accept": _ACCEPT})
        answer: http.client.HTTPResponse = self._local.connection.getresponse()
        return answer


def _fetch(calls: _Calls, host: str, repository: str, *, unpack: bool = False) -> None:
    registry = _Registry(host, repository)
    raw = registry.get("manifests/latest").read()
    manifest = json.loads(raw)
    layers: list[Blob] = manifest["layers"]
    small = max(layer["size"] for layer in layers) < _LARGE_BYTES
    calls.hold("floor")

    def fetch(blob: Blob) -> None:
        answer = registry.get(f"blobs/{blob['digest']}")
        if blob["size"] <= MESSAGE_BYTES:
            calls.write_at_once(_commit(calls, blob, 0, answer.read()))
        else:
            calls.write(_messages(calls, blob, answer))

    with ThreadPoolExecutor(16 if small else 3) as pool:
        config = pool.submit(fetch, manifest["config"])
        stored = [pool.submit(fetch, layer) for layer in layers]
        if unpack:
            config.result()
            (content,) = calls.read([manifest["config"]["digest"]])
            _unpack(calls, layers, stored, json.loads(content)["rootfs"]["diff_ids"])
        for one in stored:
            one.result()
    calls.drop("floor")


def _commit(calls: _Calls, blob: Blob, offset: int, data: bytes = b"") -> bytes:
    pb = calls.content
    request = pb.WriteContentRequest(
        action=pb.COMMIT, ref=f"floor-{blob['digest']}", total=blob["size"], expected=blob["digest"]
    )
    request.offset, request.data = offset, data
    found: bytes = request.SerializeToString()
    return found


def _messages(calls: _Calls, blob: Blob, answer: http.client.HTTPResponse) -> Iterator[bytes]:
    pb = calls.content
    ref, size, sent = f"floor-{blob['digest']}", blob["size"], 0
    while data := answer.read(MESSAGE_BYTES):
        head = pb.WriteContentRequest(action=pb.WRITE, ref=ref, total=size, offset=sent).SerializeToString()
        yield b"".join((head, b"\x32", _varint(len(data)), data))
        sent += len(data)
    yield _commit(calls, blob, sent)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def _unpack(calls: _Calls, layers: list[Blob], stored: list[Future[None]], diff_ids: list[str]) -> None:
    """Extract each layer when it is stored, two at once, and commit the snapshots in order."""
    from pyctrd.protos.services.diff.v1 import diff_pb2
    from pyctrd.protos.services.snapshots.v1 import snapshots_pb2
    from pyctrd.protos.types import descriptor_pb2

    def extract(number: int) -> None:
        stored[number].result()
        request = snapshots_pb2.PrepareSnapshotRequest(snapshotter="overlayfs", key=f"floor-{number}")
        mounts = calls.unary("snapshots", "Prepare", request, snapshots_pb2.PrepareSnapshotResponse).mounts
        blob = layers[number]
        descriptor = descriptor_pb2.Descriptor(
            media_type=blob["mediaType"], digest=blob["digest"], size=blob["size"]
        )
        applying = diff_pb2.ApplyRequest(diff=descriptor, mounts=mounts)
        applied = calls.unary("diff", "Apply", applying, diff_pb2.ApplyResponse).applied
        assert applied.digest == diff_ids[number]

    from google.protobuf import empty_pb2

    with ThreadPoolExecutor(2) as pool:
        parent = ""
        for number, done in enumerate([pool.submit(extract, number) for number in range(len(layers))]):
            done.result()
            name = f"floor-layer-{number}"
            request = snapshots_pb2.CommitSnapshotRequest(
                snapshotter="overlayfs", name=name, key=f"floor-{number}", parent=parent
            )
            calls.unary("snapshots", "Commit", request, empty_pb2.Empty)
            parent = name


VERBS: dict[str, Callable[..., None]] = {
    "list": _list,
    "read": _read,
    "fetch": _fetch,
    "pull": lambda *where: _fetch(*where, unpack=True),
}


def main(verb: str, address: str, namespace: str, *where: str) -> None:
    """Make the calls of a verb."""
    process.tune()
    with process.importing_grpc():
        import grpc

        channel = grpc.insecure_channel(
            f"unix:{address}", options=[("grpc.max_receive_message_length", 16 << 20)]
        )
        VERBS[verb](_Calls(channel, namespace), *where)
    sys.stdout.flush()
    os._exit(0)  # as the command line does, which need not wait for threads


if __name__ == "__main__":
    main(*sys.argv[1:])
