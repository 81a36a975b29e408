"""Compressed archives, folders and Docker's older format: what the real programs do with them."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from integration.bench import Bench
from integration.conftest import peer_required
from integration.rig import peers
from integration.rig.daemons import Containerd, Dockerd
from integration.rig.peers import GENERATIONS
from integration.rig.proxy import Fault
from integration.shell import Shell
from integration.test_load import engine, reader
from pyctrd.archive.folder import open_folder
from tests.support import shapes
from tests.support.images import Graph, index

__all__ = ["engine", "reader"]

# All generations write the same bytes: test_save.py.
pytestmark = pytest.mark.parametrize("generation", GENERATIONS[-1:], indirect=True)

PROGRAMS = {".tar.gz": "gzip", ".tgz": "gzip", ".tar.zst": "zstd"}


def imported(reader: Containerd, archive: bytes, namespace: str, *flags: str) -> list[str]:
    """Import an archive with ctr from a pipe; return the names of the images, which must be complete."""
    reader.ctr("images", "import", *flags, "-", namespace=namespace, stdin=archive)
    lines = reader.ctr("images", "check", namespace=namespace).stdout.decode().splitlines()[1:]
    for line in lines:
        assert " complete " in line, lines
        assert "unpacked" in line or "true" in line, lines
    return [line.split()[0] for line in lines]


def inspect(*sources: str) -> None:
    with peer_required():
        skopeo = peers.tool("skopeo")
    for source in sources:
        done = subprocess.run([skopeo, "inspect", source], capture_output=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["Architecture"] == "amd64"


def members(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {item.name: (tar.extractfile(item) or io.BytesIO()).read() for item in tar if item.isfile()}


# --- compressed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", PROGRAMS)
def test_a_compressed_archive_is_the_archive(bench: Bench, engine: Dockerd, suffix: str) -> None:
    """Docker and skopeo load it as it is."""
    name = bench.pull(shapes.five_platform(docker=False, salt=bench.namespace))
    path = bench.folder / f"image{suffix}"
    with bench.client() as client:
        result = client.images.save(name, path)
    raw = path.read_bytes()
    assert (result.bytes_written, result.compression) == (len(raw), PROGRAMS[suffix])
    plain = subprocess.run([PROGRAMS[suffix], "-dc"], input=raw, capture_output=True, check=True).stdout
    assert plain == bench.save(name)
    assert engine.docker("load", stdin=raw).stdout.decode().strip() == f"Loaded image: {name}"
    inspect(f"docker-archive:{path}:{name}", f"oci-archive:{path}:latest")


def test_ctr_of_every_generation_loads_it_after_decompression(bench: Bench, reader: Containerd) -> None:
    name = bench.pull(shapes.five_platform(salt=bench.namespace))
    with bench.client() as client:
        client.images.save(name, bench.folder / "image.tgz")
    plain = gzip.decompress((bench.folder / "image.tgz").read_bytes())
    assert imported(reader, plain, bench.namespace) == [name]


def test_compression_of_a_pipe_and_of_any_name(bench: Bench) -> None:
    shell = Shell(bench.containerd, bench.namespace, bench.folder)
    name = bench.pull(shapes.single(salt=bench.namespace))
    piped = shell("save", "--compress", "zstd", name).stdout
    shell("save", "--compress", "zstd", "--reproducible", "-o", "image.bin", name)
    shell("save", "--compress", "none", "-o", "image.tar.gz", name)
    shell("save", "-o", "image.tar", name)
    plain = (bench.folder / "image.tar").read_bytes()
    assert (bench.folder / "image.tar.gz").read_bytes() == plain
    unpacked = subprocess.run(["zstd", "-dc"], input=piped, capture_output=True, check=True).stdout
    assert unpacked == plain
    first = (bench.folder / "image.bin").read_bytes()
    shell("save", "--compress", "zstd", "--reproducible", "-o", "image.bin", name)
    assert (bench.folder / "image.bin").read_bytes() == first


# --- a folder ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["keep", "prune", "flatten"])
def test_a_folder_has_the_members_of_the_archive(bench: Bench, reader: Containerd, mode: str) -> None:
    name = bench.pull(shapes.five_platform(docker=False, salt=bench.namespace))
    folder = bench.folder / "image"
    with open_folder(str(folder)) as output:
        bench.save_to(output, name, index=mode, format="dir")
    files = {str(item.relative_to(folder)): item.read_bytes() for item in folder.rglob("*") if item.is_file()}
    assert files == members(bench.save(name, index=mode))
    inspect(f"oci:{folder}:latest")
    with peer_required():
        umoci = peers.tool("umoci")
    done = subprocess.run([umoci, "list", "--layout", folder], capture_output=True, check=True, timeout=60)
    assert done.stdout.split() == [b"latest"]
    packed = subprocess.run(["tar", "-C", folder, "-c", "."], capture_output=True, check=True).stdout
    assert imported(reader, packed, bench.namespace) == [name]


def test_a_folder_is_there_as_a_whole_or_not_at_all(bench: Bench) -> None:
    shell = Shell(bench.containerd, bench.namespace, bench.folder)
    graph = shapes.single(salt=bench.namespace)
    name = bench.pull(graph)
    told = shell("save", "--format", "dir", "-o", "image", name).stderr.decode()
    assert f"saved {name} (linux/amd64) to image: " in told
    again = shell("save", "--format", "dir", "-o", "image", name, code=2).stderr.decode()
    assert "image: the folder is not empty" in again
    assert "as a folder" not in again
    bench.ctr("content", "rm", graph.document()["layers"][0]["digest"])
    shell("save", "--offline", "--format", "dir", "-o", "other", name, code=4)
    assert {item.name for item in bench.folder.iterdir() if "image" in item.name or "oth" in item.name} == {
        "image"
    }
    for wrong in (["-o", "-"], [], ["-o", "x", "--compress", "gzip"]):
        shell("save", "--format", "dir", *wrong, name, code=2)


# --- Docker's older format --------------------------------------------------------------------------------

DOCKER_SHAPES: dict[str, Callable[[], Graph]] = {
    "five": lambda: shapes.five_platform(salt="docker"),
    "compressions": shapes.compressions,
    "zstd": lambda: shapes.recompressed("zstd", salt="docker"),
}


@pytest.mark.parametrize("shape", DOCKER_SHAPES)
def test_ctr_of_every_generation_loads_dockers_format(bench: Bench, reader: Containerd, shape: str) -> None:
    name = bench.pull(DOCKER_SHAPES[shape]())
    archive = docker_archive(bench, name)
    assert imported(reader, archive, bench.namespace) == [name]


@pytest.mark.parametrize("shape", DOCKER_SHAPES)
def test_docker_and_skopeo_load_dockers_format(bench: Bench, engine: Dockerd, shape: str) -> None:
    graph = DOCKER_SHAPES[shape]()
    name = bench.pull(graph)
    archive = docker_archive(bench, name)
    assert engine.docker("load", stdin=archive).stdout.decode().strip() == f"Loaded image: {name}"
    image = graph if "layers" in graph.document() else graph.child(0)
    config = image.document()["config"]["digest"]
    (found,) = json.loads(engine.docker("image", "inspect", name).stdout)
    if not engine.containerd_store:  # where the id is that of a manifest
        assert found["Id"] == config
    assert found["RootFS"]["Layers"] == json.loads(graph.blobs[config])["rootfs"]["diff_ids"]
    path = bench.folder / "docker.tar"
    path.write_bytes(archive)
    inspect(f"docker-archive:{path}:{name}")


def docker_archive(bench: Bench, *names: str) -> bytes:
    """Save in Docker's format; every layer is the tar that its name says, and nothing is an OCI layout."""
    output = io.BytesIO()
    with bench.client() as client:
        client.images.save(names, output, format="docker", ensure="none")
    found = members(output.getvalue())
    manifest = json.loads(found["manifest.json"])
    used = {"manifest.json", *(entry["Config"] for entry in manifest)}
    for layer in (layer for entry in manifest for layer in entry["Layers"]):
        used.add(layer)
        with tarfile.open(fileobj=io.BytesIO(found[layer]), mode="r:") as tar:
            assert tar.getnames()
    assert set(found) == used
    return output.getvalue()


