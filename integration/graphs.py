"""Records of a namespace made by direct calls of containerd's services, which check hardly any reference."""

from __future__ import annotations

import grpc

from pyctrd.containerd import Daemon
from pyctrd.oci.model import SnapshotInfo
from pyctrd.oci.resources import Container
from pyctrd.protos.services.containers.v1 import containers_pb2, containers_pb2_grpc
from pyctrd.protos.services.content.v1 import content_pb2, content_pb2_grpc
from pyctrd.steps.gc_state import GcState
from tests.support.references import content_of

# No collection before the first one that is asked for; afterwards, deletions cause others.
PATIENT = """
[plugins."io.containerd.gc.v1.scheduler"]
  pause_threshold = 0.5
  deletion_threshold = 1000000
  mutation_threshold = 1000000
  schedule_delay = "0s"
  startup_delay = "0s"
"""


class Builder:
    """Creates the records of a state in the namespace of the same name."""

    def __init__(self, daemon: Daemon, channel: grpc.Channel) -> None:
        self._daemon = daemon
        self._containers = containers_pb2_grpc.ContainersStub(channel)
        self._content = content_pb2_grpc.ContentStub(channel)

    def build(self, state: GcState) -> None:
        """Create all records."""
        daemon = self._daemon
        for number, info in enumerate(state.content.values()):
            data = content_of(state.namespace, number)
            with daemon.content.open_ingest(f"make-{number}", digest=info.digest, size=len(data)) as ingest:
                ingest.write(data)
                ingest.commit()
            daemon.content.set_labels(info.digest, info.labels)
        for (snapshotter, _), snapshot in state.snapshots.items():
            self._add_snapshot(snapshotter, snapshot)
        for image in state.images.values():
            daemon.images.create(image)
        for container in state.containers.values():
            self.add_container(container)
        holders = {item.id: name for name, (_, held) in state.leases.items() for item in held}
        for name, (lease, held) in state.leases.items():
            daemon.leases.create(name, lease.labels)
            for item in held:
                if item.type != "ingests":
                    daemon.leases.add(name, item)
        for ref in state.ingests:
            self.start_write(ref, holders.get(ref))

    def _add_snapshot(self, snapshotter: str, snapshot: SnapshotInfo) -> None:
        snapshots = self._daemon.snapshots
        if snapshot.kind == "active":
            snapshots.prepare(snapshotter, snapshot.name, snapshot.parent, snapshot.labels)
        else:
            snapshots.prepare(snapshotter, f"make-{snapshot.name}", snapshot.parent)
            snapshots.commit(snapshotter, snapshot.name, f"make-{snapshot.name}", snapshot.labels)

    def add_container(self, container: Container) -> None:
        message = containers_pb2.Container(
            id=container.id,
            image=container.image,
            labels=container.labels,
            snapshotter=container.snapshotter,
            snapshot_key=container.snapshot_key,
            runtime=containers_pb2.Container.Runtime(name="io.containerd.runc.v2"),
        )
        message.spec.type_url, message.spec.value = "types.containerd.io/x", b"{}"
        request = containers_pb2.CreateContainerRequest(container=message)
        self._containers.Create(request, metadata=(("containerd-namespace", self._daemon.namespace),))

    def start_write(self, ref: str, lease: str | None) -> None:
        metadata = [("containerd-namespace", self._daemon.namespace)]
        if lease is not None:
            metadata.append(("containerd-lease", lease))
        request = content_pb2.WriteContentRequest(action=content_pb2.WRITE, ref=ref, total=100, data=b"half")
        next(self._content.Write(iter([request]), metadata=tuple(metadata)))
