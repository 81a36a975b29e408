"""Faults during a pull: damaged, missing and interrupted downloads, and unfinished ones of other clients."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from integration.pulls import assert_nothing_left, layer_of, leave_ingest, pull, state
from integration.rig import publish
from integration.rig.daemons import Containerd, Fault, Registry
from integration.rig.store import digests, snapshot_of
from integration.scenarios import Oracle
from integration.shell import Shell
from pyctrd.containerd import Daemon
from pyctrd.errors import ContentError, PyctrdError, RegistryContentError, RegistryError
from pyctrd.oci.model import Digest
from pyctrd.operations.pull import PullOptions, PullResult
from tests.support import images, shapes
from tests.support.images import Graph

pytestmark = pytest.mark.usefixtures("registry")


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (lambda blob: Fault(blob, corrupt_at=40), RegistryContentError, "unexpected commit digest"),
        (lambda blob: Fault(blob, status=404), RegistryError, "could not fetch content descriptor"),
        (lambda blob: Fault(blob, cut_after=100, ignore_range=True), RegistryError, "short read"),
    ],
    ids=["corrupt", "missing", "cut-without-range"],
)
def test_a_fault_of_a_layer_leaves_nothing(
    fault: Callable[[str], Fault],
    error: type[PyctrdError],
    words: str,
    oracle: Oracle,
    daemon: Containerd,
    registry: Registry,
    repository: str,
    namespace: str,
) -> None:
    graph = shapes.single()
    reference = publish.push(graph, registry, repository)
    registry.add_fault(fault(f"blobs/{layer_of(graph)}"))
    with pytest.raises(error, match=words) as caught:
        pull(daemon, namespace, reference)
    assert caught.value.exit_code == 5
    registry.clear_faults()
    assert_nothing_left(state(daemon, namespace))
    assert layer_of(graph) in {str(one.digest) for one in pull(daemon, namespace, reference).fetched}


def test_a_cut_connection_is_resumed(
    oracle: Oracle, daemon: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    graph = shapes.big(4 << 20, layers=1)
    reference = publish.push(graph, registry, repository)
    registry.add_fault(Fault(f"blobs/{layer_of(graph)}", cut_after=1_000_000, times=1))
    pull(daemon, namespace, reference, PullOptions(unpack=False))
    ranges = [one.range for one in registry.requests() if layer_of(graph) in one.path]
    assert ranges == ["", "bytes=1000000-"]
    assert set(graph.blobs) == digests(daemon, namespace)


def test_a_partial_download_of_another_client_is_resumed(
    oracle: Oracle, daemon: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    graph = shapes.big(4 << 20, layers=1)
    reference = publish.push(graph, registry, repository)
    digest = layer_of(graph)
    half = graph.blobs[digest][: 1 << 20]
    leave_ingest(daemon, namespace, graph, digest, half)
    pull(daemon, namespace, reference, PullOptions(unpack=False))
    ranges = [one.range for one in registry.requests() if digest in one.path]
    assert ranges == [f"bytes={1 << 20}-"]
    assert set(graph.blobs) == digests(daemon, namespace)


@pytest.mark.parametrize("length", [1 << 20, 4 << 20], ids=["part", "full-length"])
def test_p3_a_corrupt_ingest_of_another_client_is_replaced(
    length: int, oracle: Oracle, daemon: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    graph = shapes.big(4 << 20, layers=1)
    reference = publish.push(graph, registry, repository)
    digest = layer_of(graph)
    wrong = bytes(min(length, len(graph.blobs[digest])))
    leave_ingest(daemon, namespace, graph, digest, wrong)
    pull(daemon, namespace, reference, PullOptions(unpack=False))
    assert set(graph.blobs) == digests(daemon, namespace)
    assert not snapshot_of(daemon, namespace)["ingests"]


def test_a_locked_ingest_of_a_stopped_client_is_an_error(
    containerd: Containerd, registry: Registry, repository: str, namespace: str, tmp_path: Path
) -> None:
    """After the stall timeout, with a hint; when the other client has ended, the next pull resumes."""
    graph = shapes.big(8 << 20, layers=2, seed=len(repository))
    reference = publish.push(graph, registry, repository)
    digest = layer_of(graph)
    shell = Shell(containerd, namespace, tmp_path)
    with Daemon.connect(str(containerd.address), namespace) as store:
        size = len(graph.blobs[digest])
        with store.content.open_ingest(f"layer-{digest}", digest=Digest(digest), size=size) as ingest:
            for start in range(0, 4 << 20, 1 << 20):
                ingest.write(graph.blobs[digest][start : start + (1 << 20)])
            done = shell("pull", "--no-unpack", "--stall-timeout", "1", reference, code=1)
    words = done.stderr.decode()
    assert f"ref layer-{digest} locked: another client" in words.replace(f"{namespace}/", "")
    assert "has written nothing for 1 seconds" in words
    assert "hint: find that client" in words
    shell("pull", "--no-unpack", reference)


def test_a_locked_ingest_is_waited_for(
    oracle: Oracle, daemon: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    """Two pulls of one image at the same time download every blob once."""
    graph = shapes.big(8 << 20, layers=2)
    reference = publish.push(graph, registry, repository)
    stall = registry.add_fault(Fault(f"blobs/{layer_of(graph)}", stall_after=1 << 20, times=1))
    results: list[PullResult] = []
    threads = [
        threading.Thread(target=lambda: results.append(pull(daemon, namespace, reference))) for _ in range(2)
    ]
    threads[0].start()
    assert stall.stalled.wait(30)
    threads[1].start()
    stall.release.set()
    for thread in threads:
        thread.join(60)
    assert len(results) == 2
    gets = [one.path for one in registry.requests() if one.method == "GET"]
    assert sorted(gets) == sorted(set(gets))
    assert set(graph.blobs) == digests(daemon, namespace)


def _misnamed(graph: Graph) -> Graph:
    return graph.described_as(mediaType=images.OCI_MANIFEST)


def _with_empty_layer() -> Graph:
    empty = images.Blob(b"", "application/vnd.oci.image.layer.v1.tar")
    return images.manifest(images.config([]), [empty])


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (lambda: _misnamed(shapes.mixed()), "expected manifest but found index"),
        (_with_empty_layer, "content size of zero"),
    ],
    ids=["index-called-manifest", "empty-layer"],
)
def test_invalid_documents_leave_nothing(
    graph: Callable[[], Graph],
    words: str,
    oracle: Oracle,
    daemon: Containerd,
    registry: Registry,
    repository: str,
    namespace: str,
) -> None:
    reference = _serve(registry, repository, graph())
    with pytest.raises((ContentError, RegistryContentError), match=words):
        pull(daemon, namespace, reference)
    assert_nothing_left(state(daemon, namespace))


def _serve(registry: Registry, repository: str, graph: Graph) -> str:
    """Serve blobs that a registry would reject, from the proxy in front of it."""
    for digest, data in graph.blobs.items():
        is_root = digest == graph.digest
        headers = {
            "Content-Type": str(graph.root["mediaType"]) if is_root else "application/octet-stream",
            "Docker-Content-Digest": digest,
        }
        paths = [f"manifests/{digest}", f"blobs/{digest}", *(["manifests/latest"] if is_root else [])]
        for path in paths:
            registry.add_fault(
                Fault(f"{repository}/{path}$", ("GET", "HEAD"), status=200, headers=headers, body=data)
            )
    return f"{registry.host}/{repository}:latest"
