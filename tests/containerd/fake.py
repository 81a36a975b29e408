"""An in-process server with containerd's API, for faults that a real daemon does not have on demand.

Without a script its content service behaves like containerd's contentserver.go; integration/test_daemon.py
expects the same of real daemons.
"""
# ruff: noqa: N802  # gRPC looks a service's methods up by their names in the protos

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import empty_pb2

from pyctrd.protos.services.content.v1 import content_pb2, content_pb2_grpc
from pyctrd.protos.services.events.v1 import events_pb2, events_pb2_grpc
from pyctrd.protos.services.images.v1 import images_pb2, images_pb2_grpc
from pyctrd.protos.services.introspection.v1 import introspection_pb2, introspection_pb2_grpc
from pyctrd.protos.services.leases.v1 import leases_pb2, leases_pb2_grpc
from pyctrd.protos.services.namespaces.v1 import namespace_pb2, namespace_pb2_grpc
from pyctrd.protos.services.snapshots.v1 import snapshots_pb2, snapshots_pb2_grpc
from pyctrd.protos.services.version.v1 import version_pb2, version_pb2_grpc
from pyctrd.protos.types import event_pb2
from tests.support.filters import image_is_chosen

Fault = Callable[[Any, grpc.ServicerContext], None]


def fault(code: grpc.StatusCode, text: str) -> Fault:
    """Return a script that ends a call with a gRPC error."""

    def end(_request: Any, context: grpc.ServicerContext) -> None:
        context.abort(code, text)

    return end


