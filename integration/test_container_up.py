"""scripts/containerd-up as a user runs it: what it prints works, and --down removes everything."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from integration.conftest import peer_required
from integration.rig import peers
from integration.rig.daemons import Dockerd, Registry
from integration.rig.publish import push
from integration.shell import REPOSITORY_ROOT
from pyctrd import Client
from pyctrd.oci.platforms import parse
from tests.support import shapes

pytestmark = pytest.mark.two_generations

Up = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The socket's directory; its path must be short, unlike pytest's."""
    return Path(f"/tmp/pu-{os.getpid()}-{tmp_path.name[-8:]}")


@pytest.fixture
def up(dockerd: Dockerd, generation: str, folder: Path, tmp_path: Path) -> Iterator[Up]:
    """The script, with the session's engine instead of the host's."""
    with peer_required():
        tools = tmp_path / "bin"
        tools.mkdir()
        (tools / "docker").symlink_to(peers.tool("docker"))
    env = {**peers.tool_environment(tools), "DOCKER_HOST": dockerd.address}

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command: list[str | Path] = [
            REPOSITORY_ROOT / "scripts/containerd-up",
            generation,
            "--folder",
            folder,
            *arguments,
        ]
        return subprocess.run(
            command, env={**env, **environment}, capture_output=True, text=True, timeout=100, check=False
        )

    yield run
    run("--down")


def test_up_and_down(
    up: Up, dockerd: Dockerd, generation: str, folder: Path, registry: Registry, repository: str
) -> None:
    done = up()
    assert done.returncode == 0, done.stderr
    told = re.search(r"export CONTAINERD_ADDRESS=(\S+)", done.stdout)
    assert told
    assert told[1] == str(folder / "containerd.sock")
    name = push(shapes.mixed(), registry, repository)
    with Client(told[1]) as client:
        assert client.version().version.removeprefix("v").startswith(f"{generation}.")
        assert client.images.pull(name).unpacked == (parse("linux/amd64"),)
    inside = next(line for line in done.stdout.splitlines() if "docker exec" in line).split("#")[0].split()
    assert name in dockerd.docker(*inside[1:]).stdout.decode()

    assert up().returncode == 0, "starting what runs changes nothing"
    with Client(told[1]) as client:
        assert [image.name for image in client.images.list()] == [name]

    assert up("--down").returncode == 0
    assert not folder.exists()
    assert dockerd.docker("ps", "--all", "--quiet", "--filter", "name=pyctrd-containerd").stdout == b""
    assert dockerd.docker("volume", "ls", "--quiet", "--filter", "name=pyctrd-containerd").stdout == b""
    assert up("--down").returncode == 0, "there is nothing to remove"


def test_without_an_engine_it_says_how_to_get_one(up: Up, tmp_path: Path) -> None:
    done = up(DOCKER_HOST=f"unix://{tmp_path}/nobody.sock")
    assert done.returncode == 1
    assert "no Docker engine: " in done.stderr
    assert "apt-get install docker.io" in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_version(generation: str) -> None:
    script = REPOSITORY_ROOT / "scripts/containerd-up"
    done = subprocess.run([script, "0.9"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no such version: 0.9 (have 1.6, 1.7, 2.1, 2.3, 2.4)" in done.stderr
