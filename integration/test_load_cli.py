"""`pyctrd load` on real containerds: its JSON, pipes, interrupts, and that nothing is sent twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from integration.bench import Bench
from integration.rig.containerd import Containerd
from integration.rig.publish import write_layout
from integration.rig.store import collect_garbage, snapshot_of
from integration.shell import Shell
from pyctrd import AsyncClient, Client
from pyctrd.containerd.content import ContentService
from pyctrd.containerd.ingest import IngestWriter
from pyctrd.ports import SmallBlob
from tests.support import images, shapes
from tests.support.images import Graph
from tests.support.loading import archive_of, docker_archive

pytestmark = pytest.mark.two_generations

NAME = "registry.example/team/app:latest"


def large(seed: int = 1, *, compression: str = "gzip") -> Graph:
    made = images.random_layer(8 << 20, seed=seed, compression=compression)
    return images.manifest(images.config([made]), [made])


@pytest.fixture
def shell(fresh_containerd: Containerd, namespace: str, tmp_path: Path) -> Shell:
    return Shell(fresh_containerd, namespace, tmp_path)


@pytest.mark.every_generation
def test_the_json_of_a_load(shell: Shell) -> None:
    graph = shapes.mixed()
    (shell.folder / "a.tar").write_bytes(archive_of(graph))
    planned = shell.json("load", "-i", "a.tar", "--dry-run")
    assert shell.have() == set()
    done = shell.json("load", "-i", "a.tar")
    assert done == planned
    written = done.pop("bytes_written")
    assert done == {
        "images": [
            {
                "name": NAME,
                "target": {key: graph.root[key] for key in ("mediaType", "digest", "size")},
                "platforms": ["linux/amd64"],
                "complete": True,
            }
        ],
        "bytes_present": 0,
        "unpacked": ["linux/amd64"],
        "referrers": [],
    }
    with (shell.folder / "a.tar").open("rb") as stdin:
        again = json.loads(shell("load", "--format", "json", stdin=stdin).stdout)
    assert (again["bytes_written"], again["bytes_present"]) == (0, written)


def test_a_loaded_image_is_complete_for_other_commands(bench: Bench) -> None:
    graph = shapes.five_platform(salt=bench.namespace)
    with bench.client() as client:
        path = bench.folder / "a.tar"
        path.write_bytes(archive_of(graph))
        client.images.load(path)
        assert client.images.overview()[0].complete
        saved = bench.folder / "b.tar"
        client.images.save(NAME, saved, ensure="none")
    lines = bench.ctr("images", "check").stdout.decode()
    assert " complete " in lines


@pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
def test_of_content_that_is_there_nothing_is_sent(
    fresh_containerd: Containerd,
    namespace: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    docker: bool,
) -> None:
    sent: list[int] = []
    write, write_small = IngestWriter.write, ContentService.write_small

    def counted(writer: IngestWriter, data: bytes) -> None:
        sent.append(len(data))
        write(writer, data)

    def counted_small(content: ContentService, blobs: Iterable[SmallBlob]) -> Iterator[bool]:
        for blob in blobs:
            sent.append(len(blob.data))
            yield from write_small(content, [blob])

    monkeypatch.setattr(IngestWriter, "write", counted)
    monkeypatch.setattr(ContentService, "write_small", counted_small)
    path = tmp_path / "a.tar"
    made = large(compression="" if docker else "gzip")
    path.write_bytes(docker_archive(made, "app:v1") if docker else archive_of(made))
    with Client(fresh_containerd.address, namespace) as client:
        first = client.images.load(path)
        assert sum(sent) == first.bytes_written
        sent.clear()
        again = client.images.load(path)
    assert sent == []
    assert (again.bytes_written, again.bytes_present) == (0, first.bytes_written)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_load_from_a_silent_pipe_can_be_interrupted(shell: Shell, number: signal.Signals) -> None:
    data = archive_of(large())
    with shell.start("load", "--progress", "json", stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin
        process.stdin.write(data[: 4 << 20])
        process.stdin.flush()
        deadline = time.monotonic() + 60
        while not snapshot_of(shell.containerd, shell.namespace)["ingests"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number, stderr.decode()
    left = snapshot_of(shell.containerd, shell.namespace)
    assert (left["images"], len(left["leases"]), len(left["ingests"])) == ({}, 1, 1)
    (shell.folder / "a.tar").write_bytes(data)
    done = shell.json("load", "-i", "a.tar")
    assert done["bytes_written"] < 8 << 20  # the rest
    assert done["images"][0]["complete"]


@pytest.mark.every_generation
@pytest.mark.parametrize("after", [0.0, 0.3, 0.6, 0.9])
def test_a_killed_load_leaves_nothing_that_hinders_the_next(shell: Shell, after: float) -> None:
    graph = large()
    data = archive_of(graph)
    reading, writing = os.pipe()
    with shell.start("load", "--progress", "none", stdin=reading) as process:
        os.close(reading)
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(data[: int(after * len(data))])
            pipe.flush()
            process.send_signal(signal.SIGKILL)
    assert snapshot_of(shell.containerd, shell.namespace)["images"] == {}
    shell("load", "--progress", "none", "-i", str(written(shell.folder / "a.tar", data)))
    for lease in snapshot_of(shell.containerd, shell.namespace)["leases"]:
        shell.containerd.ctr("leases", "delete", lease, namespace=shell.namespace)
    collect_garbage(shell.containerd, shell.namespace)
    left = snapshot_of(shell.containerd, shell.namespace)
    assert set(left["content"]) == set(graph.blobs)
    assert (list(left["images"]), left["ingests"]) == ([NAME], {})


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_folder_is_loaded(shell: Shell) -> None:
    graph = shapes.single()
    write_layout(graph, shell.folder / "layout", "v1")
    done = shell.json("load", "-i", "layout", "--base-name", "example.com/app")
    assert [image["name"] for image in done["images"]] == ["example.com/app:v1"]
    assert shell.have() == set(graph.blobs)


async def test_an_asynchronous_client_loads(
    fresh_containerd: Containerd, namespace: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "a.tar", archive_of(shapes.single()))
    async with AsyncClient(fresh_containerd.address, namespace) as client:
        assert (await client.images.load(path)).images[0].complete


def test_usage_errors(shell: Shell) -> None:
    shell("load", "-i", "missing.tar", code=1)
    shell("load", "-i", "missing.tar", "--name", "a", "--base-name", "b", code=2)
    shell("load", "-i", "missing.tar", "--platform", "linux/amd64", "--all-platforms", code=2)
    shell("load", stdin=subprocess.DEVNULL, code=1)