def test_several_images_with_a_common_layer_and_a_second_name(bench: Bench, engine: Dockerd) -> None:
    graph = shapes.shared_layers(salt=bench.namespace)
    names = [bench.pull(graph.child(number).described_as(platform=None)) for number in (0, 2)]
    names.append("docker.io/library/second:1")
    bench.ctr("images", "tag", names[0], names[2])
    engine.docker("load", stdin=docker_archive(bench, *names))
    for name in names:
        engine.docker("image", "inspect", name)


def test_what_dockers_format_cannot_hold(bench: Bench) -> None:
    shell = Shell(bench.containerd, bench.namespace, bench.folder)
    name = bench.pull_all(shapes.multi(["linux/amd64", "linux/arm64"], salt=bench.namespace))
    docker = ("save", "--offline", "--format", "docker", "-o", "x.tar")
    told = shell(*docker, "--all-platforms", name, code=2).stderr.decode()
    assert "--format docker needs one image, but there are 2 (linux/amd64, linux/arm64)" in told
    assert "--format oci" in told
    shell(*docker, "--index", "prune", name, code=2)
    artifact = bench.pull(shapes.artifact(), check=False)
    told = shell(*docker, artifact, code=1).stderr.decode()
    assert "docker cannot load a config of type application/vnd.oci.empty.v1+json" in told
    assert not (bench.folder / "x.tar").exists()
    planned = shell.json(*docker, "--dry-run", name)
    assert planned["archive_bytes"] > 0
    shell(*docker, name)


