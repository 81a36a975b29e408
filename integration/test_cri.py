"""What crictl and the kubelet see of the namespace k8s.io, while pyctrd works in it."""

from __future__ import annotations

from integration.rig.cri import NAMESPACE, Node, Pod
from integration.rig.store import snapshot_of


def test_a_pod_of_the_rig_uses_its_image(node: Node, pod: Pod) -> None:
    """The container's record names the image as the pod does, and its snapshot has the container's id."""
    ids = node.crictl("ps", "-q", "--state", "Running").stdout.decode().split()
    assert ids == [pod.container]
    rows = node.containerd.ctr("containers", "ls", namespace=NAMESPACE).stdout.decode()
    assert {row.split()[0]: row.split()[1] for row in rows.splitlines()[1:]}[pod.container] == pod.image
    snapshots = snapshot_of(node.containerd, NAMESPACE)["snapshots"]["overlayfs"]
    assert {snapshots[pod.container]["kind"], snapshots[pod.sandbox]["kind"]} == {"Active"}
    assert node.crictl.used_bytes() > 2_000_000
