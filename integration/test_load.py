"""ctr of every generation, docker, skopeo and umoci read archives of pyctrd."""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Callable, Iterator

import pytest

from integration.bench import Bench
from integration.conftest import peer_required, run_required
from integration.rig import peers
from integration.rig.daemons import Containerd, Dockerd
from integration.rig.peers import GENERATIONS
from tests.support import shapes
from tests.support.images import Graph


@pytest.fixture(scope="module", params=GENERATIONS)
def reader(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    """An empty containerd of each generation, whose content comes only from the archive."""
    with run_required(
        lambda: Containerd(str(request.param), tmp_path_factory.mktemp(f"reader-{request.param}"))
    ) as daemon:
        yield daemon


@pytest.mark.parametrize("index", ["keep", "prune", "flatten"])
@pytest.mark.parametrize("make", [shapes.single, shapes.five_platform], ids=["single", "five"])
def test_ctr_of_every_generation_loads_archives(
    bench: Bench, reader: Containerd, make: Callable[..., Graph], index: str
) -> None:
    graph = make(salt=bench.namespace)
    name = bench.pull(graph)
    archive = bench.folder / "image.tar"
    archive.write_bytes(bench.save(name, index=index))
    reader.ctr("images", "import", archive, namespace=bench.namespace)
    lines = reader.ctr("images", "check", namespace=bench.namespace).stdout.decode().splitlines()[1:]
    assert [line.split()[0] for line in lines] == [name]
    assert " complete " in lines[0], lines
    assert "unpacked" in lines[0] or "true" in lines[0], lines


@pytest.mark.parametrize("index", ["keep", "prune", "flatten"])
@pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
def test_skopeo_and_umoci_read_archives(bench: Bench, index: str, docker: bool) -> None:
    with peer_required():
        skopeo, umoci = peers.tool("skopeo"), peers.tool("umoci")
    name = bench.pull(shapes.five_platform(docker=docker))
    archive = bench.folder / "image.tar"
    archive.write_bytes(bench.save(name, index=index))
    # skopeo accepts no Docker media types in an OCI layout, whatever tool wrote it.
    sources = [f"docker-archive:{archive}:{name}", *([] if docker else [f"oci-archive:{archive}:latest"])]
    for source in sources:
        done = subprocess.run([skopeo, "inspect", source], capture_output=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["Architecture"] == "amd64"
    layout = bench.folder / "layout"
    with tarfile.open(archive) as tar:
        tar.extractall(layout, filter="data")
    done = subprocess.run([umoci, "list", "--layout", layout], capture_output=True, check=False, timeout=60)
    assert done.stdout.split() == [b"latest"], done.stderr


@pytest.fixture(scope="module", params=[False, True], ids=["docker's store", "containerd's store"])
def engine(
    request: pytest.FixtureRequest, dockerd: Dockerd, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Dockerd]:
    """A Docker engine with its own image store, and one with containerd's."""
    if not request.param:
        yield dockerd
        return
    folder = tmp_path_factory.mktemp("dockerd")
    with run_required(lambda: Dockerd(folder, containerd_store=True)) as daemon:
        yield daemon


@pytest.mark.parametrize("generation", GENERATIONS[-1:], indirect=True)
@pytest.mark.parametrize("index", ["keep", "prune"])
@pytest.mark.parametrize("suffix", ["", "@"], ids=["tag", "digest"])
def test_every_image_store_of_docker_loads_a_name_with_a_digest(
    bench: Bench, engine: Dockerd, suffix: str, index: str
) -> None:
    """Docker's classic store has no names with digests, but must still load the image."""
    graph = shapes.multi(["linux/amd64", "linux/s390x"], salt=bench.namespace)
    name = bench.pull_all(graph)
    if suffix:
        pinned = f"{name.rpartition(':')[0]}@{graph.digest}"
        bench.ctr("images", "tag", name, pinned)
        name = pinned
    done = engine.docker("load", stdin=bench.save(name, platforms=["all"], index=index))
    config = graph.child(0).document()["config"]["digest"]
    loaded = done.stdout.decode().strip()
    own = not engine.containerd_store
    assert loaded == (f"Loaded image ID: {config}" if own and suffix else f"Loaded image: {name}")
    found = json.loads(engine.docker("image", "inspect", config if own else name).stdout)
    assert [image["Architecture"] for image in found] == ["amd64"]


def test_docker_loads_archives(bench: Bench, dockerd: Dockerd) -> None:
    names = [bench.pull(shapes.five_platform(salt="docker")), bench.pull(shapes.single(salt="docker"))]
    dockerd.docker("load", stdin=bench.save(*names))
    for name in names:
        dockerd.docker("image", "inspect", name)
