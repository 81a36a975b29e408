"""Push from real stores: the registry has what ctr would have pushed, and other tools can read it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from integration.bench import Bench
from integration.rig.daemons import Registry
from integration.rig.store import snapshot_of
from integration.shell import Shell
from integration.uploads import (
    Stored,
    layout_blobs,
    methods,
    newest,
    open_uploads,
    run,
    running,
    sent,
    stored,
)
from tests.support import images, shapes
from tests.support.images import Graph, reachable

AMD64, ARM64 = "linux/amd64", "linux/arm64"

# Otherwise docker-registry refuses manifests with layers on other hosts.
URLS_ALLOWED = "validation:\n  manifests:\n    urls:\n      allow:\n        - ^http://127.0.0.1"

SHAPES: dict[str, Callable[[], Graph]] = {
    "five": shapes.five_platform,
    "attestation": shapes.mixed,
    "nested": shapes.nested,
}
MORE_SHAPES: dict[str, Callable[[], Graph]] = {
    "single": shapes.single,
    "single docker": lambda: shapes.single(docker=True),
    "artifact": shapes.artifact,
    "shared": shapes.shared_layers,
}


def ctr_push(bench: Bench, name: str, target: str, *flags: str) -> None:
    local = [] if bench.is_old else ["--local"]
    bench.ctr("images", "push", "--plain-http", *local, *flags, target, name)


# --- the result ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_a_push_is_the_same_as_with_ctr_and_crane(bench: Bench, shell: Shell, shape: str) -> None:
    same_as_others(bench, shell, SHAPES[shape]())


@newest
@pytest.mark.parametrize("shape", MORE_SHAPES)
def test_a_push_of_other_images_is_the_same_as_with_ctr_and_crane(
    bench: Bench, shell: Shell, shape: str
) -> None:
    same_as_others(bench, shell, MORE_SHAPES[shape]())


def same_as_others(bench: Bench, shell: Shell, graph: Graph) -> None:
    name = bench.pull_all(graph)
    host = bench.registry.host
    shell("push", name, f"{host}/{bench.repository}-ours:1")
    ctr_push(bench, name, f"{host}/{bench.repository}-ctrs:1")
    run("crane", "copy", "--insecure", name, f"{host}/{bench.repository}-cranes:1")
    ours = stored(bench.registry, f"{bench.repository}-ours")
    assert ours.tags == {"1": graph.digest}
    assert ours.blobs | ours.manifests == set(reachable(graph))
    assert ours == stored(bench.registry, f"{bench.repository}-ctrs")
    assert ours == stored(bench.registry, f"{bench.repository}-cranes")
    assert open_uploads(bench.registry, f"{bench.repository}-ours") == []


@newest
def test_other_tools_can_read_a_pushed_image(bench: Bench, shell: Shell, target: str) -> None:
    graph = shapes.mixed(salt="readers")
    name, pushed = bench.pull_all(graph), f"{bench.registry.host}/{target}:1"
    shell("push", name, pushed)
    folder = bench.folder
    run("crane", "copy", "--insecure", pushed, f"{bench.registry.host}/{target}-crane:1")
    assert stored(bench.registry, f"{target}-crane") == stored(bench.registry, target)
    run("oras", "copy", "--from-plain-http", "--to-oci-layout", pushed, f"{folder}/oras:1")
    source = ["--src-tls-verify=false", f"docker://{pushed}"]
    run("skopeo", "copy", "--all", "--preserve-digests", *source, f"oci:{folder}/skopeo:1")
    for tool in ("oras", "skopeo"):
        found = layout_blobs(folder / tool)
        assert {digest: found.get(digest) for digest in reachable(graph)} == reachable(graph), tool
    bench.ctr("content", "fetch", "--plain-http", "--all-platforms", pushed, namespace=f"{bench.namespace}-b")
    content = snapshot_of(bench.containerd, f"{bench.namespace}-b")["content"]
    assert set(content) == set(reachable(graph))


def test_a_push_adds_only_source_labels(bench: Bench, shell: Shell, target: str) -> None:
    graph = shapes.five_platform(salt="labels")
    name = bench.pull_all(graph)
    before = snapshot_of(bench.containerd, bench.namespace)
    shell("push", name, f"{bench.registry.host}/{target}:1")
    after = snapshot_of(bench.containerd, bench.namespace)
    for content in after["content"].values():
        known = content["labels"].pop("containerd.io/distribution.source.127.0.0.1")
        assert target in known.split(",")
    for content in before["content"].values():
        del content["labels"]["containerd.io/distribution.source.127.0.0.1"]
    assert after == before


# --- requests ------------------------------------------------------------------------------------------


def test_blobs_of_other_repositories_are_mounted_and_nothing_is_sent_twice(
    bench: Bench, shell: Shell, target: str
) -> None:
    graph = shapes.five_platform(salt="mount")
    name, pushed = bench.pull_all(graph), f"{bench.registry.host}/{target}:1"
    bench.registry.clear_requests()
    told = shell.json("push", name, pushed)
    blobs = stored(bench.registry, target).blobs
    assert {item["digest"] for item in told["mounted"]} == blobs
    posts = [one for one in sent(bench.registry) if one.method == "POST"]
    assert [one.status for one in posts] == [201] * len(blobs)
    assert not any("/blobs/" in one.path for one in sent(bench.registry) if one.method != "POST")
    assert told["bytes"] == sum(item["size"] for item in told["uploaded"])
    bench.registry.clear_requests()
    again = shell.json("push", name, pushed)
    assert sent(bench.registry) == []
    assert (again["uploaded"], again["mounted"], again["bytes"]) == ([], [], 0)
    assert {item["digest"] for item in again["present"]} == set(reachable(graph))


@newest
def test_children_are_sent_before_parents_and_the_tag_last(bench: Bench, shell: Shell, target: str) -> None:
    graph = shapes.nested(salt="order")
    name = bench.pull_all(graph)
    bench.registry.clear_requests()
    shell("push", name, f"{bench.registry.host}/{target}:1")
    puts = [one.path.rpartition("/")[2] for one in sent(bench.registry) if "/manifests/" in one.path]
    inner = graph.child(0)
    assert puts[-2:] == [inner.digest, "1"]
    assert set(puts[:-2]) == {inner.child(0).digest, inner.child(1).digest}


@newest
def test_a_dry_run_only_asks(bench: Bench, shell: Shell, target: str) -> None:
    graph = shapes.five_platform(salt="dry")
    name = bench.pull_all(graph)
    before = snapshot_of(bench.containerd, bench.namespace)
    bench.registry.clear_requests()
    arguments = ("push", "--dry-run", name, f"{bench.registry.host}/{target}:1")
    plan = shell.json(*arguments)
    assert methods(bench.registry.requests()) == {"HEAD"}
    assert snapshot_of(bench.containerd, bench.namespace) == before
    assert {item["digest"] for item in plan["upload"] + plan["mount"]} == set(reachable(graph))
    assert plan["bytes"] == sum(item["size"] for item in plan["upload"])
    assert b"would upload: 6 blobs" in shell(*arguments).stdout
    assert stored(bench.registry, target) == Stored(frozenset(), frozenset(), {})


# --- platforms -----------------------------------------------------------------------------------------


def test_an_incomplete_image_is_not_pushed(bench: Bench, shell: Shell, target: str) -> None:
    graph = shapes.multi([AMD64, ARM64], salt="incomplete")
    name, pushed = bench.pull(graph), f"{bench.registry.host}/{target}:1"
    bench.registry.clear_requests()
    done = shell("push", name, pushed, code=4)
    layers = graph.child(1).document()["layers"]
    words = done.stderr.decode()
    assert f"content digest {layers[0]['digest']}: not found, and 1 more blob" in words
    assert f"missing: {ARM64}: {len(layers)} blobs, " in words
    assert f" ensure --all-platforms {name}\n" in words
    assert "--platform local" in words
    assert bench.registry.requests() == []
    assert snapshot_of(bench.containerd, bench.namespace)["leases"] == {}
    told = shell.json("push", "--platform", "local", name, pushed)
    assert told["platforms"] == [AMD64]
    shell("ensure", "--all-platforms", name)
    assert shell.json("push", name, pushed)["target"]["digest"] == graph.digest


@newest
def test_selected_platforms_are_pushed_with_a_pruned_index(bench: Bench, shell: Shell, target: str) -> None:
    graph = shapes.mixed(salt="pruned")
    name, pushed = bench.pull(graph), f"{bench.registry.host}/{target}:1"
    shell("ensure", "--all-platforms", name)
    told = shell.json("push", "--platform", AMD64, name, pushed)
    assert told["original"]["digest"] == graph.digest != told["target"]["digest"]
    index = json.loads(run("crane", "manifest", "--insecure", pushed))
    # The attestation of the selected image is pushed, too.
    assert [item["digest"] for item in index["manifests"]] == [graph.child(0).digest, graph.child(4).digest]
    assert index["annotations"] == {"io.pyctrd.original-index.digest": graph.digest}
    assert graph.digest not in stored(bench.registry, target).manifests
    done = shell("push", "--platform", ARM64, name, pushed.replace(":1", ":2"))
    assert b"selected platforms only" in done.stdout
    index = json.loads(run("crane", "manifest", "--insecure", pushed.replace(":1", ":2")))
    assert [item["digest"] for item in index["manifests"]] == [graph.child(1).digest]
    bench.ctr("images", "pull", "--plain-http", pushed, namespace=f"{bench.namespace}-b")


@pytest.mark.parametrize(
    "choice", [[], ["--platform", "local"], ["--platform", AMD64], ["--index", "flatten"]]
)
def test_after_a_default_pull_attestations_are_skipped(
    bench: Bench, shell: Shell, target: str, tmp_path: Path, choice: list[str]
) -> None:
    """To another registry than that of the image, where nothing can be mounted."""
    graph = shapes.attested_as_amd64(salt="default pull")
    name = bench.pull(graph)
    with running(Registry(tmp_path / "other")) as registry:
        pushed = f"{registry.host}/{target}:1"
        bench.ctr("images", "tag", name, "elsewhere.example/app:1")
        told = shell.json("push", *choice, "elsewhere.example/app:1", pushed)
        flat = "flatten" in choice
        attestation = graph.child(1).digest
        assert [item["digest"] for item in told["skipped"]] == ([] if flat else [attestation])
        image = graph.child(0)
        blobs = {
            image.document()["config"]["digest"],
            *(item["digest"] for item in image.document()["layers"]),
        }
        found = stored(registry, target)
        assert found.blobs == blobs
        assert found.tags == {"1": told["target"]["digest"]}
        assert found.manifests == {told["target"]["digest"], image.digest}
        done = shell("push", "--all-platforms", "elsewhere.example/app:1", pushed, code=4)
        assert b"ensure --all-platforms elsewhere.example/app:1" in done.stderr
        done = shell("push", *choice, "elsewhere.example/app:1", pushed)
        assert (b"ensure --platform unknown/unknown elsewhere.example/app:1" in done.stdout) is not flat
        shell("ensure", "--plain-http", "--platform", "unknown/unknown", name)
        whole = shell.json("push", *choice, "elsewhere.example/app:1", pushed)
        assert whole["target"]["digest"] == (image.digest if flat else graph.digest)


@newest
def test_local_without_complete_platforms(bench: Bench, shell: Shell, target: str) -> None:
    graph = shapes.mixed(salt="nothing complete")
    name = bench.pull(graph)
    bench.ctr("content", "rm", graph.child(0).document()["layers"][0]["digest"])
    done = shell("push", "--platform", "local", name, f"{bench.registry.host}/{target}:1", code=3)
    assert f"{name} has no complete platform" in done.stderr.decode()
    assert f"ensure --platform {AMD64} {name}" in done.stderr.decode()


@newest
def test_one_platform_without_the_index(bench: Bench, shell: Shell, target: str) -> None:
    graph = shapes.five_platform(salt="flat")
    name, pushed = bench.pull(graph), f"{bench.registry.host}/{target}:1"
    shell("push", "--index", "flatten", "--platform", AMD64, name, pushed)
    assert stored(bench.registry, target).tags == {"1": graph.child(0).digest}
    assert stored(bench.registry, target).manifests == {graph.child(0).digest}
    shell("ensure", "--all-platforms", name)
    done = shell("push", "--index", "flatten", name, pushed, code=2)
    assert b"--index flatten needs one image, but there are 5" in done.stderr


@newest
def test_a_platform_that_the_image_lacks(bench: Bench, shell: Shell, target: str) -> None:
    name = bench.pull(shapes.five_platform(salt="lacks"))
    bench.registry.clear_requests()
    pushed = f"{bench.registry.host}/{target}:1"
    done = shell("push", "--platform", f"{AMD64},linux/riscv64", name, pushed, code=3)
    assert b"no linux/riscv64" in done.stderr
    assert bench.registry.requests() == []


@newest
def test_a_digest_as_target(bench: Bench, shell: Shell, target: str) -> None:
    graph = shapes.single(salt="digest")
    name = bench.pull(graph)
    shell("push", name, f"{bench.registry.host}/{target}@{graph.digest}")
    assert stored(bench.registry, target).manifests == {graph.digest}
    assert stored(bench.registry, target).tags == {}
    other = f"{bench.registry.host}/{target}@sha256:{'0' * 64}"
    assert b"is not that of the image" in shell("push", name, other, code=2).stderr


@newest
def test_nondistributable_layers_are_skipped_by_default(
    bench: Bench, shell: Shell, target: str, tmp_path: Path
) -> None:
    with running(Registry(tmp_path / "foreign", config=URLS_ALLOWED)) as registry:
        bench.registry = registry
        graph = shapes.foreign([f"{registry.url}/anywhere"])
        name, pushed = bench.pull_all(graph), f"{registry.host}/{target}:1"
        foreign = graph.document()["layers"][0]["digest"]
        told = shell.json("push", name, pushed)
        assert [item["digest"] for item in told["skipped"]] == [foreign]
        ctr_push(bench, name, f"{registry.host}/{target}-ctr:1")
        ours = stored(registry, target)
        assert ours.blobs | ours.manifests == set(graph.blobs) - {foreign}
        assert ours == stored(registry, f"{target}-ctr")
        shell("push", "--allow-nondistributable", name, pushed)
        assert foreign in stored(registry, target).blobs


@newest
def test_an_index_with_annotations_is_unchanged(bench: Bench, shell: Shell, target: str) -> None:
    graph = images.index([shapes.mixed().child(0)], annotations={"a": "<&>\u2028é"})
    name = bench.pull_all(graph)
    shell("push", "--platform", AMD64, name, f"{bench.registry.host}/{target}:1")
    assert stored(bench.registry, target).tags == {"1": graph.digest}


@newest
def test_referrers_are_listed_under_a_tag(bench: Bench, shell: Shell, target: str) -> None:
    """docker-registry has no referrers API, so the client updates the tag (OCI distribution-spec 1.1)."""
    image = shapes.single(salt="subject")
    shell("push", bench.pull(image), f"{bench.registry.host}/{target}:1")
    artifact = shapes.artifact(subject=image)
    shell("push", bench.pull_all(artifact), f"{bench.registry.host}/{target}:about")
    subject = f"{bench.registry.host}/{target}@{image.digest}"
    found = json.loads(run("oras", "discover", "--plain-http", "--format", "json", subject))
    assert artifact.digest in json.dumps(found)
    assert sorted(stored(bench.registry, target).tags) == ["1", "about", image.digest.replace(":", "-")]
