"""pull leaves what ctr of the same version leaves: content, labels, image record, snapshots.

For deliberate differences, a test shows what ctr and pyctrd do (docs/differences.md).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from integration.faults.broken import sha512
from integration.pulls import assert_equal, assert_nothing_left, ctr_pull, layer_of, pull, state, tree
from integration.rig import publish
from integration.rig.daemons import Containerd, Fault, Registry
from integration.rig.store import digests, snapshot_of
from integration.scenarios import SCENARIOS, Mode, Oracle, Scenario
from pyctrd.errors import NoMatchingPlatform, RegistryContentError
from pyctrd.oci.platforms import parse as parse_platform
from pyctrd.oci.platforms import select
from pyctrd.operations.pull import PullOptions
from tests.support import images, shapes
from tests.support.images import Graph

pytestmark = pytest.mark.usefixtures("registry")


@pytest.mark.parametrize("mode", ["all", "selected"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_pull_leaves_what_ctr_leaves(
    scenario: Scenario, mode: Mode, oracle: Oracle, daemon: Containerd, registry: Registry, namespace: str
) -> None:
    reference = publish.push(scenario.graph(), registry, f"pull/{scenario.name}")
    pull(daemon, f"{namespace}-ours", reference, scenario.options(oracle, mode))
    exit_code = ctr_pull(daemon, oracle, f"{namespace}-ctr", reference, *scenario.ctr_flags(), mode=mode)
    ours, theirs = (state(daemon, f"{namespace}-{name}") for name in ("ours", "ctr"))
    if str(oracle) in scenario.not_on:
        # Listed in docs/differences.md: if ctr does the same one day, the list is outdated.
        assert exit_code or ours["content"] != theirs["content"], scenario.not_on
        return
    assert exit_code == 0
    assert_equal(ours, theirs)


def test_pull_again_changes_nothing(
    oracle: Oracle, daemon: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    reference = publish.push(shapes.mixed(), registry, repository)
    pull(daemon, namespace, reference)
    before = state(daemon, namespace)
    registry.clear_requests()
    again = pull(daemon, namespace, reference)
    assert again.fetched == ()
    assert [request.method for request in registry.requests()] == ["HEAD"]
    assert state(daemon, namespace) == before


def test_pull_after_ctr_and_ctr_after_pull_agree(
    oracle: Oracle, daemon: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    reference = publish.push(shapes.mixed(), registry, repository)
    assert ctr_pull(daemon, oracle, namespace, reference) == 0
    before = state(daemon, namespace)
    pull(daemon, namespace, reference)
    assert state(daemon, namespace) == before
    assert ctr_pull(daemon, oracle, namespace, reference) == 0
    assert state(daemon, namespace) == before


def test_source_labels_of_two_repositories(
    oracle: Oracle, daemon: Containerd, registry: Registry, namespace: str
) -> None:
    """On images that are not unpacked, since ctr 2.x ignores layers whose snapshot exists (P1)."""
    references = [publish.push(shapes.artifact(), registry, name) for name in ("single", "other/single")]
    for reference in references:
        pull(daemon, f"{namespace}-ours", reference)
    ours = state(daemon, f"{namespace}-ours")
    label = "containerd.io/distribution.source.127.0.0.1"
    assert {blob["labels"][label] for blob in ours["content"].values()} == {"other/single,single"}
    if oracle.generation != "1.6":
        for reference in references:
            assert ctr_pull(daemon, oracle, f"{namespace}-ctr", reference) == 0
        assert_equal(ours, state(daemon, f"{namespace}-ctr"))


def test_metadata_only_fetches_no_layers(
    oracle: Oracle, daemon: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    reference = publish.push(shapes.five_platform(), registry, repository)
    result = pull(daemon, f"{namespace}-ours", reference, PullOptions(metadata_only=True))
    assert result.unpacked == ()
    fetch = ("content", "fetch", "--plain-http", "--metadata-only", reference)
    daemon.ctr(*fetch, namespace=f"{namespace}-ctr")
    assert_equal(state(daemon, f"{namespace}-ours"), state(daemon, f"{namespace}-ctr"))


def test_ctr_can_use_an_unpacked_image(
    oracle: Oracle, daemon: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    """ctr finds our snapshots: `images check` calls the image unpacked, `snapshots` mounts its top."""
    reference = publish.push(shapes.single(), registry, repository)
    result = pull(daemon, namespace, reference)
    assert result.unpacked == (parse_platform("linux/amd64"),)
    checked = daemon.ctr("images", "check", f"name=={reference}", namespace=namespace).stdout.decode()
    assert "complete (3/3)" in checked
    assert checked.split()[-1] == "true"
    chain = max(
        snapshot_of(daemon, namespace)["snapshots"]["overlayfs"].items(), key=lambda one: one[1]["parent"]
    )
    daemon.ctr("snapshots", "prepare", "probe", chain[0], namespace=namespace)


# --- deliberate differences from ctr (docs/differences.md) -------------------------------------------------


def test_p1_a_layer_is_fetched_although_its_snapshot_exists(
    oracle: Oracle, daemon: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    """Two images of the same files with different compression."""
    first = publish.push(shapes.recompressed("gzip"), registry, f"{repository}-1")
    second_graph = shapes.recompressed("")
    second = publish.push(second_graph, registry, f"{repository}-2")
    for reference in (first, second):
        pull(daemon, f"{namespace}-ours", reference)
        ctr_pull(daemon, oracle, f"{namespace}-ctr", reference)
    assert set(second_graph.blobs) <= digests(daemon, f"{namespace}-ours")
    ctr_complete = set(second_graph.blobs) <= digests(daemon, f"{namespace}-ctr")
    assert ctr_complete == oracle.local


def test_p1_a_removed_layer_is_fetched_again(
    oracle: Oracle, daemon: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    """The layer's blob is missing, but its snapshot exists."""
    graph = shapes.single()
    layer = graph.document()["layers"][0]["digest"]
    reference = publish.push(graph, registry, repository)
    assert ctr_pull(daemon, oracle, namespace, reference) == 0
    daemon.ctr("content", "rm", layer, namespace=namespace)
    assert [str(one.digest) for one in pull(daemon, namespace, reference).fetched] == [layer]
    assert layer in digests(daemon, namespace)


