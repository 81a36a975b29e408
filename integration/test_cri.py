"""What crictl and the kubelet see of the namespace k8s.io while pyctrd works there; facts in docs/cri.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner

from integration.rig.cri import NAMESPACE, Node, Pod, runnable
from integration.rig.daemons import Registry
from integration.rig.publish import push
from integration.rig.store import snapshot_of
from integration.shell import Shell
from pyctrd.cli.app import app
from tests.support.images import Graph

MANAGED = {"io.cri-containerd.image": "managed"}
PIN = "io.cri-containerd.pinned"


class View(NamedTuple):
    """What the kubelet sees, and the records behind it."""

    images: list[dict[str, Any]]
    status: Any
    records: Any


def view(node: Node, name: str) -> View:
    status = node.crictl.json("inspecti", name)["status"]
    return View(node.crictl.images(), status, snapshot_of(node.containerd, NAMESPACE)["images"])


def config_of(graph: Graph) -> str:
    return str(graph.child(0).document()["config"]["digest"])


def test_a_pod_of_the_rig_uses_its_image(node: Node, pod: Pod) -> None:
    """The container's record names the image as the pod does, and its snapshot has the container's id."""
    ids = node.crictl("ps", "-q", "--state", "Running").stdout.decode().split()
    assert ids == [pod.container]
    rows = node.containerd.ctr("containers", "ls", namespace=NAMESPACE).stdout.decode()
    assert {row.split()[0]: row.split()[1] for row in rows.splitlines()[1:]}[pod.container] == pod.image
    snapshots = snapshot_of(node.containerd, NAMESPACE)["snapshots"]["overlayfs"]
    assert {snapshots[pod.container]["kind"], snapshots[pod.sandbox]["kind"]} == {"Active"}


class Here:
    """Runs command lines in this process, since there are many."""

    def __init__(self, node: Node, folder: Path) -> None:
        self._env = {
            "CONTAINERD_ADDRESS": str(node.containerd.address),
            "CONTAINERD_NAMESPACE": NAMESPACE,
            "DOCKER_CONFIG": str(folder),
        }

    def __call__(self, *arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, arguments, env=self._env)
        assert done.exit_code == code, f"pyctrd {' '.join(arguments)}: exit {done.exit_code}\n{done.output}"
        return done.stdout


@pytest.fixture
def here(node: Node, tmp_path: Path) -> Here:
    return Here(node, tmp_path)


def test_commands_that_leave_the_images_as_they_are(node: Node, here: Here, pod: Pod, tmp_path: Path) -> None:
    name, host = pod.image, pod.image.partition("/")[0]
    before, used = view(node, name), node.crictl.used_bytes()
    archive, digest = str(tmp_path / "image.tar"), before.records[name]["target"]["digest"]
    for command in (
        ("images", "-A"),
        ("inspect", name),
        ("history", name),
        ("diagnose",),
        ("diagnose", name),
        ("ensure", name),
        ("ensure", "--all"),
        ("pull", name),
        ("unpack", name),
        ("save", name, "-o", archive),
        ("verify",),
        ("inventory",),
        ("why", name),
        ("usage",),
        ("content", "ls"),
        ("content", "read", digest),
        ("content", "fetch", name),
        ("ingests", "ls"),
        ("leases", "ls"),
        ("namespaces", "ls"),
        ("snapshots", "tree"),
        ("plugins",),
        ("push", name, f"{host}/pushed/copy:v1", "--platform", "linux/amd64"),
        ("load", "--cri", "-i", archive),
        ("tag", name, name),
        ("label", name, "team=a"),
        ("rm", "--force", "--dry-run", name),
        ("prune", "--unused", "--dry-run"),
    ):
        here(*command)
        assert view(node, name)[:2] == before[:2], command
    assert node.crictl.used_bytes() == used
    after = view(node, name).records
    # Nothing is added, and no label of CRI is lost.
    assert {one: record["target"]["digest"] for one, record in after.items()} == {
        one: record["target"]["digest"] for one, record in before.records.items()
    }
    assert all(record["labels"].items() >= MANAGED.items() for record in after.values())


def test_what_a_pod_uses_or_the_kubelet_keeps_is_not_removed(
    node: Node, here: Here, registry: Registry, repository: str, pod: Pod
) -> None:
    """Another image goes with all of its records, and the kubelet sees that it is gone."""
    before = view(node, pod.image)
    (sandbox,) = [image["repoTags"][0] for image in before.images if image["pinned"]]
    here("rm", pod.image, code=1)
    here("rm", before.status["id"], code=1)
    here("rm", sandbox, code=1)
    assert view(node, pod.image) == before
    other = push(runnable(f"{repository} other"), registry, f"{repository}-other", "v1")
    node.crictl("pull", other)
    here("prune", "--unused", "--yes")
    node.wait_until(lambda crictl: not crictl.image(other))
    assert [record for record in view(node, pod.image).records if repository in record] == [
        record for record in before.records if repository in record
    ]
    assert view(node, pod.image).status == before.status
    assert node.crictl.image(sandbox)


def test_tags_and_pins_are_seen_by_the_kubelet(node: Node, here: Here, pulled: str) -> None:
    new = f"{pulled}-new"
    here("tag", pulled, new)
    node.wait_until(lambda crictl: new in (crictl.image(pulled) or {})["repoTags"])
    here("pin", pulled)
    node.wait_until(lambda crictl: (crictl.image(new) or {})["pinned"])
    here("rm", new, code=1)
    here("unpin", pulled)
    node.wait_until(lambda crictl: not (crictl.image(new) or {})["pinned"])
    here("rm", "--all-names", pulled)
    node.wait_until(lambda crictl: not crictl.image(pulled))
    assert not [name for name in snapshot_of(node.containerd, NAMESPACE)["images"] if name.startswith(pulled)]


def test_an_image_pulled_by_pyctrd_starts_a_pod(
    node: Node, on_node: Shell, registry: Registry, repository: str
) -> None:
    """CRI gives it the label and the record with its id, which the kubelet's pods use."""
    graph = runnable(repository)
    name = push(graph, registry, repository, "v1")
    on_node("pull", name)
    node.wait_until(lambda crictl: crictl.image(name))
    image = node.crictl.image(name)
    assert image
    assert (image["id"], image["repoTags"], image["repoDigests"]) == (config_of(graph), [name], [])
    # The label comes after the image is known.
    node.wait_until(lambda _: snapshot_of(node.containerd, NAMESPACE)["images"][name]["labels"])
    records = snapshot_of(node.containerd, NAMESPACE)["images"]
    assert records[name]["labels"] == records[config_of(graph)]["labels"] == MANAGED
    registry.clear_requests()
    with node.pod(config_of(graph)):
        assert [one for one in registry.requests() if repository in one.path] == []


