"""Images and lists that are expensive to process, on a real containerd: every command succeeds.

tests/test_linear.py counts how often each document is read; here, time limits only end commands that would
not end by themselves.
"""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from integration.bench import Bench
from integration.rig.publish import push
from integration.rig.store import collect_garbage
from pyctrd import Registry, RegistryOptions
from pyctrd.oci.model import Descriptor, Digest, ImageRecord
from tests.support import shapes
from tests.support.images import Graph

IMAGES: dict[str, Callable[[], Graph]] = {
    "shared indexes": lambda: shapes.shared_indexes(8, 10, salt="expensive"),
    "one child for many platforms": lambda: shapes.listed_for_many(2000, salt="for many"),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("shape", IMAGES)
def test_every_command_ends(bench: Bench, shape: str, tmp_path: Path) -> None:
    graph = IMAGES[shape]()
    name = push(graph, bench.registry, f"{bench.repository}/source")
    bench.registry.clear_requests()
    archive = tmp_path / "image.tar"
    with bench.client() as client:
        pulled = client.images.pull(name, platforms="all")
        assert {item.digest for item in pulled.fetched} == set(graph.blobs)
        fetched = Counter(one.path for one in bench.registry.requests() if one.method == "GET")
        assert max(fetched.values()) == 1
        assert client.images.ensure(name, platforms="all").fetched == ()
        assert client.images.ensure(name, platforms=["local"]).fetched == ()
        client.images.save([name], archive, platforms="all", index="prune", ensure="none")
        assert client.images.verify([name], platforms="all").ok
        diagnosis = client.images.diagnose(name, platforms=["all"])
        assert diagnosis.complete
        target = f"{bench.registry.host}/{bench.repository}/target"
        pushed = client.images.push(name, f"{target}:pushed")
        assert pushed.target.digest == graph.digest
    with tarfile.open(archive) as tar:
        found = {f"sha256:{Path(item.name).name}" for item in tar if item.name.startswith("blobs/sha256/")}
    assert set(graph.blobs) <= found
    with Registry(RegistryOptions(plain_http=True)) as copier:
        assert copier.copy(name, f"{target}:copied").target.digest == graph.digest


# --- other clients' labels --------------------------------------------------------------------------------

# containerd refuses one label of more than 4,096 bytes; records of several hundred of them are fine.
LABELS = {f"label-{number}": "x" * 4000 for number in range(500)}


def test_large_labels_of_other_clients_do_not_break_commands(bench: Bench) -> None:
    graph = shapes.five_platform(layers=2, salt="labels")
    name = bench.pull(graph)
    with bench.daemon() as daemon:
        for number in range(12):  # 24 MB in total
            target = Descriptor(media_type="text/plain", digest=Digest.of(bytes([number])), size=1)
            daemon.images.create(ImageRecord(name=f"other.example/{number}", target=target, labels=LABELS))
    listed = bench.ctr("images", "ls", check=False)
    assert b"larger than max" in listed.stderr
    gone = graph.child(0).document()["layers"][0]["digest"]
    bench.ctr("content", "rm", gone)
    collect_garbage(bench.containerd, bench.namespace)
    with bench.client() as client:
        assert [item.digest for item in client.images.ensure(name).fetched] == [gone]
        assert client.images.save([name], bench.folder / "image.tar", ensure="none").images == (name,)
        images = client.images.list()
    assert len(images) == 13
    assert sum(len(image.labels) for image in images) >= 12 * len(LABELS)
