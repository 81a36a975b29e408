"""The commands of docs/airgap.md, unchanged, between two machines with nothing between them."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from integration.conftest import peer_required
from integration.pages import commands
from integration.rig import peers
from integration.rig.daemons import ISOLATED_CONTENT, Containerd, ContainerdInDocker, Dockerd, Registry
from integration.rig.peers import NEWEST
from integration.rig.podman import Podman
from integration.rig.publish import push
from integration.rig.store import snapshot_of
from integration.shell import REPOSITORY_ROOT
from tests.support import shapes

PAGE: Final = "airgap.md"
IMAGE: Final = "registry.example.com/team/app:1.4"
K3S: Final = "/run/k3s/containerd/containerd.sock"
NODE: Final = "kind-control-plane"
# What kind runs in each node (pkg/cluster/nodeutils/util.go, LoadImageArchive).
KIND: Final = (
    f"docker exec -i {NODE} ctr --namespace=k8s.io images import --all-platforms --digests "
    '--snapshotter=overlayfs - < "$3"'
)

pytestmark = pytest.mark.parametrize("generation", [NEWEST], indirect=True)


class Gap:
    """A machine with a registry, and one that only archives reach, with each program that may load them."""

    def __init__(self, near: Containerd, far: Containerd, node: ContainerdInDocker, folder: Path) -> None:
        self.near, self.far, self.node = near, far, node
        self.folder = folder
        self.podman = Podman(folder / "podman")
        self._programs = folder / "bin"
        self._programs.mkdir()
        self._nerdctl = folder / "nerdctl.toml"
        self._nerdctl.write_text(f'data_root = "{folder}/nerdctl"\n')

    def program(self, name: str, script: str) -> None:
        """Add a program to those that the commands find."""
        path = self._programs / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def run(self, command: str, dockerd: Dockerd) -> str:
        """Run a command on the machine that the page means: only one of them has the registry."""
        at = self.near if command.startswith(("pyctrd pull", "pyctrd save")) else self.far
        env = {
            **peers.tool_environment(self._programs, at.peer.bin_dir),
            "CONTAINERD_ADDRESS": str(at.address),
            "DOCKER_HOST": dockerd.address,
            "NERDCTL_TOML": str(self._nerdctl),
            "PYTHONPATH": str(REPOSITORY_ROOT),
        }
        done = subprocess.run(
            ["sh", "-c", command], cwd=self.folder, env=env, capture_output=True, check=False, timeout=120
        )
        words = done.stderr.decode(errors="replace")
        assert done.returncode == 0, f"{command}: {words}"
        return done.stdout.decode()


@pytest.fixture
def gap(
    containerd: Containerd, contained: ContainerdInDocker, dockerd: Dockerd, tmp_path: Path
) -> Iterator[Gap]:
    with peer_required():
        nerdctl, docker = peers.nerdctl("2.3.5"), peers.tool("docker")
        with Containerd(NEWEST, tmp_path / "far", ISOLATED_CONTENT) as far:
            made = Gap(containerd, far, contained, tmp_path)
            made.program("pyctrd", f'exec {shlex.quote(sys.executable)} -m pyctrd "$@"')
            made.program("nerdctl", f'exec {nerdctl} "$@"')
            # In a node of kind, the socket is at its default path.
            there = f"-e CONTAINERD_ADDRESS={contained.address}"
            made.program(
                "docker",
                f'if [ "$1" = exec ]; then shift; set -- exec {there} "$@"; fi\nexec {docker} "$@"',
            )
            made.program("podman", f'exec {made.podman.program} "$@"')
            made.program("ssh", 'shift; exec "$@"')  # integration/test_sync.py has a real one
            made.program("kind", KIND.replace(NODE, contained.container))
            yield made


def test_save_on_one_machine_and_load_on_another(
    gap: Gap, dockerd: Dockerd, registry: Registry, repository: str
) -> None:
    graph = shapes.multi(["linux/amd64", "linux/386", "linux/arm64"], salt=repository)
    name = push(graph, registry, repository, "1.4")
    real = {IMAGE: name, K3S: str(gap.far.address), NODE: gap.node.container}
    config = graph.child(0).document()["config"]["digest"]
    ran = []
    titles = "Save on one machine, load on another", "Load"
    for command in [command for title in titles for command in commands(PAGE, title, real)]:
        ran.append(command.split()[0])
        gap.run(command, dockerd)
        if command == "pyctrd load -i app.tar":
            assert name in snapshot_of(gap.far, "default")["images"]
    assert set(ran) == {"pyctrd", "ctr", "nerdctl", "docker", "podman", "kind"}
    for daemon in (gap.far, gap.node):
        images = snapshot_of(daemon, "k8s.io")["images"]
        assert images[name]["target"]["digest"]
    kubelet = snapshot_of(gap.far, "k8s.io")["images"]
    assert set(kubelet) == {name, f"{name.rpartition(':')[0]}@{graph.digest}", config}
    assert name in gap.run("docker image ls --format {{.Repository}}:{{.Tag}}", dockerd).split()
    assert name in gap.run("podman image ls --format {{.Repository}}:{{.Tag}}", dockerd).split()
