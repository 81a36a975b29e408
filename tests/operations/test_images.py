"""Platforms and stored bytes of every image, whatever its shape."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from pyctrd.errors import ImageNotFound, InvalidInput
from pyctrd.oci import mediatypes
from pyctrd.oci.model import Descriptor, Digest, ImageRecord
from pyctrd.oci.platforms import Selection, parse, to_string
from pyctrd.oci.resources import Container
from pyctrd.operations.images import overview
from pyctrd.operations.images.filters import ImageFilters
from pyctrd.operations.images.model import ImageOverview
from tests.operations.diagnose.world import World, diff_id, encode

HOST = Selection(host=parse("linux/amd64"))
NOW = dt.datetime(2026, 11, 4, tzinfo=dt.UTC)


def look(world: World, *targets: Descriptor) -> Sequence[ImageOverview]:
    world.images.records = [ImageRecord(name=f"image-{n:02}", target=item) for n, item in enumerate(targets)]
    return overview([world.containerd], selection=HOST)


def found(item: ImageOverview) -> tuple[list[str], list[str]]:
    return list(map(to_string, item.complete)), list(map(to_string, item.incomplete))


def test_complete_and_incomplete_platforms_and_stored_bytes() -> None:
    world = World()
    amd64, arm64 = world.manifest("linux/amd64", ["a", "b"]), world.manifest("linux/arm64", ["c"])
    target = world.index(amd64, arm64, world.attestation(amd64))
    before = sum(map(len, world.content.blobs.values()))
    (whole,) = look(world, target)
    assert found(whole) == (["linux/amd64", "linux/arm64"], [])
    assert whole.bytes == before
    gone = world.below(arm64)[1][0]
    world.remove(gone)
    (item,) = look(world, target)
    assert found(item) == (["linux/amd64"], ["linux/arm64"])
    assert item.bytes == before - gone.size


@pytest.mark.parametrize("what", ["manifest", "config", "layer", "index"])
def test_absent_content_makes_a_platform_incomplete(what: str) -> None:
    world = World()
    manifest = world.manifest("linux/amd64", ["a"])
    target = world.index(manifest)
    config, (layer,) = world.below(manifest)
    world.remove({"manifest": manifest, "config": config, "layer": layer, "index": target}[what])
    (item,) = look(world, target)
    assert found(item) == ([], [] if what == "index" else ["linux/amd64"])


def test_a_single_manifest_has_the_platform_of_its_config() -> None:
    world = World()
    target = world.manifest("linux/s390x", ["a"])
    plain = Descriptor(media_type=target.media_type, digest=target.digest, size=target.size)
    assert found(look(world, plain)[0]) == (["linux/s390x"], [])
    world.remove(*world.below(target)[1])
    assert found(look(world, plain)[0]) == ([], ["linux/s390x"])
    world.remove(world.below(target)[0])
    assert found(look(world, plain)[0]) == ([], [])


def test_artifacts_and_invalid_documents_have_no_platform() -> None:
    world = World()
    config = world.add("application/vnd.example.config", b"{}")
    artifact = world.document(config, [world.layer("x")])
    signature = world.document(world.add(mediatypes.OCI_CONFIG, b'{"rootfs": {}}'), [world.layer("y")])
    broken = world.add(mediatypes.OCI_INDEX, b'{"manifests": []}')
    world.content.blobs[broken.digest] = b"not json"
    items = look(world, artifact, broken, artifact, signature)
    assert [found(item) for item in items] == [([], [])] * 4
    assert items[0].bytes == items[2].bytes > 0


def test_a_document_of_many_images_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    target = world.index(world.manifest("linux/amd64", ["a"]), world.manifest("linux/arm64", ["b"]))
    reads: list[Digest] = []
    read = world.content.read_all

    def counted(digest: Digest, *, limit: int) -> bytes:
        reads.append(digest)
        return read(digest, limit=limit)

    monkeypatch.setattr(world.content, "read_all", counted)
    assert len(look(world, *[target] * 50)) == 50
    assert len(reads) == 3


def test_bytes_that_images_share() -> None:
    world = World()
    one, other = world.manifest("linux/amd64", ["a", "b"]), world.manifest("linux/amd64", ["a", "c"])
    first, second, again = look(world, one, other, one)
    shared = world.below(one)[1][0].size + (
        world.below(one)[0].size if world.below(one)[0].digest == world.below(other)[0].digest else 0
    )
    assert first.bytes_shared == second.bytes_shared == shared
    assert (again.bytes_own, again.bytes_shared) == (first.bytes_own, first.bytes_shared)
    assert first.bytes_own + second.bytes_own + shared == sum(map(len, world.content.blobs.values()))


def record(name: str, target: Descriptor, day: int = 1, **labels: str) -> ImageRecord:
    created = dt.datetime(2026, 11, day, tzinfo=dt.UTC)
    return ImageRecord(name=name, target=target, created_at=created, labels=labels)


def labelled(world: World, diff: str) -> Descriptor:
    """Store a manifest whose config has labels."""
    document = {
        "os": "linux",
        "architecture": "amd64",
        "config": {"Labels": {"maintainer": "me"}},
        "rootfs": {"type": "layers", "diff_ids": [diff_id(diff)]},
    }
    return world.document(world.add(mediatypes.OCI_CONFIG, encode(document)), [world.layer(diff)])


@pytest.fixture
def listed() -> World:
    """Three images: one with CRI's records and a container, one that is incomplete, one without a tag."""
    world = World()
    app, base = labelled(world, "a"), labelled(world, "b")
    old = world.manifest("linux/amd64", ["c"])
    world.remove(world.below(base)[1][0])
    cri = {"io.cri-containerd.image": "managed"}
    world.images.records = [
        record("docker.io/library/app:2", app, 3, **cri, **{"io.cri-containerd.pinned": "pinned"}),
        record(f"docker.io/library/app@{app.digest}", app, 3, **cri),
        record(str(world.below(app)[0].digest), app, 3, **cri),
        record("registry.example/team/base:1", base, 2, team="one"),
        record(f"registry.example/old@{old.digest}", old, 1, team="two"),
    ]
    world.containers.records = [Container(id="c1", image=str(world.below(app)[0].digest))]
    return world


