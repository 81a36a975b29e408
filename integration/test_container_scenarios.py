"""containerd in a container, of every generation: the same scenarios, compared with the same ctr.

pyctrd runs outside with a bind-mounted socket; ctr exports inside, with `docker exec`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from integration.bench import Bench
from integration.pulls import assert_equal, ctr_pull, pull, state
from integration.rig.contained import ContainerdInDocker
from integration.rig.daemons import Dockerd, Registry
from integration.rig.publish import push
from integration.rig.store import collect_garbage, digests, snapshot_of
from integration.scenarios import ORACLES, SCENARIOS, Scenario
from integration.test_ensure import layers_of
from integration.test_save import same
from tests.support import shapes

pytestmark = pytest.mark.two_generations

ARM64 = "linux/arm64"


@pytest.fixture
def workbench(
    contained: ContainerdInDocker, registry: Registry, tmp_path: Path, namespace: str, repository: str
) -> Bench:
    return Bench(contained, registry, tmp_path, namespace=namespace, repository=repository)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_pull_leaves_what_ctr_leaves(
    scenario: Scenario, contained: ContainerdInDocker, registry: Registry, namespace: str
) -> None:
    oracle = next(one for one in ORACLES if one.generation == contained.generation)
    reference = push(scenario.graph(), registry, f"contained/{scenario.name}")
    pull(contained, f"{namespace}-ours", reference, scenario.options(oracle, "all"))
    exit_code = ctr_pull(contained, oracle, f"{namespace}-ctr", reference, *scenario.ctr_flags())
    ours, theirs = (state(contained, f"{namespace}-{name}") for name in ("ours", "ctr"))
    if str(oracle) in scenario.not_on:
        assert exit_code or ours["content"] != theirs["content"], scenario.not_on
        return
    assert exit_code == 0
    assert_equal(ours, theirs)


def exported_inside(bench: Bench, dockerd: Dockerd, name: str, platforms: Sequence[str]) -> bytes:
    """Export an image with the container's own ctr; the archive is in the bind mount."""
    daemon = bench.containerd
    assert isinstance(daemon, ContainerdInDocker)
    archive = daemon.root / "export.tar"
    ctr: list[str | Path] = ["ctr", "--address", daemon.address, "--namespace", bench.namespace]
    local = [] if bench.is_old else ["--local"]
    chosen = [word for platform in platforms for word in ("--platform", platform)]
    dockerd.docker("exec", daemon.container, *ctr, "images", "export", *local, *chosen, archive, name)
    try:
        return archive.read_bytes()
    finally:
        archive.unlink()


@pytest.mark.parametrize("platforms", [[], [ARM64], ["linux/s390x", "linux/amd64"]], ids=str)
def test_save_equals_the_export_of_ctr_in_the_container(
    workbench: Bench, dockerd: Dockerd, platforms: Sequence[str]
) -> None:
    name = workbench.pull_all(shapes.five_platform())
    before = snapshot_of(workbench.containerd, workbench.namespace)
    ours = workbench.save(name, platforms=platforms)
    assert snapshot_of(workbench.containerd, workbench.namespace) == before
    same(workbench, ours, exported_inside(workbench, dockerd, name, platforms))


def test_ensure_fetches_only_missing_content(workbench: Bench) -> None:
    graph = shapes.five_platform(layers=2)
    name = workbench.pull(graph)
    workbench.registry.clear_requests()
    with workbench.client() as client:
        fetched = client.images.ensure(name, platforms=[ARM64]).fetched
        assert {str(one.digest) for one in fetched} == layers_of(graph.child(1))
        assert workbench.registry.fetched() == layers_of(graph.child(1))
        collect_garbage(workbench.containerd, workbench.namespace)
        workbench.registry.clear_requests()
        assert client.images.ensure(name, platforms=[ARM64]).fetched == ()
    assert workbench.registry.requests() == []
    assert layers_of(graph.child(1)) <= digests(workbench.containerd, workbench.namespace)


def test_diagnose_reports_what_is_stored(workbench: Bench) -> None:
    graph = shapes.five_platform(layers=2)
    name = workbench.pull(graph)
    workbench.registry.clear_requests()
    with workbench.client() as client:
        found = client.images.diagnose(name)
        assert [row.complete for row in found.platforms] == [True, False, False, False, False]
        missing = client.images.diagnose(name, platforms=[ARM64])
        assert not missing.complete
        assert {str(one.digest) for one in missing.platforms[1].missing} == layers_of(graph.child(1))
    assert workbench.registry.requests() == []