def test_what_other_clients_change_is_seen_at_once(node: Node, pulled: str) -> None:
    """A tag, each of the three records deleted, and the label for pinned images, by ctr."""
    crictl, records = node.crictl, snapshot_of(node.containerd, NAMESPACE)["images"]
    image = crictl.image(pulled)
    assert image
    (digest,), own, other = image["repoDigests"], image["id"], f"{pulled}-other"
    assert {pulled, digest, own} <= set(records)

    def ctr(*arguments: str) -> None:
        node.containerd.ctr("images", *arguments, namespace=NAMESPACE)

    def shown() -> dict[str, Any]:
        return crictl.image(own) or {}

    ctr("tag", pulled, other)
    node.wait_until(lambda _: other in shown()["repoTags"])
    for name in (own, digest, pulled):
        ctr("label", name, f"{PIN}=pinned")
        node.wait_until(lambda _: shown()["pinned"])
        ctr("label", name, f"{PIN}=")
        node.wait_until(lambda _: not shown()["pinned"])
    ctr("rm", pulled)
    node.wait_until(lambda _: shown()["repoTags"] == [other])
    ctr("rm", digest)
    node.wait_until(lambda _: shown()["repoDigests"] == [])
    ctr("rm", own)
    assert shown()["repoTags"] == [other], "the image has its id from its config, not from the record"
    ctr("rm", other)
    node.wait_until(lambda _: not shown())


def test_a_container_keeps_its_image_in_use_after_its_tag_has_moved(
    node: Node, on_node: Shell, registry: Registry, repository: str, pod: Pod
) -> None:
    """Its record has only the name, which is another image's now."""
    old = snapshot_of(node.containerd, NAMESPACE)["images"][pod.image]["target"]["digest"]
    new = runnable(f"{repository} moved")
    assert push(new, registry, repository, "v1") == pod.image
    node.crictl("pull", pod.image)
    in_use = {image["target"]["digest"]: image["in_use"] for image in on_node.json("images", "--all")}
    assert in_use[old]
    assert not in_use[new.digest]


def test_the_sandbox_image_stays_pinned(node: Node, on_node: Shell, pod: Pod) -> None:
    """CRI has its name in its configuration. 2.x undoes another client's unpin at once, 1.7 when it pulls."""
    (sandbox,) = [image for image in node.crictl.images() if image["pinned"]]
    (name,) = sandbox["repoTags"]
    pinned = {image["name"] for image in on_node.json("images", "--all") if image["pinned"]}
    assert pinned == {name, sandbox["id"], *sandbox["repoDigests"]}
    for record in pinned:
        node.containerd.ctr("images", "label", record, f"{PIN}=", namespace=NAMESPACE)
    if node.containerd.is_1:
        node.wait_until(lambda crictl: not (crictl.image(name) or {})["pinned"])
        node.crictl("pull", name)
        node.wait_until(lambda crictl: (crictl.image(name) or {})["pinned"])
    else:
        node.wait_until(
            lambda _: snapshot_of(node.containerd, NAMESPACE)["images"][name]["labels"].get(PIN) == "pinned"
        )
        node.wait_until(lambda crictl: (crictl.image(name) or {})["pinned"])


@pytest.mark.two_generations
@pytest.mark.parametrize("by", ["label", "pull", "load"])
def test_an_image_that_was_broken_when_containerd_started(
    node: Node, on_node: Shell, pulled: str, by: str
) -> None:
    """`ensure` fetches its config, but CRI shows it only when its record changes, as each of these does."""
    image = node.crictl.image(pulled)
    assert image
    on_node("save", "-o", "broken.tar", pulled)
    node.containerd.ctr("content", "rm", image["id"], namespace=NAMESPACE)
    node.restart()
    node.wait_until(lambda crictl: not crictl.image(pulled))
    on_node("ensure", pulled)
    assert node.crictl.image(pulled) is None
    how = {"label": (pulled, "any=change"), "pull": (pulled,), "load": ("-i", "broken.tar")}
    on_node(by, *how[by])
    node.wait_until(lambda crictl: crictl.image(pulled))