@pytest.mark.parametrize(
    ("filters", "shown"),
    [
        ((), ["app:2", "base:1", "old"]),
        (("reference=app",), ["app:2"]),
        (("reference=*/team/*",), ["base:1"]),
        (("reference=registry.example/*",), ["old"]),
        (("reference=docker.io/library/app",), ["app:2"]),
        (("reference=*p*",), ["app:2"]),
        (("reference=app:2", "reference=registry.example/team/base"), ["app:2", "base:1"]),
        (("label=team",), ["base:1", "old"]),
        (("label=team=two",), ["old"]),
        (("label=team", "label=io.cri-containerd.image"), []),
        (("label=maintainer",), ["app:2", "base:1"]),
        (("label=maintainer=me", "label=team"), ["base:1"]),
        (("label=maintainer=you",), []),
        (("until=2026-11-02",), ["old"]),
        (("until=36h",), ["base:1", "old"]),
        (("until=2026-11-03T00:00:00Z", "since=registry.example/team/base:1"), []),
        (("until=1793577600",), ["old"]),
        (("dangling=true",), ["old"]),
        (("dangling=false",), ["app:2", "base:1"]),
        (("dangling=true", "dangling=false"), ["app:2", "base:1", "old"]),
        (("before=docker.io/library/app:2",), ["base:1", "old"]),
        (("since=registry.example/team/base:1",), ["app:2"]),
        (("complete=false",), ["base:1"]),
        (("in-use=true",), ["app:2"]),
        (("pinned=1",), ["app:2"]),
        (("in-use=false", "complete=true"), ["old"]),
        (("name~=team", "name==docker.io/library/app:2"), ["app:2", "base:1"]),
        (("name~=example", "complete=true"), ["old"]),
    ],
)
def test_filters(listed: World, filters: Sequence[str], shown: Sequence[str]) -> None:
    items = [
        item for item in overview([listed.containerd], ImageFilters(filters, NOW), HOST) if not item.alias_of
    ]
    assert sorted(item.image.name.rpartition("/")[2].partition("@")[0] for item in items) == shown