# --- attestations -----------------------------------------------------------------------------------------


ATTESTED = {
    "": False,
    "--attestations keep": True,
    "--attestations drop": False,
    "--all-platforms": True,
    "--all-platforms --attestations drop": False,
}


@pytest.mark.parametrize("flags", ATTESTED)
def test_attestations_of_the_saved_platforms(bench: Bench, flags: str) -> None:
    """That of another platform is no more wanted than the platform."""
    shell = Shell(bench.containerd, bench.namespace, bench.folder)
    native, other = (
        shapes.multi([on], salt=bench.namespace).child(0) for on in ("linux/amd64", "linux/arm64")
    )
    attestations = [shapes.attestation(native), shapes.attestation(other)]
    name = bench.pull(index([native, other, *attestations]))
    shell("save", "--plain-http", "-o", "image.tar", *flags.split(), name)
    found = set(members((bench.folder / "image.tar").read_bytes()))
    own, foreign = (
        {
            f"blobs/sha256/{digest.partition(':')[2]}"
            for digest in (item.digest, *(layer["digest"] for layer in item.document()["layers"]))
        }
        for item in attestations
    )
    assert found & own == (own if ATTESTED[flags] else set())
    assert (found & foreign == foreign) == ("--all-platforms" in flags and ATTESTED[flags])


# --- what is missing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["warn", "skip"])
def test_what_is_missing_is_left_out(bench: Bench, reader: Containerd, mode: str) -> None:
    shell = Shell(bench.containerd, bench.namespace, bench.folder)
    graph = shapes.multi(["linux/amd64", "linux/arm64", "linux/s390x"], salt=bench.namespace)
    name, whole = bench.pull_all(graph), bench.pull(shapes.single(salt=bench.namespace))
    gone = graph.child(1).document()["layers"][0]["digest"]
    bench.ctr("content", "rm", gone)
    save = ("save", "--offline", "-o", "image.tar", "--index", "prune", "--platform")
    wanted = ("linux/amd64,linux/arm64,linux/riscv64", name, whole)
    shell(*save, *wanted, code=3)
    done = shell(*save, *wanted[:1], "--on-missing", mode, *wanted[1:])
    told = done.stderr.decode()
    assert "2 platforms left out" in told
    for words in (f"{name} has no linux/riscv64", f"content digest {gone}: not found"):
        assert (f"pyctrd: warning: {words}" in told or f": {words}" in told) == (mode == "warn"), told
    result = shell.json(*save, *wanted[:1], "--on-missing", mode, *wanted[1:])
    assert [(item["image"], item["platform"]) for item in result["skipped"]] == [
        (name, "linux/riscv64"),
        (name, "linux/arm64"),
    ]
    assert [item["digest"] for item in result["skipped"][1]["missing"]] == [gone]
    archive = (bench.folder / "image.tar").read_bytes()
    assert sorted(imported(reader, archive, bench.namespace)) == sorted([name, whole])


