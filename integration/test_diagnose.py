"""Diagnoses of real stores: predictions match what ctr then does, and nothing is changed.

Missing content is caused by the tools that cause it in practice.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from itertools import count
from pathlib import Path
from subprocess import CompletedProcess

import msgspec
import pytest

from integration.conftest import peer_required
from integration.rig import peers
from integration.rig.daemons import Containerd, Registry
from integration.rig.publish import push
from integration.rig.store import collect_garbage, prune_references, snapshot_of
from pyctrd import Client, RegistryOptions
from pyctrd.containerd import Daemon
from pyctrd.oci.platforms import select
from pyctrd.operations.diagnose import Diagnosis, diagnose
from tests.support import shapes
from tests.support.images import Graph, index

pytestmark = pytest.mark.every_generation


class Bench:
    """A namespace of a real containerd, filled by its own ctr and diagnosed."""

    def __init__(
        self, containerd: Containerd, registry: Registry, folder: Path, *, namespace: str, repository: str
    ) -> None:
        self.containerd = containerd
        self.registry = registry
        self.folder = folder
        self.namespace = namespace
        self.repository = repository
        self._pulls = count()
        self.is_old = containerd.is_1

    def ctr(self, *arguments: str | Path, check: bool = True) -> CompletedProcess[bytes]:
        return self.containerd.ctr(*arguments, namespace=self.namespace, check=check)

    def pull(self, graph: Graph, *flags: str, check: bool = True) -> str:
        """Publish the graph under a new name and pull it with ctr; return the image's name."""
        name = push(graph, self.registry, f"{self.repository}/{next(self._pulls)}")
        self.ctr("images", "pull", "--plain-http", *flags, name, check=check)
        return name

    def pull_like_2x(self, graph: Graph, *flags: str) -> str:
        """Pull with every platform's metadata, the default from containerd 2.0 on."""
        return self.pull(graph, *(["--all-metadata"] if self.is_old else []), *flags)

    def remove(self, digest: str) -> None:
        """Remove content with ctr and collect garbage, which removes what only that referred to."""
        self.ctr("content", "rm", digest)
        collect_garbage(self.containerd, self.namespace)

    def look(self, name: str, *values: str) -> Diagnosis:
        """Diagnose, and check that nothing was changed and no request was sent."""
        before = snapshot_of(self.containerd, self.namespace)
        self.registry.clear_requests()
        with self.daemon() as daemon:
            found = diagnose(
                daemon,
                daemon.images.get(name),
                select(values),
                transfer=daemon.introspection.has_transfer(),
                version=daemon.version().version,
            )
        assert self.registry.requests() == []
        assert snapshot_of(self.containerd, self.namespace) == before
        return found

    def daemon(self, namespace: str = "") -> Daemon:
        return Daemon.connect(str(self.containerd.address), namespace or self.namespace)

    def export(self, name: str, *values: str) -> list[CompletedProcess[bytes]]:
        """Export with ctr; since 2.0 both locally and through the transfer service."""
        flags = [word for value in values for word in ("--platform", value)]
        flags = ["--all-platforms"] if values == ("all",) else flags
        ways = [[]] if self.is_old else [["--local"], []]
        archive = self.folder / "out.tar"
        return [self.ctr("images", "export", *way, *flags, archive, name, check=False) for way in ways]

    def check_prediction(self, name: str, *values: str) -> Diagnosis:
        """Diagnose, then export with ctr: its exit code and error must be those predicted."""
        found = self.look(name, *values)
        forecast = found.tools.ctr_export
        assert forecast.ok == (forecast.exit_code == 0)
        for real in self.export(name, *values):
            words = real.stderr.decode()
            assert real.returncode == forecast.exit_code, (forecast, words)
            # 1.6 and 1.7 put `invalid manifest "<digest>": ` into errors about manifest.json.
            assert forecast.error in re.sub(r'invalid manifest "\S+": ', "", words)
        return found


@pytest.fixture
def bench(
    containerd: Containerd, registry: Registry, tmp_path: Path, namespace: str, repository: str
) -> Bench:
    return Bench(containerd, registry, tmp_path, namespace=namespace, repository=repository)


def codes(found: Diagnosis) -> set[str]:
    return {cause.code for cause in found.causes}


