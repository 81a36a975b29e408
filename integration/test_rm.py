"""rm and why on a real containerd, compared with the removal of ctr and nerdctl, and with the disk."""

from __future__ import annotations

import json
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest

from integration.rig import peers
from integration.rig.collector import empty
from integration.rig.daemons import Containerd, Registry
from integration.rig.publish import push
from integration.rig.store import State, snapshot_of
from integration.shell import Shell
from integration.test_hints import only, run, told
from integration.test_hints import shell as shell
from pyctrd.oci.platforms import host, to_string
from tests.support import images, shapes
from tests.support.images import Graph

pytestmark = pytest.mark.two_generations


def image(base: images.Layer, salt: str) -> Graph:
    """An image of this host with a layer of its own on a shared one."""
    platform = to_string(host())
    layers = [base, *shapes.layers_for(platform, 1, salt)]
    return images.manifest(images.config(layers, platform), layers, on=platform)


class Pair:
    """Two images that share a layer, pulled and unpacked."""

    def __init__(self, shell: Shell, registry: Registry, repository: str) -> None:
        base = images.layer({"base": uuid.uuid4().bytes * 4000})
        self.shell = shell
        self.graphs = [image(base, f"{number} {uuid.uuid4().hex}") for number in range(2)]
        self.names = [
            push(graph, registry, f"{repository}/{number}") for number, graph in enumerate(self.graphs)
        ]
        for name in self.names:
            self("pull", name)

    def __call__(self, *arguments: str, code: int = 0) -> str:
        return told(self.shell, *arguments, code=code)

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--format", "json"))

    def state(self) -> State:
        return snapshot_of(self.shell.containerd, self.shell.namespace)

    def own(self, number: int) -> set[str]:
        """The blobs of one image only."""
        return set(self.graphs[number].blobs) - set(self.graphs[1 - number].blobs)


@pytest.fixture
def pair(shell: Shell, registry: Registry, repository: str) -> Pair:
    return Pair(shell, registry, repository)


def files(containerd: Containerd) -> set[Path]:
    """The files of blobs and the folders of snapshots on the disk."""
    root = containerd.root / "root"
    blobs = root / "io.containerd.content.v1.content/blobs/sha256"
    snapshots = root / "io.containerd.snapshotter.v1.overlayfs/snapshots"
    return {*blobs.iterdir(), *snapshots.iterdir()}


def test_a_dry_run_says_what_is_gone_afterwards(pair: Pair) -> None:
    """The same objects as in the result, in containerd's records and on the disk; nothing else goes."""
    containerd = pair.shell.containerd
    before, there = pair.state(), files(containerd)
    predicted = pair.json("rm", "--dry-run", pair.names[0])
    assert (pair.state(), files(containerd)) == (before, there)
    assert pair.json("rm", pair.names[0]) == predicted
    after, left = pair.state(), files(containerd)
    gone = {blob["digest"] for blob in predicted["blobs"]}
    assert gone == pair.own(0) == before["content"].keys() - after["content"].keys()
    (snapshot,) = predicted["snapshots"]
    assert before["snapshots"]["overlayfs"].keys() - after["snapshots"]["overlayfs"].keys() == {
        snapshot["key"]
    }
    assert predicted["images"] == [pair.names[0]]
    assert len(there - left) == len(gone) + 1
    assert not left - there
    sizes = sum(len(pair.graphs[0].blobs[digest]) for digest in gone)
    assert predicted["bytes"] == sizes + snapshot["bytes"]
    assert empty(containerd, pair.shell.namespace) == []


@pytest.mark.parametrize("other", ["ctr", "nerdctl"])
def test_what_is_left_is_what_other_tools_leave(pair: Pair, tmp_path: Path, other: str) -> None:
    shell, name = pair.shell, pair.names[0]
    pair("rm", name)
    ours = pair.state()
    pair("pull", name)
    if other == "ctr":
        shell.containerd.ctr("images", "rm", "--sync", name, namespace=shell.namespace)
    else:
        own = ["--address", str(shell.containerd.address), "--data-root", str(tmp_path / "nerdctl")]
        program = peers.nerdctl("2.3.5")
        subprocess.run([program, *own, "--namespace", shell.namespace, "rmi", name], check=True)
    assert pair.state() == ours


