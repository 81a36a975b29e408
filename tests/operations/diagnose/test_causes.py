"""The causes: each way of losing content is recognized by what it leaves."""

from __future__ import annotations

import msgspec
import pytest

from pyctrd.errors import Remedy
from pyctrd.oci import mediatypes
from pyctrd.oci.model import Descriptor, ImageRecord
from pyctrd.operations.diagnose import Cause, Diagnosis, diagnose
from pyctrd.operations.diagnose.causes import CHECKS
from tests.operations.diagnose.world import NAME, World, record
from tests.support.selections import selected

CRI = {"io.cri-containerd.image": "managed"}


def causes(world: World, image: Descriptor | ImageRecord, *others: World) -> tuple[Cause, ...]:
    return look(world, image, *others).causes


def look(world: World, image: Descriptor | ImageRecord, *others: World) -> Diagnosis:
    stored = image if isinstance(image, ImageRecord) else record(image)
    stores = [other.store for other in others]
    return diagnose(world.store, stored, selected(), others=stores)


def codes(found: tuple[Cause, ...]) -> list[str]:
    return [cause.code for cause in found]


def test_metadata_without_layers_was_never_pulled() -> None:
    world = World()
    foreign = world.manifest("linux/arm64", ["c", "d"])
    target = world.index(world.manifest("linux/amd64", ["a"]), foreign)
    layers = world.below(foreign)[1]
    world.remove(*layers)
    (cause,) = causes(world, target)
    assert cause.code == "never_pulled"
    assert cause.platform == "linux/arm64"
    assert cause.missing == tuple(item.digest for item in layers)
    assert cause.remedy == Remedy(method="ensure", images=(NAME,), platforms=("linux/arm64",))
    assert "only the metadata" in cause.text


def test_an_absent_manifest_was_never_pulled() -> None:
    world = World()
    foreign = world.manifest("linux/arm64", ["c"])
    target = world.index(world.manifest("linux/amd64", ["a"]), foreign)
    world.remove(foreign)
    (cause,) = causes(world, target)
    assert (cause.code, cause.missing) == ("never_pulled", (foreign.digest,))
    assert "not even its manifest" in cause.text


def test_a_shared_layer_does_not_mean_that_the_platform_was_pulled() -> None:
    world = World()
    foreign = world.manifest("linux/arm64", ["common", "c"])
    target = world.index(world.manifest("linux/amd64", ["common", "a"]), foreign)
    world.unpack("common", "a")
    world.remove(world.below(foreign)[1][1])
    assert codes(causes(world, target)) == ["never_pulled"]


def test_a_manifest_without_config_and_layers_was_never_pulled() -> None:
    world = World()
    foreign = world.manifest("linux/arm64", ["c"])
    target = world.index(world.manifest("linux/amd64", ["a"]), foreign)
    config, layers = world.below(foreign)
    world.remove(config, *layers)
    (cause,) = causes(world, target)
    assert (cause.code, cause.missing) == ("never_pulled", (config.digest, layers[0].digest))
    assert "neither a config" in cause.text


def test_an_attestation_is_fetched_with_all_platforms() -> None:
    world = World()
    image = world.manifest("linux/amd64", ["a"])
    attestation = world.attestation(image)
    target = world.index(image, attestation)
    world.remove(*world.below(attestation)[1])
    (cause,) = causes(world, target)
    assert (cause.code, cause.platform) == ("never_pulled", "attestation for linux/amd64")
    assert cause.remedy == Remedy(method="ensure", images=(NAME,), all_platforms=True)


@pytest.mark.parametrize(("namespace", "labels"), [("default", CRI), ("k8s.io", {}), ("k8s.io", CRI)])
def test_layers_of_a_kubelet_image_were_discarded(namespace: str, labels: dict[str, str]) -> None:
    world = World(namespace)
    target = world.manifest("linux/amd64", ["a", "b"])
    world.unpack("a", "b")
    world.unlabel(target, "l.")
    world.remove(*world.below(target)[1])
    (cause,) = causes(world, record(target, labels=labels))
    assert cause.code == "discarded_after_unpack"
    assert len(cause.missing) == 2
    assert len(cause.evidence) == 2 + (namespace == "k8s.io") + bool(labels)
    assert cause.remedy == Remedy(method="ensure", images=(NAME,))


def test_outside_the_kubelet_namespace_the_labels_were_lost() -> None:
    world = World()
    target = world.manifest("linux/amd64", ["a", "b"])
    world.unpack("a", "b")
    world.unlabel(target, "l.")
    world.remove(*world.below(target)[1])
    (cause,) = causes(world, target)
    assert cause.code == "gc_label_lost"
    assert "containerd.io/gc.ref.content.l.0, containerd.io/gc.ref.content.l.1" in cause.evidence[0]
    assert cause.evidence[1] == "snapshots of the missing layers exist"


def test_a_kubelet_image_without_snapshots_lost_its_labels() -> None:
    world = World("k8s.io")
    target = world.manifest("linux/amd64", ["a"])
    world.unlabel(target, "l.")
    world.remove(*world.below(target)[1])
    assert codes(causes(world, target)) == ["gc_label_lost"]