class FakeDaemon:
    """What the services share: scripts by method name, and the recorded calls."""

    def __init__(self) -> None:
        self.faults: dict[str, Fault] = {}
        self.calls: list[tuple[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.deadlines: dict[str, float | None] = {}
        self.blobs: dict[str, bytes] = {}
        self.pieces: dict[str, list[bytes]] = {}
        self.ingests: dict[str, bytearray] = {}
        self.leases: dict[str, dict[str, str]] = {}
        self.namespace_labels: dict[str, str] = {}
        self.images: list[images_pb2.Image] = []
        self.events: list[event_pb2.Envelope] = []
        self.waits_for_events = True
        self.message_bytes = 16 << 20
        self.endless: dict[str, Callable[[], Any]] = {}
        self.write_ended = threading.Event()
        self.read_cancelled = threading.Event()

    def seen(self, method: str, request: Any, context: grpc.ServicerContext) -> None:
        """Record a call, then run the method's script."""
        self.calls.append((method, request))
        self.headers.append({str(key): str(value) for key, value in context.invocation_metadata()})
        self.deadlines[method] = context.time_remaining()
        if script := self.faults.get(method):
            script(request, context)

    def without_end(self, method: str, context: grpc.ServicerContext) -> Iterator[Any]:
        """Yield the answers of a method's script without end; nothing if it has no script."""
        while method in self.endless and context.is_active():
            yield self.endless[method]()

    def requests(self, method: str) -> list[Any]:
        """Return the requests of one method."""
        return [request for name, request in self.calls if name == method]


class FakeContent(content_pb2_grpc.ContentServicer):
    def __init__(self, daemon: FakeDaemon) -> None:
        self.daemon = daemon

    def Info(
        self, request: content_pb2.InfoRequest, context: grpc.ServicerContext
    ) -> content_pb2.InfoResponse:
        self.daemon.seen("Info", request, context)
        size = len(self.daemon.blobs[request.digest])
        return content_pb2.InfoResponse(info=content_pb2.Info(digest=request.digest, size=size))

    def Update(
        self, request: content_pb2.UpdateRequest, context: grpc.ServicerContext
    ) -> content_pb2.UpdateResponse:
        self.daemon.seen("Update", request, context)
        return content_pb2.UpdateResponse(info=request.info)

    def List(
        self, request: content_pb2.ListContentRequest, context: grpc.ServicerContext
    ) -> Iterator[content_pb2.ListContentResponse]:
        yield from self.daemon.without_end("List", context)
        for digest, data in self.daemon.blobs.items():
            info = content_pb2.Info(digest=digest, size=len(data))
            yield content_pb2.ListContentResponse(info=[info])
        self.daemon.seen("List", request, context)

    def Read(
        self, request: content_pb2.ReadContentRequest, context: grpc.ServicerContext
    ) -> Iterator[content_pb2.ReadContentResponse]:
        context.add_callback(self.daemon.read_cancelled.set)
        yield from self.daemon.without_end("Read", context)
        if pieces := self.daemon.pieces.get(request.digest):
            yield from (content_pb2.ReadContentResponse(data=piece) for piece in pieces)
            return
        if request.digest not in self.daemon.blobs:
            context.abort(grpc.StatusCode.NOT_FOUND, f"content digest {request.digest}: not found")
        data = self.daemon.blobs[request.digest][request.offset :]
        data = data[: request.size] if request.size > 0 else data
        for start in range(0, len(data), 1 << 20):
            yield content_pb2.ReadContentResponse(offset=start, data=data[start : start + (1 << 20)])
        self.daemon.seen("Read", request, context)

    def Abort(self, request: content_pb2.AbortRequest, context: grpc.ServicerContext) -> empty_pb2.Empty:
        self.daemon.seen("Abort", request, context)
        return empty_pb2.Empty()

    def Write(
        self, request_iterator: Iterator[content_pb2.WriteContentRequest], context: grpc.ServicerContext
    ) -> Iterator[content_pb2.WriteContentResponse]:
        ingest = bytearray()
        total = 0
        try:
            for request in request_iterator:
                action = content_pb2.WriteAction.Name(request.action)
                self.daemon.seen(action, request, context)
                if action == "STAT":
                    ingest, total = self.daemon.ingests.setdefault(request.ref, bytearray()), request.total
                else:
                    _at_offset(ingest, request, context)
                    ingest += request.data
                answer = content_pb2.WriteContentResponse(
                    action=request.action, offset=len(ingest), total=total
                )
                yield answer
                if action == "COMMIT":
                    self.daemon.blobs[request.expected] = bytes(ingest)
                    yield answer  # as containerd does
                    return
        finally:
            self.daemon.write_ended.set()


def _at_offset(
    ingest: bytearray, request: content_pb2.WriteContentRequest, context: grpc.ServicerContext
) -> None:
    if request.offset == 0:
        ingest.clear()
    elif request.offset != len(ingest):
        context.abort(grpc.StatusCode.OUT_OF_RANGE, f"write @{request.offset} must occur at {len(ingest)}")


class FakeImages(images_pb2_grpc.ImagesServicer):
    def __init__(self, daemon: FakeDaemon) -> None:
        self.daemon = daemon

    def List(
        self, request: images_pb2.ListImagesRequest, context: grpc.ServicerContext
    ) -> images_pb2.ListImagesResponse:
        self.daemon.seen("Images.List", request, context)
        answer = images_pb2.ListImagesResponse(
            images=[image for image in self.daemon.images if image_is_chosen(request.filters, image)]
        )
        if answer.ByteSize() > self.daemon.message_bytes:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "trying to send message larger than max")
        return answer

    def Update(
        self, request: images_pb2.UpdateImageRequest, context: grpc.ServicerContext
    ) -> images_pb2.UpdateImageResponse:
        self.daemon.seen("Images.Update", request, context)
        return images_pb2.UpdateImageResponse(image=request.image)


class FakeLeases(leases_pb2_grpc.LeasesServicer):
    def __init__(self, daemon: FakeDaemon) -> None:
        self.daemon = daemon

    def Create(
        self, request: leases_pb2.CreateRequest, context: grpc.ServicerContext
    ) -> leases_pb2.CreateResponse:
        self.daemon.seen("Leases.Create", request, context)
        self.daemon.leases[request.id] = dict(request.labels)
        return leases_pb2.CreateResponse(lease=leases_pb2.Lease(id=request.id, labels=request.labels))

    def Delete(self, request: leases_pb2.DeleteRequest, context: grpc.ServicerContext) -> empty_pb2.Empty:
        self.daemon.seen("Leases.Delete", request, context)
        self.daemon.leases.pop(request.id, None)
        return empty_pb2.Empty()


class FakeNamespaces(namespace_pb2_grpc.NamespacesServicer):
    def __init__(self, daemon: FakeDaemon) -> None:
        self.daemon = daemon

    def Get(
        self, request: namespace_pb2.GetNamespaceRequest, context: grpc.ServicerContext
    ) -> namespace_pb2.GetNamespaceResponse:
        self.daemon.seen("Namespaces.Get", request, context)
        namespace = namespace_pb2.Namespace(name=request.name, labels=self.daemon.namespace_labels)
        return namespace_pb2.GetNamespaceResponse(namespace=namespace)


class FakeSnapshots(snapshots_pb2_grpc.SnapshotsServicer):
    def __init__(self, daemon: FakeDaemon) -> None:
        self.daemon = daemon

    def Stat(
        self, request: snapshots_pb2.StatSnapshotRequest, context: grpc.ServicerContext
    ) -> snapshots_pb2.StatSnapshotResponse:
        self.daemon.seen("Snapshots.Stat", request, context)
        return snapshots_pb2.StatSnapshotResponse(
            info=snapshots_pb2.Info(name=request.key, kind=snapshots_pb2.COMMITTED)
        )

    def List(
        self, _request: snapshots_pb2.ListSnapshotsRequest, context: grpc.ServicerContext
    ) -> Iterator[snapshots_pb2.ListSnapshotsResponse]:
        yield from self.daemon.without_end("Snapshots.List", context)


class FakeIntrospection(introspection_pb2_grpc.IntrospectionServicer):
    def __init__(self, daemon: FakeDaemon) -> None:
        self.daemon = daemon

    def Plugins(
        self, request: introspection_pb2.PluginsRequest, context: grpc.ServicerContext
    ) -> introspection_pb2.PluginsResponse:
        self.daemon.seen("Plugins", request, context)
        broken = introspection_pb2.Plugin(type="io.containerd.snapshotter.v1", id="zfs")
        broken.init_err.message = "no zfs here: skip plugin"
        working = introspection_pb2.Plugin(type="io.containerd.snapshotter.v1", id="overlayfs")
        return introspection_pb2.PluginsResponse(plugins=[broken, working])


class FakeEvents(events_pb2_grpc.EventsServicer):
    def __init__(self, daemon: FakeDaemon) -> None:
        self.daemon = daemon

    def Subscribe(
        self, request: events_pb2.SubscribeRequest, context: grpc.ServicerContext
    ) -> Iterator[event_pb2.Envelope]:
        yield from self.daemon.events
        self.daemon.seen("Subscribe", request, context)
        while self.daemon.waits_for_events and context.is_active():
            time.sleep(0.02)


class FakeVersion(version_pb2_grpc.VersionServicer):
    def __init__(self, daemon: FakeDaemon) -> None:
        self.daemon = daemon

    def Version(self, request: empty_pb2.Empty, context: grpc.ServicerContext) -> version_pb2.VersionResponse:
        self.daemon.seen("Version", request, context)
        return version_pb2.VersionResponse(version="0.0.0-fake", revision="none")


def _new(servicer: Any, daemon: FakeDaemon) -> Any:
    """Create a servicer; its class leaves out methods that no test calls."""
    return servicer(daemon)


def new_server(path: Path) -> grpc.Server:
    """Create a gRPC server on a unix socket; the caller adds services, starts and stops it."""
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=8))
    server.add_insecure_port(f"unix:{path}")
    return server


