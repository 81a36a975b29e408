"""`pyctrd load --cri`: what the kubelet's services show of a loaded image, according to the real crictl."""

from __future__ import annotations

from integration.rig.cri import NAMESPACE, Node
from integration.rig.store import collect_garbage, snapshot_of
from integration.shell import Shell
from tests.support import shapes
from tests.support.loading import archive_of

NAME = "registry.example/team/app:v1"


def test_the_kubelet_sees_a_loaded_image(node: Node, on_node: Shell) -> None:
    graph = shapes.mixed()
    (on_node.folder / "a.tar").write_bytes(archive_of(graph, NAME))
    on_node("load", "--cri", "-i", "a.tar")
    config = graph.child(0).document()["config"]["digest"]
    digest = f"registry.example/team/app@{graph.digest}"
    for _ in range(2):
        node.wait_until(lambda crictl: (crictl.image(NAME) or {}).get("repoDigests") == [digest])
        (image,) = node.crictl.images()
        assert image["id"] == config
        assert image["repoTags"] == [NAME]
        # Also what was recorded before the services of the kubelet were started.
        node.restart()
    assert node.crictl.json("inspecti", NAME)["status"]["id"] == config
    node.crictl("rmi", NAME)
    assert node.crictl.images() == []
    collect_garbage(node.containerd, NAMESPACE)
    left = snapshot_of(node.containerd, NAMESPACE)
    assert (left["images"], left["content"]) == ({}, {})


def test_another_namespace_is_refused(on_node: Shell) -> None:
    (on_node.folder / "a.tar").write_bytes(archive_of(shapes.single(), NAME))
    done = on_node("-n", "default", "load", "--cri", "-i", "a.tar", code=2)
    assert b"the kubelet sees only the namespace k8s.io" in done.stderr
    assert b"-n k8s.io" in done.stderr