def test_a_second_nested_index_can_lose_its_label() -> None:
    world = World()
    child = world.manifest("linux/arm64", ["c"])
    nested = world.index(child)
    target = world.index(nested, world.manifest("linux/amd64", ["a"]))
    world.unlabel(nested, "m.")
    world.remove(child)
    (cause,) = causes(world, target)
    assert cause.code == "gc_label_lost"
    assert cause.evidence == (f"index {nested.digest} does not have containerd.io/gc.ref.content.m.0",)


def test_layers_with_labels_and_snapshots_were_skipped() -> None:
    world = World()
    target = world.manifest("linux/amd64", ["a", "b"], packed="other ")
    twin = world.layer("a")
    world.unpack("a", "b")
    layers = world.below(target)[1]
    world.remove(*layers)
    (cause,) = causes(world, target)
    assert cause.code == "skipped_snapshot_existed"
    assert cause.missing == tuple(item.digest for item in layers)
    assert cause.evidence[2:] == (f"{twin.digest.short} is {layers[0].digest.short} compressed differently",)
    assert not cause.certain


def test_only_layers_with_snapshots_were_skipped() -> None:
    world = World()
    target = world.manifest("linux/amd64", ["a", "b", "c"])
    world.unpack("a", "b")
    layers = world.below(target)[1]
    world.remove(layers[0], layers[2])
    found = causes(world, target)
    assert codes(found) == ["skipped_snapshot_existed", "content_removed"]
    assert [cause.missing for cause in found] == [(layers[0].digest,), (layers[2].digest,)]


def test_a_layer_without_a_snapshot_was_not_skipped() -> None:
    world = World()
    target = world.manifest("linux/amd64", ["a", "b", "c", "d"])
    world.unpack("a", "b")
    layers = world.below(target)[1]
    world.remove(*layers[:3])
    found = causes(world, target)
    assert codes(found) == ["skipped_snapshot_existed", "content_removed"]
    assert found[1].missing == (layers[2].digest,)


def test_a_missing_layer_above_a_present_one_was_removed() -> None:
    world = World()
    target = world.manifest("linux/amd64", ["a", "b"])
    world.unpack("a", "b")
    layers = world.below(target)[1]
    world.remove(layers[1])
    (cause,) = causes(world, target)
    assert (cause.code, cause.missing) == ("content_removed", (layers[1].digest,))
    assert "the snapshot of a missing layer exists, so the layer was once in the store" in cause.evidence


@pytest.mark.parametrize(
    ("snapshotter", "labels"),
    [
        ("stargz", {}),
        ("custom", {"containerd.io/snapshot/remote": "remote snapshot"}),
        ("custom", {"containerd.io/snapshot/nydus-blob": "true"}),
    ],
)
def test_a_lazy_snapshotter_never_stored_the_layers(snapshotter: str, labels: dict[str, str]) -> None:
    world = World("k8s.io")
    target = world.manifest("linux/amd64", ["a", "b"])
    world.unpack("a", "b", snapshotter=snapshotter, labels=labels)
    config, layers = world.below(target)
    world.content.labels[config.digest] = {f"{mediatypes.GC_REF_SNAPSHOT}{snapshotter}": "sha256:top"}
    world.remove(*layers)
    (cause,) = causes(world, target)
    assert (cause.code, cause.certain, len(cause.missing)) == ("lazy_snapshotter", True, 2)
    assert snapshotter in cause.evidence[0]


def test_an_import_skipped_other_platforms() -> None:
    world = World()
    foreign = world.manifest("linux/arm64", ["c"])
    target = world.index(foreign, world.manifest("linux/amd64", ["a"]))
    native = world.content.labels[target.digest]["containerd.io/gc.ref.content.m.1"]
    world.content.labels[target.digest] = {"containerd.io/gc.ref.content.m.0": native}
    world.remove(foreign)
    (cause,) = causes(world, target)
    assert (cause.code, cause.platform) == ("never_imported", "linux/arm64")


def test_an_index_without_labels_was_not_imported() -> None:
    world = World()
    foreign = world.manifest("linux/arm64", ["c"])
    target = world.index(foreign, world.manifest("linux/amd64", ["a"]))
    world.unlabel(target, "m.")
    world.remove(foreign)
    # The other platform may be lost next: it is here, but the index does not protect it either.
    assert codes(causes(world, target)) == ["gc_label_lost", "unprotected"]


def test_a_record_whose_target_is_missing() -> None:
    world = World()
    target = world.index(world.manifest("linux/amd64", ["a"]))
    world.remove(target)
    found = look(world, target)
    assert codes(found.causes) == ["target_gone"]
    assert found.causes[0].remedy == Remedy(method="ensure", images=(NAME,))
    assert not found.complete
    assert found.platforms == ()