def serve(path: Path, daemon: FakeDaemon) -> grpc.Server:
    """Start a server with all services of the fake daemon."""
    server = new_server(path)
    content_pb2_grpc.add_ContentServicer_to_server(_new(FakeContent, daemon), server)
    images_pb2_grpc.add_ImagesServicer_to_server(_new(FakeImages, daemon), server)
    leases_pb2_grpc.add_LeasesServicer_to_server(_new(FakeLeases, daemon), server)
    namespace_pb2_grpc.add_NamespacesServicer_to_server(_new(FakeNamespaces, daemon), server)
    snapshots_pb2_grpc.add_SnapshotsServicer_to_server(_new(FakeSnapshots, daemon), server)
    introspection_pb2_grpc.add_IntrospectionServicer_to_server(_new(FakeIntrospection, daemon), server)
    version_pb2_grpc.add_VersionServicer_to_server(_new(FakeVersion, daemon), server)
    events_pb2_grpc.add_EventsServicer_to_server(_new(FakeEvents, daemon), server)
    server.start()
    return server


def stop(server: grpc.Server) -> None:
    """Stop a server while clients are connected, and let them notice.

    gRPC 1.85 may lose a call that begins while this server shuts down: it never ends. Real daemons,
    killed or stopped a few hundred times in the middle of calls, have not made it happen.
    """
    server.stop(grace=None).wait()
    time.sleep(0.1)
