"""ensure and save fetch only missing content, according to the registry's log."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.conftest import peer_required, run_required
from integration.rig import peers
from integration.rig.daemons import Containerd, ContainerdInDocker, Dockerd, Fault, Registry
from integration.rig.publish import push
from integration.rig.store import collect_garbage, digests, prune_references, snapshot_of
from pyctrd import Client, IncompleteContent, NoMatchingPlatform, RegistryError
from pyctrd.oci.platforms import parse
from tests.support import shapes
from tests.support.images import Graph

FOREIGN = range(1, 5)


@pytest.fixture
def client(containerd: Containerd, namespace: str) -> Iterator[Client]:
    with Client(str(containerd.address), namespace) as opened:
        yield opened


def ctr_pull(daemon: Containerd, namespace: str, reference: str, *flags: str) -> None:
    """Pull as ctr of containerd 2.x does by default, whatever the generation."""
    every = ["--all-metadata"] if daemon.is_1 else []
    daemon.ctr("images", "pull", "--plain-http", *every, *flags, reference, namespace=namespace)


def layers_of(graph: Graph) -> set[str]:
    return {layer["digest"] for layer in graph.document()["layers"]}


def foreign_layers(graph: Graph) -> set[str]:
    return set.union(*(layers_of(graph.child(position)) for position in FOREIGN))


def test_save_after_ctr_pull_makes_no_request(
    client: Client,
    containerd: Containerd,
    registry: Registry,
    repository: str,
    namespace: str,
    tmp_path: Path,
) -> None:
    reference = push(shapes.five_platform(layers=2, salt=namespace), registry, repository)
    ctr_pull(containerd, namespace, reference)
    registry.clear_requests()
    before = snapshot_of(containerd, namespace)
    result = client.images.save([reference], tmp_path / "image.tar")
    assert registry.requests() == []
    assert result.fetched == ()
    assert snapshot_of(containerd, namespace) == before


def test_ensure_all_fetches_what_old_nerdctl_fetches(
    client: Client,
    containerd: Containerd,
    registry: Registry,
    repository: str,
    namespace: str,
    tmp_path: Path,
) -> None:
    with peer_required():
        nerdctl = peers.nerdctl("2.0.3")
    graph = shapes.five_platform(layers=2, salt=namespace)
    reference = push(graph, registry, repository)
    for name in (namespace, f"{namespace}-nerdctl"):
        ctr_pull(containerd, name, reference)
    before = digests(containerd, namespace)

    registry.clear_requests()
    client.images.save([reference], tmp_path / "ours.tar", ensure="all")
    ours = [request.path.rpartition("/")[2] for request in registry.requests()]
    assert sorted(ours) == sorted(foreign_layers(graph))
    assert digests(containerd, namespace) == before | foreign_layers(graph)

    # In the same daemon nerdctl would share the content of the other namespace, and send no GET.
    with Containerd(containerd.generation, tmp_path / "containerd") as alone:
        ctr_pull(alone, "default", reference)
        registry.clear_requests()
        common = [
            "--address",
            str(alone.address),
            "--data-root",
            str(tmp_path / "data"),
            "--insecure-registry",
        ]
        save = [str(nerdctl), *common, "save", "-o", str(tmp_path / "theirs.tar"), reference]
        subprocess.run(save, check=True, capture_output=True, timeout=100)
        assert registry.fetched() - before == set(ours)


def test_ensure_fetches_by_digest_if_the_tag_has_moved(
    client: Client, containerd: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    """nerdctl would resolve the tag again, and replace the local image."""
    graph = shapes.five_platform(salt="first")
    reference = push(graph, registry, repository)
    ctr_pull(containerd, namespace, reference)
    record = snapshot_of(containerd, namespace)["images"]
    push(shapes.five_platform(salt="second"), registry, repository)
    registry.clear_requests()
    result = client.images.ensure(reference, platforms=["linux/arm64"])
    assert {str(one.digest) for one in result.fetched} == layers_of(graph.child(1))
    assert registry.fetched() == layers_of(graph.child(1))
    collect_garbage(containerd, namespace)
    assert layers_of(graph.child(1)) <= digests(containerd, namespace)
    assert snapshot_of(containerd, namespace)["images"] == record


def test_ensure_fetches_a_platform_that_was_never_pulled(
    client: Client, containerd: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    """Manifest and config too, which nerdctl silently skips."""
    graph = shapes.five_platform(layers=2, salt=namespace)
    reference = push(graph, registry, repository)
    client.images.pull(reference, metadata="selected")
    child = graph.child(1)
    wanted = {child.digest, child.document()["config"]["digest"], *layers_of(child)}
    assert {
        str(one.digest)
        for one in client.images.ensure(reference, platforms=["linux/arm64"], dry_run=True).fetched
    } == wanted
    registry.clear_requests()
    client.images.ensure(reference, platforms=["linux/arm64"])
    assert registry.fetched() == wanted
    collect_garbage(containerd, namespace)
    found = snapshot_of(containerd, namespace)["content"]
    assert wanted <= set(found)
    label = "containerd.io/distribution.source.127.0.0.1"
    assert {found[digest]["labels"].get(label) for digest in wanted} == {repository}
    registry.clear_requests()
    assert client.images.ensure(reference, platforms=["linux/arm64"]).fetched == ()
    assert registry.requests() == []


def test_ensure_equals_a_pull_of_that_platform(
    client: Client, containerd: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    # Shared content of another namespace would not be fetched, which is what is compared here.
    reference = push(shapes.mixed(salt=namespace), registry, repository)
    client.images.pull(reference, unpack=False)
    client.images.ensure(reference, platforms=["linux/arm64"])
    with Client(str(containerd.address), f"{namespace}-pull") as other:
        other.images.pull(reference, platforms=["linux/amd64", "linux/arm64"], unpack=False)
    ours, theirs = (snapshot_of(containerd, name) for name in (namespace, f"{namespace}-pull"))
    assert ours["content"] == theirs["content"]
    assert ours["images"] == theirs["images"]


def test_a_retagged_image_is_fetched_from_its_source(
    client: Client, containerd: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    """The local tag does not name the registry. A label of the content does, another image has the port."""
    graph = shapes.five_platform(salt=namespace)
    reference = push(graph, registry, repository)
    ctr_pull(containerd, namespace, reference)
    containerd.ctr("images", "tag", reference, "registry.invalid/mine:v1", namespace=namespace)
    result = client.images.ensure("registry.invalid/mine:v1", platforms=["linux/s390x"])
    assert {str(one.digest) for one in result.fetched} == layers_of(graph.child(4))


def test_a_lost_label_is_restored_with_the_content(
    client: Client, containerd: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    """`ctr content prune references` removes layers; ensure fetches them and sets their labels."""
    graph = shapes.five_platform(salt=namespace)
    reference = push(graph, registry, repository)
    ctr_pull(containerd, namespace, reference)
    prune_references(containerd, namespace)
    collect_garbage(containerd, namespace)
    assert not layers_of(graph.child(0)) & digests(containerd, namespace)
    client.images.ensure(reference)
    collect_garbage(containerd, namespace)
    assert layers_of(graph.child(0)) <= digests(containerd, namespace)


def test_offline_never_connects(
    client: Client,
    containerd: Containerd,
    registry: Registry,
    repository: str,
    namespace: str,
    tmp_path: Path,
) -> None:
    reference = push(shapes.five_platform(salt=namespace), registry, repository)
    ctr_pull(containerd, namespace, reference)
    registry.clear_requests()
    archive = tmp_path / "image.tar"
    with pytest.raises(IncompleteContent, match=r"content digest sha256:[0-9a-f]{64}: not found") as caught:
        client.images.save([reference], archive, platforms=["linux/arm64"], ensure="none")
    assert caught.value.exit_code == 4
    assert registry.requests() == []
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_platform_is_refused_before_anything_is_fetched(
    client: Client, containerd: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    reference = push(shapes.five_platform(salt=namespace), registry, repository)
    ctr_pull(containerd, namespace, reference)
    registry.clear_requests()
    with pytest.raises(NoMatchingPlatform):
        client.images.ensure(reference, platforms=["linux/arm64", "linux/riscv64"])
    assert registry.requests() == []


def test_a_failed_ensure_leaves_no_lease_and_no_archive(
    client: Client,
    containerd: Containerd,
    registry: Registry,
    repository: str,
    namespace: str,
    tmp_path: Path,
) -> None:
    graph = shapes.five_platform(layers=2, salt=namespace)
    reference = push(graph, registry, repository)
    ctr_pull(containerd, namespace, reference)
    before = snapshot_of(containerd, namespace)
    registry.add_fault(Fault(min(layers_of(graph.child(1))), status=404))
    with pytest.raises(RegistryError, match="could not fetch content descriptor"):
        client.images.save([reference], tmp_path / "image.tar", platforms=["linux/arm64"])
    assert list(tmp_path.iterdir()) == []
    collect_garbage(containerd, namespace)
    after = snapshot_of(containerd, namespace)
    assert not after["leases"]
    assert not after["ingests"]
    assert set(after["content"]) >= set(before["content"])


def test_a_dry_run_predicts_the_run(
    client: Client,
    containerd: Containerd,
    registry: Registry,
    repository: str,
    namespace: str,
    tmp_path: Path,
) -> None:
    reference = push(shapes.five_platform(layers=2, salt=namespace), registry, repository)
    client.images.pull(reference, metadata="selected")
    before = snapshot_of(containerd, namespace)
    plan = client.images.save([reference], platforms=["linux/arm64"], dry_run=True)
    assert snapshot_of(containerd, namespace) == before
    result = client.images.save([reference], tmp_path / "image.tar", platforms=["linux/arm64"])
    assert {one.digest for one in plan.fetched} == {one.digest for one in result.fetched}
    assert plan.bytes_fetched == result.bytes_fetched
    assert result.bytes_written == (tmp_path / "image.tar").stat().st_size


def test_ensure_and_save_on_a_containerd_in_a_container(
    generation: str, dockerd: Dockerd, registry: Registry, repository: str, tmp_path: Path
) -> None:
    graph = shapes.five_platform(layers=2)
    reference = push(graph, registry, repository)
    with run_required(lambda: ContainerdInDocker(dockerd, generation, tmp_path / "inside")) as daemon:
        with Client(str(daemon.address), "default") as client:
            pulled = client.images.pull(reference)
            assert pulled.unpacked == (parse("linux/amd64"),)
            found = client.images.diagnose(reference)
            assert found.complete
            assert [row.complete for row in found.platforms] == [True, False, False, False, False]
            fetched = client.images.ensure(reference, platforms=["linux/arm64"]).fetched
            assert {str(one.digest) for one in fetched} == layers_of(graph.child(1))
            registry.clear_requests()
            client.images.save([reference], tmp_path / "image.tar", platforms=["local"])
            assert registry.requests() == []
        daemon.ctr(
            "images", "import", "--platform", "linux/arm64", tmp_path / "image.tar", namespace="loaded"
        )
        assert json.loads(graph.blobs[graph.digest])["manifests"][1]["digest"] in digests(daemon, "loaded")
