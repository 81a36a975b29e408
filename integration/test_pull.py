"""pull leaves what ctr of the same version leaves: content, labels, image record, snapshots.

For deliberate differences, a test shows what ctr and pyctrd do (docs/differences.md).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from integration.conftest import peer_required
from integration.faults.broken import sha512
from integration.rig import publish
from integration.rig.daemons import ISOLATED_CONTENT, Containerd, Fault, Registry
from integration.rig.store import State, collect_garbage, digests, snapshot_of
from integration.scenarios import ORACLES, SCENARIOS, Mode, Oracle, Scenario
from integration.shell import Shell
from pyctrd.containerd import Daemon
from pyctrd.errors import ContentError, NoMatchingPlatform, PyctrdError, RegistryContentError, RegistryError
from pyctrd.oci.model import Digest
from pyctrd.oci.platforms import parse as parse_platform
from pyctrd.oci.platforms import select
from pyctrd.oci.reference import parse
from pyctrd.operations.pull import PullOptions, PullResult
from pyctrd.operations.pull import pull as run_pull
from pyctrd.progress import ProgressSink, no_progress
from pyctrd.registry import RegistryClient, RegistryOptions
from tests.support import images, shapes
from tests.support.images import Graph

pytestmark = pytest.mark.usefixtures("registry")


@pytest.fixture(scope="module", params=ORACLES, ids=str)
def oracle(request: pytest.FixtureRequest) -> Oracle:
    found: Oracle = request.param
    return found


@pytest.fixture(scope="module")
def daemon(oracle: Oracle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    """A containerd in which every namespace has to download its content."""
    with (
        peer_required(),
        Containerd(oracle.generation, tmp_path_factory.mktemp("containerd"), ISOLATED_CONTENT) as started,
    ):
        yield started


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
        # Listed in docs/differences.md: should ctr come to agree one day, the list is out of date.
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
    """T28, on images that are not unpacked: 2.x does not look at layers whose snapshot exists (P1)."""
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


def test_metadata_only_takes_no_layer(
    oracle: Oracle, daemon: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    reference = publish.push(shapes.five_platform(), registry, repository)
    result = pull(daemon, f"{namespace}-ours", reference, PullOptions(metadata_only=True))
    assert result.unpacked == ()
    fetch = ("content", "fetch", "--plain-http", "--metadata-only", reference)
    daemon.ctr(*fetch, namespace=f"{namespace}-ctr")
    assert_equal(state(daemon, f"{namespace}-ours"), state(daemon, f"{namespace}-ctr"))


def test_run_image_that_was_unpacked_is_usable(
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


# --- other than ctr, on purpose (docs/differences.md) -------------------------------------------------------


def test_p1_layer_is_fetched_although_its_snapshot_exists(
    oracle: Oracle, daemon: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    """T22: two images of the same files, compressed in two ways."""
    first = publish.push(shapes.recompressed("gzip"), registry, f"{repository}-1")
    second_graph = shapes.recompressed("")
    second = publish.push(second_graph, registry, f"{repository}-2")
    for reference in (first, second):
        pull(daemon, f"{namespace}-ours", reference)
        ctr_pull(daemon, oracle, f"{namespace}-ctr", reference)
    assert set(second_graph.blobs) <= digests(daemon, f"{namespace}-ours")
    ctr_complete = set(second_graph.blobs) <= digests(daemon, f"{namespace}-ctr")
    assert ctr_complete == oracle.local


def test_p1_removed_layer_comes_back(
    oracle: Oracle, daemon: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    """T23: the layer's blob is gone, its snapshot is not."""
    graph = shapes.single()
    layer = graph.document()["layers"][0]["digest"]
    reference = publish.push(graph, registry, repository)
    assert ctr_pull(daemon, oracle, namespace, reference) == 0
    daemon.ctr("content", "rm", layer, namespace=namespace)
    assert [str(one.digest) for one in pull(daemon, namespace, reference).fetched] == [layer]
    assert layer in digests(daemon, namespace)