def test_an_image_that_a_container_uses(pair: Pair) -> None:
    """It stays; the printed command removes its record, and the container's snapshot keeps its parents."""
    shell, name = pair.shell, pair.names[0]
    shell.containerd.ctr("containers", "create", name, "web", namespace=shell.namespace)
    assert "\ncontainer web uses it\n" in pair("why", name)
    words = pair("rm", name, code=1)
    assert words.startswith(f'pyctrd: image "{name}" is in use by container web: nothing was removed\n')
    assert name in pair.state()["images"]
    snapshots = set(pair.state()["snapshots"]["overlayfs"])
    run(shell, only(words))
    assert name not in pair.state()["images"]
    assert set(pair.state()["snapshots"]["overlayfs"]) == snapshots
    chains = pair.json("why", "web")["chains"]
    assert [[(item["kind"], item["name"]) for item in chain] for chain in chains] == [
        [("container", "web"), ("snapshot", "web")]
    ]
    shell.containerd.ctr("containers", "rm", "web", namespace=shell.namespace)


def test_why_says_what_keeps_a_layer(pair: Pair) -> None:
    """A shared layer has a chain for each image; after both are removed, it is not here: exit 3."""
    (base,) = (digest for digest in pair.graphs[0].blobs if digest in pair.graphs[1].blobs)
    chains = pair.json("why", base.removeprefix("sha256:")[:16])["chains"]
    assert sorted(chain[0]["name"] for chain in chains) == sorted(pair.names)
    for chain in chains:
        assert [item["kind"] for item in chain] == ["image", "content", "content"]
        assert [item["via"] for item in chain][1] == "target"
    pair("rm", "--no-sync", *pair.names)
    pair("rm", "--no-sync", *pair.names, code=3)
    assert empty(pair.shell.containerd, pair.shell.namespace) == []
    assert "not found" in pair("why", base, code=3)


def test_the_content_of_another_namespace_frees_nothing(pair: Pair) -> None:
    """The blobs go from this namespace and stay on the disk; snapshots of this namespace are freed."""
    shell, name = pair.shell, pair.names[0]
    other = f"{shell.namespace}-other"
    shell.containerd.ctr("content", "fetch", "--plain-http", name, namespace=other)
    result = pair.json("rm", name)
    assert {blob["digest"] for blob in result["blobs"] if blob["shared"]} == pair.own(0)
    assert result["bytes"] == sum(item["bytes"] for item in result["snapshots"])
    where = told(shell, "why", min(pair.own(0)), code=3)
    assert f"hint: it is in the namespace {other}: -n {other}" in where
    shell.containerd.ctr("images", "rm", "--sync", name, namespace=other)


# --- deliberate differences from ctr and nerdctl (docs/differences.md) -----------------------------------


def test_pinned_images_stay_and_a_missing_one_stops_the_removal(pair: Pair) -> None:
    """D3 and D5: ctr removes the pinned image, and the rest if one is missing; D4: an id has all names."""
    shell, (name, other) = pair.shell, pair.names
    missing = f"{name}-missing"
    before = pair.state()
    assert "not found" in pair("rm", other, missing, code=3)
    assert pair.state() == before
    pair("pin", name)
    assert "is pinned (label io.cri-containerd.pinned)" in pair("rm", other, name, code=1)
    assert other in pair.state()["images"]
    ctr = shell.containerd.ctr
    ctr("images", "tag", other, f"{other}-2", namespace=shell.namespace)
    pair("rm", pair.graphs[1].digest)
    assert set(pair.state()["images"]) == {name}
    assert ctr("images", "rm", missing, name, namespace=shell.namespace, check=False).returncode == 0
    assert pair.state()["images"] == {}