def layers_of(graph: Graph) -> list[str]:
    return [item["digest"] for item in graph.document()["layers"]]


# --- what ctr would do ------------------------------------------------------------------------------------

AMD64, ARM64 = "linux/amd64", "linux/arm64"
FORECASTS = {
    "2.0.3": "nerdctl_save_2_0_3",
    "2.0.4": "nerdctl_save_2_0_4",
    "2.2.2": "nerdctl_save_2_1_4",
    "2.3.5": "nerdctl_save_2_3_0",
}
TARGETS = [[], [AMD64], [ARM64], [ARM64, AMD64], ["all"], ["linux/riscv64"]]
SHAPES: dict[str, Callable[[], Graph]] = {
    "single": lambda: shapes.single(salt="d"),
    "five": lambda: shapes.five_platform(salt="d"),
    "mixed": lambda: shapes.mixed(salt="d"),
    "nested": lambda: shapes.nested(salt="d"),
    "nested next to amd64": lambda: index([shapes.multi([AMD64]).child(0), shapes.multi([ARM64])]),
    "without platforms": lambda: shapes.without_platforms(salt="d"),
    "shared": lambda: shapes.shared_layers(salt="d"),
    "arm64 only": lambda: shapes.multi(["linux/arm64"], salt="d"),
}


@pytest.mark.parametrize("metadata", ["default", "all"])
@pytest.mark.parametrize("shape", SHAPES)
def test_ctr_export_ends_as_predicted(bench: Bench, shape: str, metadata: str) -> None:
    flags = ["--all-metadata"] if metadata == "all" else []
    # A pull of 1.x fails if it has nothing to unpack, but keeps the record.
    name = bench.pull(SHAPES[shape](), *flags, check=False)
    for values in TARGETS:
        bench.check_prediction(name, *values)


@pytest.mark.parametrize("shape", ["single", "five", "nested next to amd64"])
def test_ctr_export_without_the_target_ends_as_predicted(bench: Bench, shape: str) -> None:
    graph = SHAPES[shape]()
    name = bench.pull_like_2x(graph)
    bench.remove(graph.digest)
    found = bench.look(name)
    forecast = found.tools.ctr_export
    assert codes(found) == {"target_gone"}
    assert not forecast.ok
    assert not found.complete
    for real in bench.export(name):
        assert real.returncode == forecast.exit_code == (1 if bench.containerd.generation == "1.6" else 0)
        assert not real.returncode or forecast.error in real.stderr.decode()


@pytest.mark.parametrize("part", ["manifest", "config", "first layer", "last layer"])
def test_ctr_export_without_some_content_ends_as_predicted(bench: Bench, part: str) -> None:
    graph = shapes.multi(["linux/amd64", "linux/arm64"], 3, salt=part)
    native = graph.child(0)
    name = bench.pull_like_2x(graph)
    document = native.document()
    digest = {
        "manifest": native.digest,
        "config": document["config"]["digest"],
        "first layer": document["layers"][0]["digest"],
        "last layer": document["layers"][2]["digest"],
    }[part]
    bench.remove(digest)
    found = bench.check_prediction(name)
    assert not found.complete
    assert not found.tools.ctr_export.ok
    assert found.platforms[0].missing[0].digest == digest
    assert found.tools.pyctrd_save.fetch == (digest,)


@pytest.mark.parametrize("version", peers.NERDCTL_VERSIONS)
@pytest.mark.parametrize("values", [[], [ARM64], ["all"]], ids=["host", "arm64", "all"])
def test_nerdctl_save_ends_as_predicted(bench: Bench, version: str, values: list[str]) -> None:
    with peer_required():
        program = peers.nerdctl(version)
    graph = shapes.five_platform(layers=2, salt=f"{version}{values}")
    name = bench.pull_like_2x(graph)
    tools = bench.look(name, *values).tools
    forecast = getattr(tools, FORECASTS[version])
    everywhere: list[str | Path] = ["--address", bench.containerd.address, "--namespace", bench.namespace]
    everywhere += ["--data-root", bench.folder / "nerdctl", "--insecure-registry"]
    flags = ["--all-platforms"] if values == ["all"] else [f"--platform={value}" for value in values]
    command: list[str | Path] = [program, *everywhere, "save", "-o", bench.folder / "out.tar", *flags, name]
    real = subprocess.run(command, capture_output=True, check=False, timeout=100)
    assert (real.returncode == 0) == forecast.ok, real.stderr
    layers = {digest for position in range(5) for digest in layers_of(graph.child(position))}
    assert bench.registry.fetched() & layers == set(forecast.fetch)
    assert bool(bench.registry.requests()) == forecast.network


