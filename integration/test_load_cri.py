"""`pyctrd load --cri`: what the kubelet's services show of a loaded image, according to the real crictl."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.conftest import peer_required
from integration.rig import peers
from integration.rig.containerd import Containerd
from integration.rig.store import collect_garbage, snapshot_of
from integration.shell import Shell
from tests.support import shapes
from tests.support.loading import archive_of

NAME = "registry.example/team/app:v1"


class Crictl:
    """Runs the real crictl against one containerd."""

    def __init__(self, program: Path, daemon: Containerd) -> None:
        self._command: list[str | Path] = [
            program,
            "-r",
            f"unix://{daemon.address}",
            "-i",
            f"unix://{daemon.address}",
        ]

    def __call__(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        command = [*self._command, *arguments]
        return subprocess.run(command, capture_output=True, check=check, timeout=60)

    def images(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self("images", "-o", "json").stdout)["images"]
        return found

    def wait(self) -> None:
        """Wait until the services answer."""
        deadline = time.monotonic() + 60
        while self("images", check=False).returncode:
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.fixture
def kubelet(generation: str, tmp_path: Path) -> Iterator[tuple[Shell, Crictl]]:
    with peer_required(), Containerd(generation, tmp_path / "containerd", cri=True) as daemon:
        crictl = Crictl(peers.crictl(), daemon)
        crictl.wait()
        yield Shell(daemon, "k8s.io", tmp_path), crictl


def test_the_kubelet_sees_a_loaded_image(kubelet: tuple[Shell, Crictl]) -> None:
    shell, crictl = kubelet
    graph = shapes.mixed()
    (shell.folder / "a.tar").write_bytes(archive_of(graph, NAME))
    shell("load", "--cri", "-i", "a.tar")
    config = graph.child(0).document()["config"]["digest"]
    for _ in range(2):
        (image,) = crictl.images()
        assert image["id"] == config
        assert image["repoTags"] == [NAME]
        assert image["repoDigests"] == [f"registry.example/team/app@{graph.digest}"]
        # Also what was recorded before the services of the kubelet were started.
        shell.containerd.stop()
        shell.containerd.start()
        crictl.wait()
    assert json.loads(crictl("inspecti", "-o", "json", NAME).stdout)["status"]["id"] == config
    crictl("rmi", NAME)
    assert crictl.images() == []
    collect_garbage(shell.containerd, "k8s.io")
    left = snapshot_of(shell.containerd, "k8s.io")
    assert (left["images"], left["content"]) == ({}, {})


def test_another_namespace_is_refused(kubelet: tuple[Shell, Crictl]) -> None:
    shell, _ = kubelet
    (shell.folder / "a.tar").write_bytes(archive_of(shapes.single(), NAME))
    done = shell("-n", "default", "load", "--cri", "-i", "a.tar", code=2)
    assert b"the kubelet sees only the namespace k8s.io" in done.stderr
    assert b"-n k8s.io" in done.stderr
