"""scripts/build-image: Docker and containerd load the image, and it works with few rights on a socket."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from integration.bench import Bench
from integration.rig.daemons import Dockerd
from integration.rig.peers import NEWEST
from integration.shell import REPOSITORY_ROOT, Shell
from pyctrd.version import __version__
from tests.support import shapes

pytestmark = [
    pytest.mark.parametrize("generation", [NEWEST], indirect=True),
    pytest.mark.timeout(400),  # the first test builds the image
]

NAME = f"pyctrd:{__version__}"
# A container needs nothing else to read and write images; unpacking is containerd's work.
RIGHTS = (
    *("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--memory", "128m", "--network"),
)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image")
    subprocess.run([REPOSITORY_ROOT / "scripts" / "build-image", "--out", folder], check=True, timeout=300)
    (file,) = folder.iterdir()
    assert file.name == f"pyctrd-{__version__}-image.tar"
    return file


@pytest.fixture(scope="module")
def engine(dockerd: Dockerd, archive: Path) -> Dockerd:
    """A Docker engine that has the image."""
    assert NAME in dockerd.docker("load", "--input", str(archive)).stdout.decode()
    return dockerd


def test_containerd_loads_it(shell: Shell, archive: Path, bench: Bench) -> None:
    (loaded,) = shell.json("load", "--no-unpack", "-i", str(archive))["images"]
    assert loaded["name"] == f"docker.io/library/{NAME}"
    shell("verify")
    bench.ctr("images", "import", "--no-unpack", str(archive))


def test_it_works_on_a_mounted_socket(bench: Bench, engine: Dockerd) -> None:
    graph = shapes.five_platform()
    name = bench.pull(graph)
    for layer in graph.child(0).document()["layers"]:
        bench.ctr("content", "rm", layer["digest"])
    socket = bench.containerd.address

    def run(*words: str, network: str = "none", code: int = 0) -> str:
        done = engine.docker(
            *("run", "--rm", *RIGHTS, network),
            *("--volume", f"{socket.parent}:{socket.parent}:ro", NAME),
            *("-a", str(socket), "-n", bench.namespace, *words),
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done.stdout.decode()

    assert f"pyctrd: {__version__}" in run("version")
    assert name in run("diagnose", "-q", code=4)
    assert "fetched" in run("ensure", "--all", network="host")
    assert run("diagnose", "-q") == ""