def test_an_image_of_which_nothing_is_left_is_left_out(bench: Bench) -> None:
    shell = Shell(bench.containerd, bench.namespace, bench.folder)
    graph = shapes.single(salt=bench.namespace)
    name, whole = bench.pull(graph), bench.pull(shapes.single(salt="whole"))
    bench.ctr("content", "rm", graph.document()["layers"][0]["digest"])
    save = ("save", "--offline", "-o", "image.tar", "--on-missing", "skip")
    assert shell.json(*save, name, whole)["images"] == [whole]
    shell(*save, name, code=4)


def test_what_the_registry_lacks_too_is_left_out(bench: Bench) -> None:
    """The other platform is fetched nevertheless."""
    graph = shapes.multi(["linux/amd64", "linux/arm64"], salt=bench.namespace)
    name = bench.pull(graph)
    lost = graph.child(0).document()["layers"][0]["digest"]
    bench.ctr("content", "rm", lost)
    bench.registry.add_fault(Fault(f"blobs/{lost}", methods=("GET", "HEAD"), status=404))
    shell = Shell(bench.containerd, bench.namespace, bench.folder)
    save = ("save", "--plain-http", "-o", "x.tar", "--platform", "linux/amd64,linux/arm64")
    shell(*save, name, code=5)
    result = shell.json(*save, "--on-missing", "skip", name)
    assert result["platforms"] == ["linux/arm64"]
    assert [item["platform"] for item in result["skipped"]] == ["linux/amd64"]


# --- how to load it ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["", "--compress gzip", "--format dir"])
def test_the_summary_says_how_containerd_1_loads_a_kept_index(
    bench: Bench, reader: Containerd, how: str
) -> None:
    """amd64 can run 386, so that its client asks for 386 as well, which the index lists."""
    shell = Shell(bench.containerd, bench.namespace, bench.folder)
    name = bench.pull(shapes.multi(["linux/amd64", "linux/386"], salt=bench.namespace))
    told = shell("save", "--offline", *how.split(), "-o", "an image", name).stderr.decode()
    (hint,) = [line for line in told.splitlines() if line.startswith("hint: ")]
    command = hint.rpartition(": ")[2]
    if not how:
        plain = reader.ctr("images", "import", bench.folder / "an image", namespace="plain", check=False)
        assert bool(plain.returncode) == reader.is_1, plain.stderr
    run(reader, bench.namespace, bench.folder, command)
    lines = reader.ctr("images", "check", namespace=bench.namespace).stdout.decode().splitlines()[1:]
    assert [line.split()[0] for line in lines] == [name]
    quiet = shell("save", "--offline", *how.split(), "--index", "prune", "-o", "pruned", name).stderr.decode()
    assert "hint: " not in quiet


def run(reader: Containerd, namespace: str, folder: Path, command: str) -> None:
    """Run a command line that is printed for another machine on the reader."""
    env: dict[str, Any] = peers.tool_environment(reader.peer.bin_dir)
    env |= {"CONTAINERD_ADDRESS": str(reader.address), "CONTAINERD_NAMESPACE": namespace}
    subprocess.run(["sh", "-c", command], cwd=folder, env=env, check=True, timeout=120)