# --- why something is missing -----------------------------------------------------------------------------


def test_after_a_pull_other_platforms_were_never_pulled(bench: Bench) -> None:
    graph = shapes.mixed(salt="plain")
    found = bench.check_prediction(bench.pull(graph))
    assert found.complete
    assert codes(found) == {"never_pulled"}
    native, *foreign = found.platforms
    assert (native.platform, native.complete, native.unpacked) == ("linux/amd64", True, True)
    assert [row.manifest for row in foreign] == [not bench.is_old] * 4
    assert [row.unpacked for row in foreign] == [False] * 4
    assert foreign[-1].attestation_for == "linux/amd64"
    old = found.tools.nerdctl_save_2_0_3
    assert (len(old.fetch) > 0) == old.network == (not bench.is_old)
    assert found.tools.nerdctl_save_2_0_4.fetch == found.tools.pyctrd_save.fetch == ()


def test_old_nerdctl_would_fetch_the_four_other_platforms(bench: Bench) -> None:
    graph = shapes.five_platform(layers=2, salt="old")
    found = bench.check_prediction(bench.pull_like_2x(graph))
    foreign = {digest for position in range(1, 5) for digest in layers_of(graph.child(position))}
    assert set(found.tools.nerdctl_save_2_0_3.fetch) == foreign
    assert found.tools.nerdctl_save_2_0_3.bytes == sum(len(graph.blobs[digest]) for digest in foreign)


def test_removed_layers_are_distinguished_from_skipped_ones(bench: Bench) -> None:
    graph = shapes.single(layers=3, salt="removed")
    name = bench.pull(graph)
    top = layers_of(graph)[2]
    bench.remove(top)
    found = bench.check_prediction(name)
    assert codes(found) == {"content_removed"}
    assert found.causes[0].missing == (top,)


def test_discarded_layers_of_a_kubelet_image(bench: Bench) -> None:
    graph = shapes.single(layers=2, salt="discarded")
    name = bench.pull(graph)
    bench.ctr("images", "label", name, "io.cri-containerd.image=managed")
    # What the CRI plugin does with discard_unpacked_layers: no labels for layers, then a collection.
    prune_references(bench.containerd, bench.namespace)
    found = bench.check_prediction(name)
    assert codes(found) == {"discarded_after_unpack"}
    assert set(found.causes[0].missing) == set(layers_of(graph))
    assert found.platforms[0].unpacked


def test_pruned_references_lose_the_layers(bench: Bench) -> None:
    graph = shapes.single(layers=2, salt="pruned")
    name = bench.pull(graph)
    prune_references(bench.containerd, bench.namespace)
    found = bench.check_prediction(name)
    assert codes(found) == {"gc_label_lost"}
    assert set(found.causes[0].missing) == set(layers_of(graph))


def test_pruned_references_lose_the_second_nested_index(bench: Bench) -> None:
    graph = index([shapes.multi(["linux/amd64"], salt="n1"), shapes.multi(["linux/amd64"], salt="n2")])
    name = bench.pull(graph)
    prune_references(bench.containerd, bench.namespace)
    found = bench.check_prediction(name)
    second = graph.child(1).digest
    assert [item.digest for item in found.unread] == [second]
    assert {"index_gone", "gc_label_lost"} <= codes(found)
    gone = next(cause for cause in found.causes if cause.code == "index_gone")
    assert gone.evidence[1] == f"index {graph.digest} does not have containerd.io/gc.ref.content.1"


def test_layers_with_existing_snapshots_are_skipped_by_ctr_2x(bench: Bench) -> None:
    plain, packed = shapes.recompressed("", salt="skip"), shapes.recompressed("gzip", salt="skip")
    bench.pull(plain)
    found = bench.check_prediction(bench.pull(packed))
    if bench.is_old:
        assert found.complete
        assert codes(found) == set()
        return
    assert not found.complete
    assert codes(found) == {"skipped_snapshot_existed"}
    cause = found.causes[0]
    assert set(cause.missing) == set(layers_of(packed))
    assert any("compressed differently" in line for line in cause.evidence)