def test_p2_layers_of_a_foreign_config_type_are_kept(
    oracle: Oracle, daemon: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    """T26: a wasm module."""
    graph = shapes.wasm()
    reference = publish.push(graph, registry, repository)
    assert pull(daemon, f"{namespace}-ours", reference).unpacked == ()
    assert set(graph.blobs) == digests(daemon, f"{namespace}-ours")
    exit_code = ctr_pull(daemon, oracle, f"{namespace}-ctr", reference)
    kept = set(graph.blobs) == digests(daemon, f"{namespace}-ctr")
    assert (exit_code == 0, kept) != (True, True), "ctr does it right now: update docs/differences.md"


def test_p4_labels_of_other_tools_survive(
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
def test_p5_platform_that_is_not_there(
    graph: object,
    options: PullOptions,
    named: str,
    oracle: Oracle,
    daemon: Containerd,
    registry: Registry,
    repository: str,
    namespace: str,
) -> None:
    """T7-T9: an error that lists the available platforms, and nothing is kept."""
    assert callable(graph)
    reference = publish.push(graph(), registry, repository)
    with pytest.raises(NoMatchingPlatform, match="no match for platform in manifest") as caught:
        pull(daemon, namespace, reference, options)
    assert caught.value.exit_code == 3
    assert named in str(caught.value.hint)
    assert_nothing_left(state(daemon, namespace))


def test_p7_children_without_platform(
    oracle: Oracle, daemon: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    """T10: everything is fetched, the host's is unpacked; 2.x unpacks both."""
    reference = publish.push(shapes.without_platforms(), registry, repository)
    assert pull(daemon, f"{namespace}-ours", reference).unpacked == (parse_platform("linux/amd64"),)
    assert ctr_pull(daemon, oracle, f"{namespace}-ctr", reference) == 0
    ours, theirs = (state(daemon, f"{namespace}-{name}") for name in ("ours", "ctr"))
    assert set(ours["content"]) == set(theirs["content"])
    assert ours["images"] == theirs["images"]
    assert (tree(ours) == tree(theirs)) == oracle.local


def test_p7_an_only_child_without_platform_is_judged_by_its_config(
    daemon: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    """T10: an image for arm64 has no snapshots on amd64, whether its index says so or its config."""
    reference = publish.push(images.index([shapes.single("linux/arm64")]), registry, repository)
    assert pull(daemon, namespace, reference).unpacked == ()
    assert tree(state(daemon, namespace)) == {}


# --- faults -------------------------------------------------------------------------------------------------


def layer_of(graph: Graph, position: int = 0) -> str:
    return str(graph.document()["layers"][position]["digest"])


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ({"corrupt_at": 40}, RegistryContentError, "unexpected commit digest"),
        ({"status": 404}, RegistryError, "could not fetch content descriptor"),
        ({"cut_after": 100, "ignore_range": True}, RegistryError, "short read"),
    ],
    ids=["T21-corrupt", "T18-missing", "T20-cut-without-range"],
)
def test_fault_of_a_layer_leaves_nothing(
    fault: Mapping[str, object],
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
    registry.add_fault(Fault(f"blobs/{layer_of(graph)}", **fault))  # type: ignore[arg-type]
    with pytest.raises(error, match=words) as caught:
        pull(daemon, namespace, reference)
    assert caught.value.exit_code == 5
    registry.clear_faults()
    assert_nothing_left(state(daemon, namespace))
    assert layer_of(graph) in {str(one.digest) for one in pull(daemon, namespace, reference).fetched}


def test_t19_cut_connection_is_resumed(
    oracle: Oracle, daemon: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    graph = shapes.big(4 << 20, layers=1)
    reference = publish.push(graph, registry, repository)
    registry.add_fault(Fault(f"blobs/{layer_of(graph)}", cut_after=1_000_000, times=1))
    pull(daemon, namespace, reference, PullOptions(unpack=False))
    ranges = [one.range for one in registry.requests() if layer_of(graph) in one.path]
    assert ranges == ["", "bytes=1000000-"]
    assert set(graph.blobs) == digests(daemon, namespace)


def test_another_clients_partial_download_is_continued(
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
def test_p3_corrupt_ingest_of_another_client_is_replaced(
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


def leave_ingest(daemon: Containerd, namespace: str, graph: Graph, digest: str, data: bytes) -> None:
    """Start an ingest under the name that every client uses for this layer, and leave it unfinished."""
    with (
        Daemon.connect(str(daemon.address), namespace) as store,
        store.content.open_ingest(
            f"layer-{digest}", digest=Digest(digest), size=len(graph.blobs[digest])
        ) as ingest,
    ):
        ingest.write(data)


def test_a_locked_ingest_whose_client_stands_still_is_an_error(
    containerd: Containerd, registry: Registry, repository: str, namespace: str, tmp_path: Path
) -> None:
    """After the stall timeout, with a hint; when the client is gone, the next pull resumes there."""
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


def test_locked_ingest_is_waited_for(
    oracle: Oracle, daemon: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    """Two pulls of one image at once: every blob is downloaded by one of them only."""
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
    ids=["T15-index-called-manifest", "T16-empty-layer"],
)
def test_broken_documents(
    graph: object,
    words: str,
    oracle: Oracle,
    daemon: Containerd,
    registry: Registry,
    repository: str,
    namespace: str,
) -> None:
    assert callable(graph)
    made: Graph = graph()
    reference = _serve(registry, repository, made)
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


def test_t27_other_namespace_has_it_already(
    containerd: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    """With content sharing on (the default) nothing is downloaded twice: one HEAD, no GET."""
    reference = publish.push(shapes.mixed(), registry, repository)
    pull(containerd, f"{namespace}-a", reference)
    registry.clear_requests()
    pull(containerd, f"{namespace}-b", reference)
    assert [one.method for one in registry.requests()] == ["HEAD"]
    assert digests(containerd, f"{namespace}-a") == digests(containerd, f"{namespace}-b")


def test_max_concurrent_downloads_is_obeyed(
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


def test_a_sha512_layer_is_pulled_where_containerd_keeps_one(
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
