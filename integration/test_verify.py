"""verify on damaged stores: damage on disk is found, and repaired from the registry."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from integration.bench import Bench
from integration.conftest import peer_required
from integration.rig.daemons import ISOLATED_CONTENT, Containerd, Registry
from integration.rig.store import collect_garbage, snapshot_of
from integration.shell import Shell
from integration.spoiling import altered, blob_file, spoil, truncated
from pyctrd.containerd import Daemon
from pyctrd.oci.model import ImageRecord
from pyctrd.oci.platforms import Selection
from pyctrd.oci.reference import parse
from pyctrd.operations.verify import Repair, VerifyResult, verify
from pyctrd.ports import Fetcher, Store
from pyctrd.registry import RegistryClient
from tests.support import shapes
from tests.support.images import Graph

pytestmark = pytest.mark.every_generation


def run(
    bench: Bench, names: Sequence[str], repairing: Repair | None = None, *, orphans: bool = False
) -> VerifyResult:
    with bench.daemon() as daemon:
        images = [daemon.images.get(name) for name in names]
        return verify(daemon, images, Selection(), repairing=repairing, orphans=orphans)


@pytest.fixture
def registries() -> Iterator[Callable[[ImageRecord], Sequence[Fetcher]]]:
    with RegistryClient() as client:
        yield lambda image: [client.remote(parse(image.name))]


def digest_of(graph: Graph, part: str) -> str:
    child = graph.child(0)
    document = child.document()
    found = {
        "index": graph.digest,
        "manifest": child.digest,
        "config": document["config"]["digest"],
        "layer": document["layers"][1]["digest"],
    }
    return str(found[part])


PARTS = ["index", "manifest", "config", "layer"]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(("how", "fault"), [(altered, "corrupt"), (truncated, "truncated")])
def test_damage_on_disk_is_found_and_repaired(
    bench: Bench,
    registries: Callable[[ImageRecord], Sequence[Fetcher]],
    part: str,
    how: Callable[[bytes], bytes],
    fault: str,
) -> None:
    graph = shapes.five_platform(layers=2, salt=bench.namespace)
    name = bench.pull(graph)
    collect_garbage(bench.containerd, bench.namespace)
    before = snapshot_of(bench.containerd, bench.namespace)
    assert run(bench, [name]).findings == ()
    spoil(bench.containerd, digest_of(graph, part), how)
    (found,) = run(bench, [name]).findings
    assert (found.digest, found.fault, found.images) == (digest_of(graph, part), fault, (name,))
    bench.registry.clear_requests()
    repaired = run(bench, [name], Repair(fetchers=registries))
    assert repaired.ok
    assert [item.digest for item in repaired.findings] == [found.digest]
    assert bench.registry.fetched() == {found.digest}
    assert run(bench, [name]).findings == ()
    collect_garbage(bench.containerd, bench.namespace)
    assert snapshot_of(bench.containerd, bench.namespace) == before


def test_a_missing_file_is_restored(
    bench: Bench, registries: Callable[[ImageRecord], Sequence[Fetcher]]
) -> None:
    graph = shapes.five_platform(layers=2, salt=bench.namespace)
    name = bench.pull(graph)
    blob_file(bench.containerd, digest_of(graph, "layer")).unlink()
    (found,) = run(bench, [name]).findings
    assert found.fault == "unreadable"
    assert run(bench, [name], Repair(fetchers=registries)).ok
    assert run(bench, [name]).findings == ()


def test_only_missing_content_of_the_target_platform_is_reported(
    bench: Bench, registries: Callable[[ImageRecord], Sequence[Fetcher]]
) -> None:
    graph = shapes.five_platform(layers=2, salt=bench.namespace)
    name = bench.pull(graph)
    bench.ctr("content", "rm", digest_of(graph, "layer"))
    (found,) = run(bench, [name]).findings
    assert (found.digest, found.fault) == (digest_of(graph, "layer"), "missing")
    assert run(bench, [name], Repair(fetchers=registries)).ok
    assert run(bench, [name]).findings == ()


@pytest.mark.parametrize("part", PARTS)
def test_without_a_good_copy_nothing_is_changed(
    bench: Bench, registries: Callable[[ImageRecord], Sequence[Fetcher]], part: str
) -> None:
    graph = shapes.five_platform(layers=2, salt=bench.namespace)
    name = bench.pull(graph)
    spoil(bench.containerd, digest_of(graph, part), altered)
    # The registry has the same damage.
    (file,) = bench.registry.root.rglob(f"{digest_of(graph, part).partition(':')[2]}/data")
    file.write_bytes(altered(file.read_bytes()))
    collect_garbage(bench.containerd, bench.namespace)
    before = snapshot_of(bench.containerd, bench.namespace)
    result = run(bench, [name], Repair(fetchers=registries))
    assert not result.ok
    assert "not repaired" in result.findings[0].detail
    collect_garbage(bench.containerd, bench.namespace)
    assert snapshot_of(bench.containerd, bench.namespace) == before


@pytest.mark.parametrize("isolated", [False, True], ids=["shared", "isolated"])
def test_a_blob_is_repaired_in_every_namespace(
    generation: str,
    isolated: bool,
    tmp_path: Path,
    registry: Registry,
    repository: str,
    registries: Callable[[ImageRecord], Sequence[Fetcher]],
) -> None:
    with peer_required():
        containerd = Containerd(generation, tmp_path / "c", ISOLATED_CONTENT if isolated else "")
    with containerd:
        benches = [
            Bench(containerd, registry, tmp_path, namespace=name, repository=f"{repository}/{name}")
            for name in ("first", "second")
        ]
        graph = shapes.five_platform(layers=2)
        names = [bench.pull(graph) for bench in benches]
        for bench in benches:
            collect_garbage(containerd, bench.namespace)
        before = [snapshot_of(containerd, bench.namespace) for bench in benches]
        spoil(containerd, digest_of(graph, "manifest"), altered)
        with Daemon.connect(str(containerd.address), "second") as other:
            others: Sequence[Store] = [other]
            assert run(benches[0], names[:1], Repair(fetchers=registries, others=others)).ok
        for bench, name in zip(benches, names, strict=True):
            assert run(bench, [name]).findings == ()
            collect_garbage(containerd, bench.namespace)
        assert [snapshot_of(containerd, bench.namespace) for bench in benches] == before


def test_unreferenced_blobs_are_hashed_on_request(bench: Bench) -> None:
    graph = shapes.single(salt=bench.namespace)
    name = bench.pull(graph)
    digest = str(graph.document()["config"]["digest"])
    spoil(bench.containerd, digest, altered)
    assert [item.digest for item in run(bench, [], orphans=True).findings] == [digest]
    both = run(bench, [name], orphans=True)
    assert [(item.digest, item.images) for item in both.findings] == [(digest, (name,))]


def test_a_record_whose_target_is_missing(bench: Bench) -> None:
    graph = shapes.single(salt=bench.namespace)
    name = bench.pull(graph)
    bench.ctr("content", "rm", graph.digest)
    (found,) = run(bench, [name]).findings
    assert (found.digest, found.fault) == (graph.digest, "missing")


def test_the_command_reports_and_repairs(
    containerd: Containerd, registry: Registry, repository: str, namespace: str, tmp_path: Path
) -> None:
    bench = Bench(containerd, registry, tmp_path, namespace=namespace, repository=repository)
    shell = Shell(containerd, namespace, tmp_path)
    graph = shapes.five_platform(layers=2, salt=namespace)
    name = bench.pull(graph)
    assert "no problems found" in shell("verify").stdout.decode()
    layer = digest_of(graph, "layer")
    spoil(containerd, layer, altered)
    told = shell("verify", name, code=4).stdout.decode()
    assert layer in told
    assert f"verify --repair {name}" in told
    (found,) = shell.json("verify", code=4)["findings"]
    assert (found["digest"], found["fault"], found["repaired"]) == (layer, "corrupt", False)
    repaired = shell.json("verify", "--repair", name)
    assert [item["repaired"] for item in repaired["findings"]] == [True]
    shell("verify", "-q")


@pytest.mark.parametrize("how", [altered, truncated, None], ids=["altered", "truncated", "gone"])
@pytest.mark.parametrize("part", PARTS)
def test_commands_that_read_damaged_content_print_the_repair_command(
    bench: Bench, part: str, how: Callable[[bytes], bytes] | None
) -> None:
    shell = Shell(bench.containerd, bench.namespace, bench.folder)
    graph = shapes.five_platform(layers=2, salt=bench.namespace)
    name = bench.pull(graph)
    digest = digest_of(graph, part)
    if how is None:
        blob_file(bench.containerd, digest).unlink()
    else:
        spoil(bench.containerd, digest, how)
    documents = part in ("index", "manifest")
    for command in (["save", "--offline", "-o", "image.tar"], *([["diagnose"]] if documents else [])):
        told = shell(*command, name, code=1).stderr.decode()
        assert digest.partition(":")[2] in told
        assert " verify --repair " in told
    assert not list(bench.folder.glob("*image.tar*"))