def test_a_missing_nested_index() -> None:
    world = World()
    inner = world.index(world.manifest("linux/arm64", ["c"]))
    target = world.index(inner, world.manifest("linux/amd64", ["a"]))
    world.remove(inner)
    (cause,) = causes(world, target)
    assert (cause.code, cause.missing, len(cause.evidence)) == ("index_gone", (inner.digest,), 1)
    world.content.labels[target.digest].pop("containerd.io/gc.ref.content.0")
    (cause,) = causes(world, target)
    assert cause.evidence[1] == f"index {target.digest} does not have containerd.io/gc.ref.content.0"


def test_available_platforms_are_listed_if_the_image_lacks_one() -> None:
    world = World()
    target = world.index(world.manifest("linux/arm64", ["a"]), world.manifest("linux/s390x", ["b"]))
    (cause,) = causes(world, target)
    assert (cause.code, cause.platform, cause.digest) == ("no_such_platform", "linux/amd64", None)
    assert cause.text == "the image has no linux/amd64; it has linux/arm64, linux/s390x"
    assert cause.remedy == Remedy(method="ensure", images=(NAME,), platforms=("linux/arm64",))


def test_another_namespace_has_the_missing_content() -> None:
    world, kubelet, empty = World(), World("k8s.io"), World("moby")
    for each in (world, kubelet):
        target = each.manifest("linux/amd64", ["a", "b"])
    layers = world.below(target)[1]
    world.remove(layers[1])
    found = causes(world, target, empty, kubelet)
    assert codes(found) == ["content_removed", "in_other_namespace"]
    assert found[1].missing == (layers[1].digest,)
    assert "namespace k8s.io" in found[1].text


def test_unprotected_content_is_a_warning() -> None:
    world = World()
    target = world.manifest("linux/amd64", ["a", "b"])
    world.unlabel(target, "l.1")
    found = look(world, target)
    assert found.complete
    assert codes(found.causes) == ["unprotected"]
    assert found.causes[0].missing == ()
    assert "containerd.io/gc.ref.content.l.1" in found.causes[0].evidence[0]


def test_a_manifest_without_a_label_of_its_index_is_a_warning() -> None:
    world = World()
    image = world.manifest("linux/amd64", ["a"])
    target = world.index(image, world.attestation(image))
    world.unlabel(target, "m.")
    first, second = causes(world, target)
    assert first.evidence == (f"{target.digest} has no containerd.io/gc.ref.content.m.0",)
    assert first.remedy == Remedy(method="pull", images=(NAME,), platforms=("linux/amd64",))
    assert second.evidence == (f"{target.digest} has no containerd.io/gc.ref.content.m.1",)
    assert second.remedy == Remedy(method="pull", images=(NAME,), all_platforms=True)


def test_a_label_that_names_other_content_is_reported() -> None:
    world = World()
    target = world.manifest("linux/amd64", ["a", "b"])
    key = "containerd.io/gc.ref.content.l.1"
    world.content.labels[target.digest] |= {key: "nowhere"}
    (cause,) = causes(world, target)
    assert cause.evidence == (f"{target.digest} has {key}=nowhere, which protects something else",)


def test_every_missing_blob_is_explained_once() -> None:
    world = World("k8s.io")
    target = world.manifest("linux/amd64", ["a", "b", "c", "d"])
    world.unpack("a", "b", "c", "d")
    world.unlabel(target, "l.1", "config")
    config, layers = world.below(target)
    world.remove(config, *layers)
    found = look(world, target)
    explained = [digest for cause in found.causes for digest in cause.missing]
    assert sorted(explained) == sorted(item.digest for item in found.platforms[0].missing)
    assert len(CHECKS) == 7


def test_a_diagnosis_is_encoded_by_msgspec_alone() -> None:
    world = World()
    foreign = world.manifest("linux/arm64", ["c"])
    native = world.manifest("linux/amd64", ["a"])
    inner = world.index(world.manifest("linux/s390x", ["d"]))
    target = world.index(native, foreign, inner, world.attestation(native))
    world.remove(inner, foreign, *world.below(native)[1])
    found = diagnose(world.store, record(target), selected("linux/amd64,linux/mips"))
    document = msgspec.json.decode(msgspec.json.encode(found))
    assert {"image", "namespace", "target", "platforms", "tools", "causes"} <= set(document)
    assert set(document["target"]) == {"mediaType", "digest", "size"}
    contract = {
        "platform", "digest", "complete", "missing", "missing_bytes", "unpacked", "attestation_for"
    }  # fmt: skip
    assert contract <= set(document["platforms"][0])
    assert set(document["platforms"][0]["missing"][0]) == {"mediaType", "digest", "size"}
    assert {"ok", "error"} <= set(document["tools"]["ctr_export"])
    for tool in ("nerdctl_save_2_0_3", "nerdctl_save_2_0_4", "nerdctl_save_2_1_4", "pyctrd_save"):
        assert {"fetch", "bytes"} <= set(document["tools"][tool])
    assert {"code", "platform", "text", "evidence", "remedy"} <= set(document["causes"][0])
    assert msgspec.json.decode(msgspec.json.encode(found), type=Diagnosis) == found
