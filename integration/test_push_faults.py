"""Faults during a push: registries that fail, damaged content, interrupts, and garbage collection."""

from __future__ import annotations

import json
import signal
import threading
from typing import Any

import pytest

from integration.bench import Bench
from integration.rig.proxy import Fault
from integration.rig.store import collect_garbage, snapshot_of
from integration.shell import Shell
from integration.uploads import MIB, methods, newest, open_uploads, sent, stored
from tests.support import shapes
from tests.support.images import Graph, reachable


def big(bench: Bench, salt: int) -> tuple[Graph, str]:
    """An image with a layer of 8 MiB that cannot be mounted from another repository."""
    graph = shapes.big(8 * MIB, layers=1, seed=salt)
    name = bench.pull(graph)
    bench.ctr("images", "tag", name, "elsewhere.example/app:1")
    layer = graph.document()["layers"][0]["digest"]
    bench.ctr("content", "label", layer, "containerd.io/distribution.source.127.0.0.1=")
    return graph, "elsewhere.example/app:1"


@newest
def test_chunks_resume_at_the_offset_of_the_registry(bench: Bench, shell: Shell, target: str) -> None:
    graph, name = big(bench, 1)
    layer = graph.document()["layers"][0]
    bench.registry.clear_requests()
    bench.registry.add_fault(Fault("/blobs/uploads/", ("PATCH",), times=1, status=503))
    shell("push", "--chunk-size", "2", name, f"{bench.registry.host}/{target}:1")
    patches = [one for one in sent(bench.registry) if one.method == "PATCH"]
    ranges = [one.headers["content-range"] for one in patches if one.status == 202]
    starts = range(0, layer["size"], 2 * MIB)
    assert ranges == [f"{at}-{min(at + 2 * MIB, layer['size']) - 1}" for at in starts]
    bench.registry.clear_requests()
    bench.registry.add_fault(Fault("/blobs/uploads/", ("PATCH",), times=0, status=503))
    assert stored(bench.registry, target).tags == {"1": graph.digest}


@newest
@pytest.mark.parametrize("chunk", ["2", "0"])
def test_an_interrupted_upload_is_completed(bench: Bench, shell: Shell, target: str, chunk: str) -> None:
    """docker-registry rejects an upload after an interrupted request, so it is restarted."""
    graph, name = big(bench, 2)
    method = "PATCH" if chunk != "0" else "PUT"
    bench.registry.clear_requests()
    bench.registry.add_fault(Fault("/blobs/uploads/", (method,), times=1, cut_request_after=MIB + 5))
    shell("push", "--chunk-size", chunk, name, f"{bench.registry.host}/{target}:1")
    assert [one.method for one in sent(bench.registry) if one.status == 0] == [method]
    assert stored(bench.registry, target).tags == {"1": graph.digest}
    assert stored(bench.registry, target).blobs | {graph.digest} == set(reachable(graph))


@newest
def test_a_registry_that_keeps_failing(bench: Bench, shell: Shell, target: str) -> None:
    graph, name = big(bench, 3)
    layer = graph.document()["layers"][0]["digest"]
    busy = Fault("/blobs/uploads/", ("PUT", "PATCH"), status=503, headers={"Retry-After": "0"})
    bench.registry.add_fault(busy)
    bench.registry.clear_requests()
    done = shell("push", name, f"{bench.registry.host}/{target}:1", code=5)
    words = f"could not push blob {layer}: {bench.registry.host}/{target}: unexpected status 503"
    assert words in done.stderr.decode()
    assert len(sent(bench.registry)) < 20
    assert stored(bench.registry, target).tags == {}
    assert open_uploads(bench.registry, target) == []
    assert snapshot_of(bench.containerd, bench.namespace)["leases"] == {}


def test_damaged_content_never_becomes_a_blob(bench: Bench, shell: Shell, target: str) -> None:
    graph, name = big(bench, 4)
    layer = graph.document()["layers"][0]["digest"]
    path = bench.containerd.root / "root/io.containerd.content.v1.content/blobs/sha256" / layer[7:]
    good = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    try:
        done = shell("push", name, f"{bench.registry.host}/{target}:1", code=1)
    finally:
        path.write_bytes(good)
    assert f"content {layer}: its bytes have the digest sha256:" in done.stderr.decode()
    assert layer not in stored(bench.registry, target).blobs
    assert stored(bench.registry, target).tags == {}


@newest
def test_ctrl_c_cancels_the_upload(bench: Bench, shell: Shell, target: str) -> None:
    _graph, name = big(bench, 5)
    stall = Fault("/blobs/uploads/", ("PATCH",), wait=1.0, times=1)
    bench.registry.add_fault(stall)
    bench.registry.clear_requests()
    lines = ["push", "--progress", "json", "--chunk-size", "2", name, f"{bench.registry.host}/{target}:1"]
    with shell.start(*lines, stderr=-1) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if b"uploading" in line and json.loads(line)["offset"] > 0:
                process.send_signal(signal.SIGINT)
                break
        process.stderr.read()
    assert process.returncode == 130
    assert "DELETE" in methods(sent(bench.registry))
    assert stored(bench.registry, target).tags == {}
    assert snapshot_of(bench.containerd, bench.namespace)["leases"] == {}


def test_the_lease_protects_content_during_a_push(bench: Bench, target: str) -> None:
    graph, name = big(bench, 6)
    with bench.client() as client:
        removed: list[str] = []
        guard = threading.Lock()

        def remove(event: Any) -> None:
            with guard:
                if event.action == "uploading" and not removed:
                    for image in client.images.list():
                        bench.ctr("images", "rm", "--sync", image.name)
                        removed.append(image.name)

        client.images.push(name, f"{bench.registry.host}/{target}:1", progress=remove, chunk_bytes=2 * MIB)
    assert len(removed) == 2
    assert stored(bench.registry, target).blobs | {graph.digest} == set(reachable(graph))
    collect_garbage(bench.containerd, bench.namespace)
    assert snapshot_of(bench.containerd, bench.namespace)["content"] == {}