def test_a_second_pull_by_ctr_2x_skips_a_removed_layer(bench: Bench) -> None:
    graph = shapes.single(layers=2, salt="again")
    name = bench.pull(graph)
    bench.remove(layers_of(graph)[0])
    bench.ctr("images", "pull", "--plain-http", name)
    found = bench.check_prediction(name)
    assert found.complete == bench.is_old
    assert codes(found) == (set() if bench.is_old else {"skipped_snapshot_existed"})


def test_an_import_by_ctr_1x_skips_other_platforms(bench: Bench) -> None:
    graph = shapes.multi(["linux/arm64", "linux/amd64"], salt="import")
    name = bench.pull(graph, "--all-platforms")
    archive = bench.folder / "all.tar"
    bench.ctr("images", "export", *([] if bench.is_old else ["--local"]), "--all-platforms", archive, name)
    bench.namespace = f"{bench.namespace}x"
    local = [] if bench.is_old else ["--local"]
    bench.ctr("images", "import", *local, "--platform", "linux/amd64", archive)
    collect_garbage(bench.containerd, bench.namespace)
    found = bench.check_prediction(name)
    assert found.complete
    assert codes(found) == {"never_imported"}


def test_content_of_another_namespace_is_found(bench: Bench) -> None:
    graph = shapes.single(layers=2, salt="elsewhere")
    name = bench.pull(graph)
    first, bench.namespace = bench.namespace, f"{bench.namespace}x"
    bench.ctr("images", "pull", "--plain-http", name)
    bench.remove(layers_of(graph)[1])
    with bench.daemon() as daemon, bench.daemon(first) as other:
        image = daemon.images.get(name)
        found = diagnose(daemon, image, select([]), others=[other])
    assert codes(found) == {"content_removed", "in_other_namespace"}
    assert found.causes[1].missing == (layers_of(graph)[1],)


def test_isolated_content_is_shared_from_shareable_namespaces_only(
    isolated_containerd: Containerd, registry: Registry, tmp_path: Path, namespace: str, repository: str
) -> None:
    bench = Bench(isolated_containerd, registry, tmp_path, namespace=namespace, repository=repository)
    graph = shapes.single(layers=2, salt="isolated")
    layer = layers_of(graph)[1]
    name = bench.pull(graph)
    first, bench.namespace = bench.namespace, f"{bench.namespace}x"
    bench.ctr("images", "pull", "--plain-http", name)
    bench.remove(layer)
    options = RegistryOptions(plain_http=True)
    with Client(str(isolated_containerd.address), bench.namespace, registry=options) as client:
        assert codes(client.images.diagnose(name)) == {"content_removed"}
        bench.ctr("namespaces", "label", first, "containerd.io/namespace.shareable=true")
        shareable = "in_other_namespace" in codes(client.images.diagnose(name))
        assert shareable == (isolated_containerd.generation != "1.6")
        registry.clear_requests()
        client.images.ensure(name)
        assert (layer not in registry.fetched()) == shareable


def test_a_platform_that_the_image_lacks(bench: Bench) -> None:
    found = bench.check_prediction(bench.pull(shapes.five_platform(salt="lacks")), "linux/riscv64")
    assert not found.complete
    assert codes(found) >= {"no_such_platform"}


def test_an_artifact_is_diagnosed_like_any_image(bench: Bench) -> None:
    name = bench.pull(shapes.artifact(), check=False)
    found = bench.check_prediction(name)
    assert found.complete
    assert [row.kind for row in found.platforms] == ["artifact"]


def test_layers_of_an_unknown_config_type_are_skipped_by_ctr_2x(bench: Bench) -> None:
    graph = shapes.wasm()
    name = bench.pull(graph, check=False)
    found = bench.check_prediction(name)
    assert found.complete == bench.is_old
    assert [item.digest for item in found.platforms[0].missing] == ([] if bench.is_old else layers_of(graph))


def test_json_is_as_documented(bench: Bench) -> None:
    found = bench.look(bench.pull(shapes.mixed(salt="json")))
    document = json.loads(msgspec.json.encode(found))
    assert document["target"]["mediaType"].endswith("index.v1+json")
    assert document["namespace"] == bench.namespace