@pytest.mark.parametrize(
    "text",
    [
        *("", "app", "size>5", "dangling=perhaps", "in-use=", "is-automated=true", "before", "=x"),
        *("until=", "until=yesterday", "until=99999999999999999999", "until=2026-13-01", "names==x"),
    ],
)
def test_other_filters_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="invalid filter"):
        ImageFilters([text])


def test_before_an_unknown_image(listed: World) -> None:
    with pytest.raises(ImageNotFound, match="not found"):
        overview([listed.containerd], ImageFilters(["before=nothing:1"]))


def test_records_of_cri_stand_for_one_image(listed: World) -> None:
    items = overview([listed.containerd])
    aliases = [item.image.name for item in items if item.alias_of == "docker.io/library/app:2"]
    assert [name.partition("sha256:")[0] for name in aliases] == ["docker.io/library/app@", ""]
    assert [item.image.name for item in items if item.alias_of not in ("", "docker.io/library/app:2")] == []
    assert {item.in_use for item in items if item.image.target == items[0].image.target} == {True}
    assert {item.pinned for item in items if item.image.target == items[0].image.target} == {True}


@pytest.mark.parametrize(
    ("present", "absent", "status"),
    [
        (["linux/amd64", "linux/arm64"], [], "complete"),
        (["linux/amd64"], ["linux/arm64"], "complete"),
        (["linux/arm64"], ["linux/amd64"], "incomplete"),
        (["linux/arm64"], ["linux/s390x"], "complete"),
        ([], ["linux/arm64", "linux/s390x"], "incomplete"),
    ],
)
def test_the_status_is_that_of_the_hosts_platform(present: list[str], absent: list[str], status: str) -> None:
    world = World()
    manifests = {name: world.manifest(name, [name]) for name in (*present, *absent)}
    for name in absent:
        world.remove(world.below(manifests[name])[1][0])
    target = world.index(*manifests.values())
    assert look(world, target)[0].status == status
    world.remove(target)
    assert look(world, target)[0].status == "unavailable"


@pytest.mark.parametrize("gone", ["nothing", "config", "layer"])
def test_the_status_of_an_artifact_is_that_of_its_content(gone: str) -> None:
    world = World()
    config, layer = world.add("application/vnd.example.config", b"{}"), world.layer("x")
    artifact = world.document(config, [layer])
    world.remove(*{"nothing": [], "config": [config], "layer": [layer]}[gone])
    assert look(world, artifact)[0].status == ("complete" if gone == "nothing" else "incomplete")


def test_namespaces_share_documents_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = World("one"), World("other")
    images = [(world, world.manifest("linux/amd64", ["a"])) for world in (one, other)]
    reads: list[Digest] = []
    read = type(one.content).read_all

    def counted(content: Any, digest: Digest, *, limit: int) -> bytes:
        reads.append(digest)
        return read(content, digest, limit=limit)

    monkeypatch.setattr(type(one.content), "read_all", counted)
    for world, target in images:
        plain = msgspec.structs.replace(target, platform=None)
        world.images.records = [record("docker.io/library/app:1", plain)]
    other.remove(other.below(images[1][1])[1][0])
    other.images.records.append(record("docker.io/library/later:1", other.images.records[0].target, 2))
    items = overview([one.containerd, other.containerd], selection=HOST)
    assert [(item.namespace, item.name.rpartition("/")[2], item.status) for item in items] == [
        *(("one", "app:1", "complete"), ("other", "app:1", "incomplete"), ("other", "later:1", "incomplete"))
    ]
    assert [item.bytes_shared for item in items] == [0, 0, 0]
    assert len(reads) == len(set(reads)) == 2
    since = overview([one.containerd, other.containerd], ImageFilters(["before=later:1"]), HOST)
    assert [item.namespace for item in since] == ["one", "other"]