def test_p2_layers_of_an_unknown_config_type_are_kept(
    oracle: Oracle, daemon: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    """For example a wasm module."""
    graph = shapes.wasm()
    reference = publish.push(graph, registry, repository)
    assert pull(daemon, f"{namespace}-ours", reference).unpacked == ()
    assert set(graph.blobs) == digests(daemon, f"{namespace}-ours")
    exit_code = ctr_pull(daemon, oracle, f"{namespace}-ctr", reference)
    kept = set(graph.blobs) == digests(daemon, f"{namespace}-ctr")
    assert (exit_code == 0, kept) != (True, True), "ctr has the same result: update docs/differences.md"


def test_p4_labels_of_other_tools_are_kept(
    oracle: Oracle, daemon: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    reference = publish.push(shapes.single(), registry, repository)
    pull(daemon, namespace, reference, PullOptions(labels={"mine": "old"}))
    label = "io.cri-containerd.image=managed"
    daemon.ctr("images", "label", reference, label, namespace=namespace)
    pull(daemon, namespace, reference, PullOptions(labels={"mine": "new"}))
    expected = {"io.cri-containerd.image": "managed", "mine": "new"}
    assert snapshot_of(daemon, namespace)["images"][reference]["labels"] == expected
    assert ctr_pull(daemon, oracle, namespace, reference) == 0
    assert snapshot_of(daemon, namespace)["images"][reference]["labels"] == {}


@pytest.mark.parametrize(
    ("graph", "options", "named"),
    [
        (lambda: shapes.multi(["linux/arm64"]), PullOptions(), "linux/arm64"),
        (lambda: shapes.multi(["linux/386"]), PullOptions(), "linux/386"),
        (lambda: images.index([]), PullOptions(), "no platform at all"),
        (shapes.mixed, PullOptions(platforms=select(["linux/amd64", "linux/mips64le"])), "linux/arm/v7"),
        (shapes.mixed, PullOptions(platforms=select(["linux/mips"]), metadata="selected"), "linux/arm64"),
    ],
    ids=["arm64-only", "386-only", "empty-index", "one-of-two", "selected"],
)
def test_p5_a_platform_that_the_image_lacks(
    graph: Callable[[], Graph],
    options: PullOptions,
    named: str,
    oracle: Oracle,
    daemon: Containerd,
    registry: Registry,
    repository: str,
    namespace: str,
) -> None:
    """The error lists the available platforms, and nothing is left."""
    reference = publish.push(graph(), registry, repository)
    with pytest.raises(NoMatchingPlatform, match="no match for platform in manifest") as caught:
        pull(daemon, namespace, reference, options)
    assert caught.value.exit_code == 3
    assert named in str(caught.value.hint)
    assert_nothing_left(state(daemon, namespace))


def test_p7_children_without_a_platform(
    oracle: Oracle, daemon: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    """All children are fetched and the one for the host is unpacked; ctr 2.x unpacks both."""
    reference = publish.push(shapes.without_platforms(), registry, repository)
    assert pull(daemon, f"{namespace}-ours", reference).unpacked == (parse_platform("linux/amd64"),)
    assert ctr_pull(daemon, oracle, f"{namespace}-ctr", reference) == 0
    ours, theirs = (state(daemon, f"{namespace}-{name}") for name in ("ours", "ctr"))
    assert set(ours["content"]) == set(theirs["content"])
    assert ours["images"] == theirs["images"]
    assert (tree(ours) == tree(theirs)) == oracle.local


def test_p7_the_config_decides_for_a_single_child_without_a_platform(
    daemon: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    """An image for arm64 is not unpacked on amd64, whether the index or only the config has the platform."""
    reference = publish.push(images.index([shapes.single("linux/arm64")]), registry, repository)
    assert pull(daemon, namespace, reference).unpacked == ()
    assert tree(state(daemon, namespace)) == {}


def test_content_of_another_namespace_is_shared(
    containerd: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    """With content sharing on (the default) nothing is downloaded twice: one HEAD, no GET."""
    reference = publish.push(shapes.mixed(), registry, repository)
    pull(containerd, f"{namespace}-a", reference)
    registry.clear_requests()
    pull(containerd, f"{namespace}-b", reference)
    assert [one.method for one in registry.requests()] == ["HEAD"]
    assert digests(containerd, f"{namespace}-a") == digests(containerd, f"{namespace}-b")


def test_max_concurrent_downloads_is_respected(
    oracle: Oracle, daemon: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    graph = shapes.single(layers=6)
    reference = publish.push(graph, registry, repository)
    stalls = [
        registry.add_fault(Fault(f"blobs/{layer_of(graph, number)}", stall_after=10)) for number in range(6)
    ]
    worker = threading.Thread(target=pull, args=(daemon, namespace, reference, PullOptions(concurrency=2)))
    worker.start()
    for stall in _in_order_of_stalling(stalls):
        assert sum(one.stalled.is_set() and not one.release.is_set() for one in stalls) <= 2
        stall.release.set()
    worker.join(60)
    assert set(graph.blobs) == digests(daemon, namespace)


def _in_order_of_stalling(stalls: Sequence[Fault]) -> Iterator[Fault]:
    for stall in stalls:
        assert stall.stalled.wait(30)
        yield stall


def test_a_sha512_layer_is_pulled_if_containerd_supports_it(
    oracle: Oracle, daemon: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    graph = sha512(repository)
    reference = publish.push(graph, registry, repository)
    if oracle.generation not in ("2.3", "2.4"):
        with pytest.raises(RegistryContentError) as caught:
            pull(daemon, namespace, reference)
        assert "this containerd only supports sha256" in (caught.value.hint or "")
        return
    pull(daemon, f"{namespace}-ours", reference)
    assert ctr_pull(daemon, oracle, f"{namespace}-ctr", reference) == 0
    assert_equal(*(state(daemon, f"{namespace}-{name}") for name in ("ours", "ctr")))
