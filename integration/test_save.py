"""Save from real stores: the bytes are those of the same version's ctr, and other tools can read them."""

from __future__ import annotations

import io
import json
import os
import stat
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from integration.bench import Bench
from integration.rig.daemons import Containerd
from integration.rig.publish import push
from integration.rig.store import collect_garbage, snapshot_of
from pyctrd.archive.output import open_output
from pyctrd.errors import NoMatchingPlatform
from pyctrd.oci.errors import IncompleteContent
from pyctrd.oci.model import ImageRecord
from pyctrd.operations.save import SaveResult
from tests.support import images, shapes
from tests.support.images import Graph

pytestmark = pytest.mark.every_generation

AMD64, ARM64 = "linux/amd64", "linux/arm64"


def members(archive: bytes) -> dict[str, bytes]:
    """Read an archive by the standard library; every byte of it must be accounted for."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        found = {item.name: (tar.extractfile(item) or io.BytesIO()).read() for item in tar if item.isfile()}
    assert len(archive) % 512 == 0
    assert archive.endswith(bytes(1024))
    return found


def same(bench: Bench, ours: bytes, theirs: bytes) -> None:
    """Compare byte for byte, except for fields of index.json that 1.6 does not write."""
    if not bench.is_1_6:
        assert members(ours) == members(theirs)
        assert ours == theirs
        return
    mine, other = members(ours), members(theirs)
    index, expected = json.loads(mine.pop("index.json")), json.loads(other.pop("index.json"))
    index.pop("mediaType")
    for entry in index["manifests"]:
        for key in [key for key in entry["annotations"] if key.startswith("containerd.io/distribution")]:
            del entry["annotations"][key]
    assert index == expected
    assert mine == other


SHAPES: dict[str, tuple[Callable[[], Graph], Sequence[str]]] = {
    "single": (shapes.single, []),
    "single docker": (lambda: shapes.single(docker=True), []),
    "single of another platform": (lambda: shapes.single(ARM64), []),
    "five": (shapes.five_platform, []),
    "five, another": (shapes.five_platform, [ARM64]),
    "five, two": (shapes.five_platform, ["linux/s390x", AMD64]),
    "five, all": (shapes.five_platform, ["all"]),
    "mixed": (shapes.mixed, []),
    "mixed, all": (shapes.mixed, ["all"]),
    "without platforms": (shapes.without_platforms, []),
    "shared layers": (shapes.shared_layers, []),
    "compressions": (shapes.compressions, []),
    "artifact": (shapes.artifact, []),
    "wasm": (shapes.wasm, []),
    "inline data": (shapes.inline_data, []),
    "annotated": (lambda: images.index([shapes.mixed().child(0)], annotations={"a": "<&>\u2028é"}), []),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_bytes_equal_those_of_ctr(bench: Bench, shape: str) -> None:
    make, platforms = SHAPES[shape]
    name = bench.pull_all(make())
    before = snapshot_of(bench.containerd, bench.namespace)
    ours = bench.save(name, platforms=platforms)
    assert snapshot_of(bench.containerd, bench.namespace) == before
    same(bench, ours, bench.export(name, platforms=platforms))


def test_names_come_in_the_order_of_the_arguments_and_once(bench: Bench) -> None:
    name = bench.pull(shapes.single(salt="names"))
    for other in ("docker.io/library/foo:latest", "docker.io/team/app:1"):
        bench.ctr("images", "tag", name, other)
    asked = ["docker.io/library/foo:latest", name, "docker.io/team/app:1"]
    ours = bench.save(*asked)
    same(bench, ours, bench.export(*asked))
    (entry,) = json.loads(members(ours)["manifest.json"])
    assert entry["RepoTags"] == ["foo:latest", name, "team/app:1"]
    assert bench.save(*asked, *asked) == ours
    (repeated,) = json.loads(members(bench.export(*asked, *asked))["manifest.json"])
    assert len(repeated["RepoTags"]) == 6, "ctr does it right now: update docs/differences.md"


def test_the_id_that_crictl_prints_is_an_images_too(bench: Bench) -> None:
    graph = shapes.five_platform(salt=bench.namespace)
    name = bench.pull(graph)
    config = graph.child(0).document()["config"]["digest"]
    # The records that containerd's CRI makes of a pull (internal/cri/server/images/image_pull.go).
    for other in (f"{name.rpartition(':')[0]}@{graph.digest}", config):
        bench.ctr("images", "tag", name, other)
    with bench.client() as client:
        for text in (config[7:20], config[:20], config[7:]):
            assert client.images.get(text).name == name
        planned = client.images.save([config[7:20]], dry_run=True)
    assert planned.images == (name,)


def test_a_name_without_a_tag(bench: Bench) -> None:
    bench.ctr("images", "tag", bench.pull(shapes.single(salt="bare")), "bare")
    ours, theirs = members(bench.save("bare")), members(bench.export("bare"))
    assert json.loads(ours["manifest.json"])[0]["RepoTags"] == ["bare:latest"]
    written, ctrs = (
        json.loads(files.pop("index.json"))["manifests"][0]["annotations"] for files in (ours, theirs)
    )
    assert ours == theirs
    ref_name = "org.opencontainers.image.ref.name"
    assert written[ref_name] == "bare"
    assert ctrs[ref_name] == ("bare" if bench.containerd.generation in ("2.3", "2.4") else ""), "S11"


def test_several_images_differ_only_in_the_order_of_manifest_json(bench: Bench) -> None:
    base = shapes.shared_layers(salt="several")
    names = [bench.pull(graph) for graph in (shapes.single(salt="s"), base, shapes.five_platform(salt="s"))]
    ours, theirs = members(bench.save(*names)), members(bench.export(*names))
    order = json.loads(ours.pop("manifest.json"))
    assert [entry["RepoTags"] for entry in order] == [[name] for name in names]
    other = json.loads(theirs.pop("manifest.json"))
    assert sorted(order, key=lambda entry: entry["Config"]) == sorted(
        other, key=lambda entry: entry["Config"]
    )
    if not bench.is_1_6:
        assert ours == theirs


# --- on purpose other than ctr (docs/differences.md) ------------------------------------------------------


def test_tags_survive_an_index_that_holds_their_manifest(bench: Bench) -> None:
    index = shapes.multi([AMD64, ARM64], salt="both")
    single = bench.pull(index.child(0).described_as(platform=None))
    multi = bench.pull(index)
    lost = json.loads(members(bench.export(single, multi))["manifest.json"])
    assert [entry["RepoTags"] for entry in lost] == [[multi]]
    for names in ([single, multi], [multi, single]):
        (entry,) = json.loads(members(bench.save(*names))["manifest.json"])
        assert entry["RepoTags"] == names


def test_a_name_that_is_no_reference_is_only_left_out_for_docker(bench: Bench) -> None:
    name = bench.pull(shapes.single(salt="odd"))
    with bench.daemon() as daemon:
        daemon.images.create(ImageRecord(name="Odd/NAME", target=daemon.images.get(name).target))
    with pytest.raises(AssertionError, match="failed to parse"):
        bench.export("Odd/NAME")
    found = members(bench.save("Odd/NAME"))
    assert json.loads(found["manifest.json"])[0]["RepoTags"] is None
    annotations = json.loads(found["index.json"])["manifests"][0]["annotations"]
    assert annotations["io.containerd.image.name"] == "Odd/NAME"


def test_a_name_with_a_digest_is_only_left_out_for_docker(bench: Bench) -> None:
    graph = shapes.single(salt="pinned")
    name = bench.pull(graph)
    pinned = f"{name}@{graph.digest}"
    bench.ctr("images", "tag", name, pinned)
    ours, theirs = members(bench.save(pinned)), members(bench.export(pinned))
    mine, other = (json.loads(found.pop("manifest.json")) for found in (ours, theirs))
    assert [entry.pop("RepoTags") for entry in mine + other] == [None, [pinned]]
    assert mine == other
    if not bench.is_1_6:
        assert ours == theirs


def test_a_nested_index_alone_can_be_saved_and_loaded(bench: Bench) -> None:
    graph = shapes.nested(salt="alone")
    name = bench.pull_all(graph)
    with pytest.raises(AssertionError, match="invalid checksum digest"):
        bench.export(name)
    archive = bench.save(name)
    other = f"blobs/sha256/{graph.child(0).child(1).digest.partition(':')[2]}"
    assert other not in members(archive)
    bench.load(archive, "--platform", AMD64)


def test_everything_of_an_image_without_the_hosts_platform(bench: Bench) -> None:
    name = bench.pull_all(shapes.multi([ARM64, "linux/s390x"], salt="foreign"))
    with pytest.raises(AssertionError, match="no manifest found for platform"):
        bench.export(name, platforms=["all"])
    with pytest.raises(NoMatchingPlatform, match="no manifest found for platform: not found"):
        bench.save(name)
    assert len(json.loads(members(bench.save(name, platforms=["all"]))["manifest.json"])) == 1
    same(bench, bench.save(name, platforms=[ARM64]), bench.export(name, platforms=[ARM64]))


@pytest.mark.parametrize("part", ["target", "manifest", "config", "layer"])
def test_nothing_is_written_of_an_image_that_lacks_something(bench: Bench, part: str) -> None:
    graph = shapes.multi([AMD64, ARM64], salt=part)
    native = graph.child(0)
    name = bench.pull(graph)
    document = native.document()
    digest = {
        "target": graph.digest,
        "manifest": native.digest,
        "config": document["config"]["digest"],
        "layer": document["layers"][1]["digest"],
    }[part]
    bench.ctr("content", "rm", digest)
    collect_garbage(bench.containerd, bench.namespace)
    output = bench.folder / "image.tar"
    with pytest.raises(IncompleteContent, match=f"content digest {digest}: not found"):
        save_to_file(bench, output, name)
    assert list(bench.folder.glob("*image*")) == list(bench.folder.glob(".*")) == []


def save_to_file(bench: Bench, path: Path, *names: str, **options: Any) -> SaveResult:
    with open_output(path) as output:
        return bench.save_to(output, *names, **options)


@pytest.mark.parametrize("existing", [None, 0o600, 0o666])
def test_an_archive_has_the_rights_that_ctr_gives_it(bench: Bench, existing: int | None) -> None:
    name = bench.pull(shapes.single(salt="rights"))
    ours, theirs = bench.folder / "ours.tar", bench.folder / "theirs.tar"
    before = os.umask(0o027)
    try:
        for path in (ours, theirs):
            if existing is not None:
                path.touch()
                path.chmod(existing)
                os.chown(path, 54321, 54322)
        save_to_file(bench, ours, name)
        bench.ctr("images", "export", theirs, name)
    finally:
        os.umask(before)
    found = [(stat.S_IMODE(item.st_mode), item.st_uid, item.st_gid) for item in (ours.stat(), theirs.stat())]
    assert found[0] == found[1]
    assert found[0][0] == (0o640 if existing is None else existing)


# --- fetching before, by digest ---------------------------------------------------------------------------


def test_only_what_is_missing_is_asked_for(bench: Bench) -> None:
    graph = shapes.five_platform(layers=2, salt="ensure")
    name = bench.pull(graph)
    gone = graph.child(0).document()["layers"][1]["digest"]
    bench.ctr("content", "rm", gone)
    collect_garbage(bench.containerd, bench.namespace)
    bench.registry.clear_requests()
    with bench.client() as client:
        planned = client.images.save([name], dry_run=True)
        assert bench.registry.requests() == []
        result = client.images.save([name], output=bench.folder / "image.tar")
    assert [item.digest for item in planned.fetched] == [item.digest for item in result.fetched] == [gone]
    assert bench.registry.fetched() == {gone}
    same(bench, (bench.folder / "image.tar").read_bytes(), bench.export(name))


# --- the same elsewhere -----------------------------------------------------------------------------------


def test_reproducible_from_two_daemons(bench: Bench, fresh_containerd: Containerd) -> None:
    graph = shapes.five_platform(salt="twice")
    archives = []
    for number, containerd in enumerate((bench.containerd, fresh_containerd)):
        name = push(graph, bench.registry, f"{bench.repository}/{number}")
        containerd.ctr("images", "pull", "--plain-http", name, namespace=bench.namespace)
        containerd.ctr("images", "tag", name, "docker.io/library/same:1", namespace=bench.namespace)
        bench.containerd = containerd
        archives.append(bench.save("docker.io/library/same:1", reproducible=True))
        assert archives[-1] != bench.save("docker.io/library/same:1")
    assert archives[0] == archives[1]


# --- the lease --------------------------------------------------------------------------------------------


class Removing(io.BytesIO):
    """An output that removes the image and collects garbage at the first byte."""

    def __init__(self, remove: Callable[[], object]) -> None:
        super().__init__()
        self._remove = remove

    def write(self, data: Any) -> int:
        if not self.tell():
            self._remove()
        return super().write(data)


def test_the_collector_takes_nothing_from_a_save_under_way(bench: Bench) -> None:
    name = bench.pull(shapes.single(salt="held"))
    expected = bench.save(name)
    output = Removing(lambda: bench.ctr("images", "rm", "--sync", name))
    bench.save_to(output, name)
    assert output.getvalue() == expected
    collect_garbage(bench.containerd, bench.namespace)
    after = snapshot_of(bench.containerd, bench.namespace)
    assert (after["content"], after["leases"], after["ingests"]) == ({}, {}, {})
