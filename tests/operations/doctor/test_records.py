"""What doctor finds in containerd's records, and what it does not report."""

from __future__ import annotations

import datetime as dt

import pytest

from pyctrd.oci.model import Descriptor
from pyctrd.oci.resources import LeaseResource, Plugin
from pyctrd.operations.doctor.host import ConfigFile
from tests.operations.doctor.clinic import CRI, DAY, HOUR, NOW, Clinic, Space

NAME = "registry.example/team/app:1"
OTHER = "registry.example/team/other:1"
EXPIRE = "containerd.io/gc.expire"


def stamp(moment: dt.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def image(
    space: Space, name: str = NAME, *, layers: tuple[str, ...] = ("a", "b"), **labels: str
) -> Descriptor:
    target = space.manifest("linux/amd64", layers)
    space.name(target, name, **labels)
    return target


# --- leases -----------------------------------------------------------------------------------------------


def test_an_expired_lease() -> None:
    clinic = Clinic()
    labels = {EXPIRE: stamp(NOW - HOUR), "pyctrd.io/command": "pull app"}
    clinic.space.lease("old", labels, DAY, LeaseResource(type="content", id="x"))
    clinic.space.lease("new", {EXPIRE: stamp(NOW + HOUR)}, HOUR)
    (found,) = clinic.findings("leases")
    assert (found.code, found.severity) == ("lease-expired", "info")
    assert found.evidence == (f"old, expired at {stamp(NOW - HOUR)}, of pyctrd pull app: holds 1 content",)
    assert found.remedy.commands == (("pyctrd", "-n", "default", "leases", "rm", "old"),)


def test_an_old_lease_without_an_expiry() -> None:
    clinic = Clinic()
    clinic.space.lease("forever", {}, 3 * DAY)
    (found,) = clinic.findings("leases")
    assert (found.code, found.severity) == ("lease-without-expiry", "warning")
    assert found.evidence == ("forever, 3 days old: holds nothing",)
    assert found.remedy.commands == (("pyctrd", "-n", "default", "leases", "rm", "forever"),)


def test_leases_that_are_in_use() -> None:
    clinic = Clinic("default", "moby")
    clinic.space.lease("young", {}, 23 * HOUR)
    clinic.space.lease("of a cache", {"containerd.io/gc.flat": "x"}, 9 * DAY)
    clinic.spaces["moby"].lease("of Docker's image", {}, 9 * DAY)
    assert clinic.findings("leases") == ()


def test_a_command_names_at_most_a_hundred_leases() -> None:
    clinic = Clinic()
    for number in range(150):
        clinic.space.lease(f"{number:03}", {}, 2 * DAY)
    (found,) = clinic.findings("leases")
    assert "150 leases" in found.what
    assert len(found.remedy.commands[0]) == 5 + 100


# --- ingests ----------------------------------------------------------------------------------------------


def test_a_write_that_nobody_continues() -> None:
    clinic = Clinic()
    clinic.space.write("layer-a", 3 * HOUR)
    clinic.space.write("layer-b", HOUR / 2)
    (found,) = clinic.findings("ingests")
    assert (found.code, found.severity) == ("ingest-stale", "warning")
    assert "1 write " in found.what
    (text,) = found.evidence
    assert text.startswith("layer-a: 5.0 MiB of 9.0 MiB, unchanged for 3 hours, without a lease: containerd")
    assert found.remedy.commands == (("pyctrd", "-n", "default", "ingests", "abort", "layer-a"),)


@pytest.mark.parametrize(
    ("labels", "writer"),
    [({"pyctrd.io/command": "pull x"}, "written by pyctrd pull x"), ({}, "held by the lease one")],
)
def test_who_wrote_it(labels: dict[str, str], writer: str) -> None:
    clinic = Clinic()
    clinic.space.write("layer-a", 3 * HOUR)
    clinic.space.lease("one", labels, HOUR, LeaseResource(type="ingests", id="layer-a"))
    (found,) = clinic.findings("ingests")
    assert found.evidence[0].endswith(writer)


def test_writes_in_progress() -> None:
    clinic = Clinic()
    clinic.space.write("layer-a", HOUR / 2)
    assert clinic.findings("ingests") == ()


# --- gc labels --------------------------------------------------------------------------------------------


def test_lost_gc_labels() -> None:
    clinic = Clinic()
    target = image(clinic.space)
    clinic.space.unlabel(target, "l.")
    (found,) = clinic.findings("gc-labels")
    assert (found.code, found.severity) == ("gc-label-lost", "error")
    assert "2 blobs" in found.what
    assert "next garbage collection" in found.what
    assert found.evidence[1] == f"{target.digest} has no gc labels for 2 children"
    assert found.remedy.commands == (("pyctrd", "-n", "default", "pull", NAME),)


def test_a_lease_still_protects_what_lost_its_labels() -> None:
    clinic = Clinic()
    target = image(clinic.space, layers=("a",))
    (layer,) = clinic.space.below(target)[1]
    clinic.space.unlabel(target, "l.")
    clinic.space.lease("l", {}, HOUR, LeaseResource(type="content", id=layer.digest))
    (found,) = clinic.findings("gc-labels")
    assert "nothing but a lease protects" in found.what
    assert found.evidence[-1] == "a lease still protects 1 of them"


def test_a_name_that_looks_like_an_option() -> None:
    clinic = Clinic()
    clinic.space.unlabel(image(clinic.space, "--all"), "l.")
    (found,) = clinic.findings("gc-labels")
    assert found.remedy.commands == (("pyctrd", "-n", "default", "pull", "--", "--all"),)


def test_content_that_another_image_protects_is_safe() -> None:
    clinic = Clinic()
    target = image(clinic.space)
    clinic.space.unlabel(target, "l.")
    other = clinic.space.document(*clinic.space.below(target), annotations={"a": "b"})
    again = clinic.space.index(other)
    clinic.space.content.labels[again.digest] = {
        f"containerd.io/gc.ref.content.{number}": str(child.digest)
        for number, child in enumerate(clinic.space.below(target)[1])
    }
    clinic.space.name(again, OTHER)
    assert clinic.findings("gc-labels") == ()


def test_labels_as_after_a_pull() -> None:
    clinic = Clinic()
    foreign = clinic.space.manifest("linux/arm64", ["c"])
    target = clinic.space.index(clinic.space.manifest("linux/amd64", ["a"]), foreign)
    clinic.space.name(target, NAME)
    clinic.space.remove(foreign)
    assert clinic.findings("gc-labels") == ()


# --- discarded layers -------------------------------------------------------------------------------------


def test_layers_that_are_unpacked_and_gone() -> None:
    clinic = Clinic("k8s.io")
    target = image(clinic.space, image="managed")
    clinic.space.unpack("a", "b")
    clinic.space.remove(*clinic.space.below(target)[1])
    (found,) = clinic.findings("discarded-layers")
    assert (found.code, found.severity) == ("layers-discarded", "warning")
    assert found.evidence == (f"{NAME}: 2 layers absent", "the kubelet's runtime manages them")
    assert found.remedy.commands == (("pyctrd", "-n", "k8s.io", "ensure", NAME),)


def test_layers_of_several_images_that_are_gone() -> None:
    clinic = Clinic()
    for name, layers in ((NAME, ("a",)), (OTHER, ("b",))):
        target = image(clinic.space, name, layers=layers)
        clinic.space.unpack(*layers)
        clinic.space.remove(*clinic.space.below(target)[1])
    (found,) = clinic.findings("discarded-layers")
    assert found.remedy.commands == (("pyctrd", "-n", "default", "ensure", "--all"),)


def test_layers_that_were_never_unpacked_or_are_there() -> None:
    clinic = Clinic()
    absent = image(clinic.space, layers=("a",))
    clinic.space.remove(*clinic.space.below(absent)[1])
    image(clinic.space, OTHER, layers=("b",))
    clinic.space.unpack("b")
    assert clinic.findings("discarded-layers") == ()


@pytest.mark.parametrize(
    "settings",
    [
        {"version": 3, "plugins": {"io.containerd.cri.v1.images": {"discard_unpacked_layers": True}}},
        {
            "version": 2,
            "plugins": {"io.containerd.grpc.v1.cri": {"containerd": {"discard_unpacked_layers": True}}},
        },
        {"plugins": {"cri": {"containerd": {"discard_unpacked_layers": True}}}},
    ],
    ids=["version 3", "version 2", "version 1"],
)
def test_the_setting_that_discards_layers(settings: dict[str, object]) -> None:
    clinic = Clinic()
    clinic.loaded.append(CRI)
    clinic.configured = ConfigFile(path="/c.toml", settings=settings)
    (found,) = clinic.findings("discarded-layers")
    assert (found.code, found.severity) == ("discard-unpacked-layers", "warning")
    assert "discard_unpacked_layers = false" in found.remedy.text
    clinic.configured = ConfigFile(path="/c.toml", settings={"version": 3, "plugins": {}})
    assert clinic.findings("discarded-layers") == ()


def test_an_unreadable_configuration_does_not_hide_layers_that_are_gone() -> None:
    clinic = Clinic()
    clinic.loaded.append(CRI)
    target = image(clinic.space, layers=("a",))
    clinic.space.unpack("a")
    clinic.space.remove(*clinic.space.below(target)[1])
    clinic.configured = PermissionError("permission denied")
    report = clinic.report(only=["discarded-layers"])
    assert [found.code for found in report.findings] == ["layers-discarded"]
    assert report.skipped[0].reason == "containerd's configuration cannot be read: permission denied"


# --- namespaces -------------------------------------------------------------------------------------------


def test_a_name_that_means_two_images() -> None:
    clinic = Clinic("default", "k8s.io")
    one = image(clinic.space, layers=("a",))
    two = image(clinic.spaces["k8s.io"], layers=("b",))
    (found,) = clinic.findings("namespaces")
    assert (found.code, found.severity) == ("name-differs", "warning")
    assert found.evidence[:2] == (f"in default it is {one.digest}", f"in k8s.io it is {two.digest}")
    assert "share content" in found.evidence[2]
    (words,) = found.remedy.commands
    assert words == ("pyctrd", "-n", "k8s.io", "sync", NAME, "unix:///run/c.sock?namespace=default")


def test_the_same_image_in_two_namespaces() -> None:
    clinic = Clinic("default", "k8s.io")
    for space in clinic.spaces.values():
        image(space)
        image(space, OTHER)
    clinic.loaded.append(Plugin(type="io.containerd.metadata.v1", id="bolt", exports={"policy": "isolated"}))
    (found,) = clinic.findings("namespaces")
    assert (found.code, found.severity) == ("name-repeated", "info")
    assert found.evidence[0] == f"{NAME}, {OTHER}"
    assert "isolated" in found.evidence[1]
    assert found.remedy.commands == (("pyctrd", "-n", "default", "rm", NAME, OTHER),)


def test_different_names_in_two_namespaces() -> None:
    clinic = Clinic("default", "k8s.io")
    image(clinic.space)
    image(clinic.spaces["k8s.io"], OTHER)
    for space in clinic.spaces.values():
        image(space, "sha256:" + 64 * "0")
    assert clinic.findings("namespaces") == ()


# --- the kubelet ------------------------------------------------------------------------------------------


def managed(space: Space) -> Descriptor:
    target = image(space, image="managed")
    config = space.below(target)[0]
    space.name(target, f"registry.example/team/app@{target.digest}", image="managed")
    space.name(target, str(config.digest), image="managed")
    return target


def test_an_image_that_the_kubelet_sees() -> None:
    clinic = Clinic("k8s.io")
    managed(clinic.space)
    assert clinic.findings("kubelet") == ()


def test_images_that_the_kubelet_does_not_see() -> None:
    clinic = Clinic("k8s.io")
    managed(clinic.space)
    image(clinic.space, OTHER)
    (found,) = clinic.findings("kubelet")
    assert (found.code, found.severity) == ("kubelet-image-invisible", "warning")
    assert found.evidence == (f"{OTHER} has no label io.cri-containerd.image=managed",)
    save, load = found.remedy.commands
    assert save == ("pyctrd", "-n", "k8s.io", "save", "--platform", "local", OTHER)
    assert load == ("pyctrd", "-n", "k8s.io", "load", "--cri")


def test_images_without_the_records_of_the_kubelet() -> None:
    clinic = Clinic("k8s.io")
    image(clinic.space, image="managed")
    (found,) = clinic.findings("kubelet")
    assert (found.code, found.severity) == ("kubelet-image-records", "info")
    assert found.evidence == (f"{NAME} has no record of its id and its digest",)
    assert found.remedy.commands[0][-1] == NAME


def test_other_namespaces_are_not_the_kubelets() -> None:
    clinic = Clinic()
    image(clinic.space)
    assert clinic.findings("kubelet") == ()


# --- the sandbox image ------------------------------------------------------------------------------------

PAUSE = "registry.k8s.io/pause:3.10"


def test_an_unpinned_sandbox_image() -> None:
    clinic = Clinic("k8s.io")
    clinic.loaded.append(CRI)
    image(clinic.space, PAUSE)
    (found,) = clinic.findings("sandbox")
    assert (found.code, found.severity) == ("sandbox-image-unpinned", "warning")
    assert found.remedy.commands == (("pyctrd", "-n", "k8s.io", "pin", PAUSE),)


def test_the_sandbox_image_that_containerd_is_configured_to_use() -> None:
    clinic = Clinic("k8s.io")
    clinic.loaded.append(CRI)
    image(clinic.space, PAUSE, pinned="pinned")
    image(clinic.space, NAME)
    settings = {"version": 2, "plugins": {"io.containerd.grpc.v1.cri": {"sandbox_image": NAME}}}
    clinic.configured = ConfigFile(path="/c.toml", settings=settings)
    (found,) = clinic.findings("sandbox")
    assert found.evidence[0] == "/c.toml names it"
    assert found.remedy.commands[0][-1] == NAME


def test_an_absent_sandbox_image() -> None:
    clinic = Clinic("k8s.io")
    clinic.loaded.append(CRI)
    images = {"pinned_images": {"sandbox": PAUSE}}
    settings = {"version": 3, "plugins": {"io.containerd.cri.v1.images": images}}
    clinic.configured = ConfigFile(path="/c.toml", settings=settings)
    (found,) = clinic.findings("sandbox")
    assert found.code == "sandbox-image-absent"
    assert found.remedy.commands == (("pyctrd", "-n", "k8s.io", "pull", PAUSE),)


def test_sandbox_images_that_are_pinned_or_not_used() -> None:
    clinic = Clinic("k8s.io")
    image(clinic.space, PAUSE)
    assert clinic.findings("sandbox") == ()  # no kubelet
    clinic.loaded.append(CRI)
    clinic.space.images.records.clear()
    image(clinic.space, PAUSE, pinned="pinned")
    assert clinic.findings("sandbox") == ()
