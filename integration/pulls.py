"""Helpers for tests of pull: pull with pyctrd or with ctr, and compare what is left."""

from __future__ import annotations

from integration.rig.daemons import Containerd
from integration.rig.store import State, collect_garbage, snapshot_of
from integration.scenarios import Mode, Oracle
from pyctrd.containerd import Daemon
from pyctrd.oci.model import Digest
from pyctrd.oci.reference import parse
from pyctrd.operations.pull import PullOptions, PullResult
from pyctrd.operations.pull import pull as run_pull
from pyctrd.progress import ProgressSink, no_progress
from pyctrd.registry import RegistryClient, RegistryOptions
from tests.support.images import Graph


def pull(
    daemon: Containerd,
    namespace: str,
    reference: str,
    options: PullOptions | None = None,
    *,
    progress: ProgressSink = no_progress,
) -> PullResult:
    with (
        Daemon.connect(str(daemon.address), namespace) as store,
        RegistryClient(RegistryOptions()) as registries,
    ):
        remote = registries.remote(parse(reference))
        return run_pull(store, remote, reference, options or PullOptions(), progress=progress)


def ctr_pull(
    daemon: Containerd, oracle: Oracle, namespace: str, reference: str, *flags: str, mode: Mode = "all"
) -> int:
    """Pull with ctr; return its exit code."""
    command = ("images", "pull", *oracle.pull_flags(mode), *flags, reference)
    return daemon.ctr(*command, namespace=namespace, check=False).returncode


def state(daemon: Containerd, namespace: str) -> State:
    """What a client left, after garbage collection."""
    collect_garbage(daemon, namespace)
    return snapshot_of(daemon, namespace)


def tree(found: State) -> dict[str, dict[str, tuple[str, str]]]:
    """The snapshots by snapshotter, with parent and kind; the unpacker of 2.x adds labels for its own use."""
    return {
        snapshotter: {key: (one["parent"], one["kind"]) for key, one in keys.items()}
        for snapshotter, keys in found["snapshots"].items()
    }


def assert_equal(ours: State, theirs: State) -> None:
    assert ours["content"] == theirs["content"]
    assert ours["images"] == theirs["images"]
    assert tree(ours) == tree(theirs)
    assert not ours["leases"]
    assert not ours["ingests"]


def assert_nothing_left(found: State) -> None:
    """A failed pull leaves neither record nor content, lease, snapshot or ingest."""
    assert not found["images"]
    assert not found["content"]
    assert not found["leases"]
    assert not found["ingests"]
    assert not found["snapshots"]


def layer_of(graph: Graph, position: int = 0) -> str:
    return str(graph.document()["layers"][position]["digest"])


def leave_ingest(daemon: Containerd, namespace: str, graph: Graph, digest: str, data: bytes) -> None:
    """Start an ingest under the name that every client uses for this layer, and leave it unfinished."""
    with (
        Daemon.connect(str(daemon.address), namespace) as store,
        store.content.open_ingest(
            f"layer-{digest}", digest=Digest(digest), size=len(graph.blobs[digest])
        ) as ingest,
    ):
        ingest.write(data)
