"""What a save protects while it runs: other clients remove everything else that refers to its content."""

from __future__ import annotations

import io
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import pytest

from integration.rig.collector import empty
from integration.rig.daemons import Containerd
from integration.rig.store import collect_garbage, snapshot_of
from integration.shell import Shell
from integration.test_collector import whole_blobs
from pyctrd import Client
from pyctrd.containerd import Daemon
from tests.support import shapes
from tests.support.images import Graph, reachable
from tests.support.loading import entry, layout
from tests.support.tars import tar_of

PINS = "containerd.io/gc.ref.content.pyctrd."


def loaded(client: Client, graphs: Sequence[Graph]) -> list[str]:
    """Load images, and return their names."""
    names = [f"example.test/pinned/{number}:1" for number in range(len(graphs))]
    entries = [entry(graph, name) for graph, name in zip(graphs, names, strict=True)]
    blobs = dict(chain.from_iterable(reachable(graph).items() for graph in graphs))
    archive = tar_of(layout(*entries, blobs=blobs))
    client.images.load(io.BytesIO(archive), platforms="all", unpack=False)
    return names


class Stuck:
    """A save of two images to a pipe that is not read until `finish`, and what other clients do meanwhile."""

    def __init__(self, containerd: Containerd, namespace: str, folder: Path) -> None:
        self.graphs = [shapes.big(18 << 20, layers=3), shapes.mixed(salt=namespace)]
        self.containerd, self.namespace = containerd, namespace
        self.daemon = Daemon.connect(str(containerd.address), namespace)
        with Client(containerd.address, namespace) as client:
            self.names = loaded(client, self.graphs)
        arguments = ("save", "--all-platforms", *self.names)
        shell = Shell(containerd, namespace, folder)
        pipe = subprocess.PIPE
        self.process = shell.start(*arguments, stdout=pipe, stderr=pipe, bufsize=0)  # or read(512) reads more
        assert self.process.stdout is not None
        self.begun = self.process.stdout.read(512)

    def remove_references(self, *, pins: bool = False) -> None:
        """Remove the image records and all gc labels, of the pins only if they are meant, and collect."""
        for info in tuple(self.daemon.content.list()):
            is_pin = any(key.startswith(PINS) for key in info.labels)
            keys = [key for key in info.labels if key.startswith("containerd.io/gc.ref.")]
            if keys and (pins or not is_pin):
                self.daemon.content.set_labels(info.digest, dict.fromkeys(keys, ""))
        for name in self.names:
            self.daemon.images.delete(name, sync=True)
        collect_garbage(self.containerd, self.namespace)  # by another client's lease

    def finish(self, code: int) -> tuple[bytes, str]:
        """Return the archive and the messages."""
        stdout, stderr = self.process.communicate(timeout=60)
        assert self.process.returncode == code, stderr.decode()
        return self.begun + stdout, stderr.decode()


@pytest.fixture
def stuck(containerd: Containerd, namespace: str, tmp_path: Path) -> Iterator[Stuck]:
    stuck = Stuck(containerd, namespace, tmp_path)
    with stuck.daemon:
        yield stuck
        stuck.process.kill()
        stuck.process.communicate()


@pytest.mark.every_generation
def test_an_archive_is_whole_although_nothing_else_keeps_its_content(stuck: Stuck) -> None:
    stuck.remove_references()
    archive, _ = stuck.finish(0)
    assert whole_blobs(archive) >= set(chain.from_iterable(map(reachable, stuck.graphs)))
    assert empty(stuck.containerd, stuck.namespace) == []


@pytest.mark.two_generations
def test_an_archive_whose_pins_are_removed_is_an_error(stuck: Stuck) -> None:
    stuck.remove_references(pins=True)
    _, words = stuck.finish(4)
    assert "failed to get reader: content digest sha256:" in words
    assert "another client deleted it while it was being saved" in words
    assert empty(stuck.containerd, stuck.namespace) == []


@pytest.mark.two_generations
def test_what_a_killed_save_leaves_goes_with_its_lease(stuck: Stuck) -> None:
    stuck.process.kill()
    stuck.process.wait()
    state = snapshot_of(stuck.containerd, stuck.namespace)
    [lease] = state["leases"]
    assert [label for blob in state["content"].values() for label in blob["labels"] if label.startswith(PINS)]
    stuck.daemon.leases.delete(lease)
    assert empty(stuck.containerd, stuck.namespace) == []


# --- counts ----------------------------------------------------------------------------------------------


@pytest.mark.two_generations
def test_a_save_of_many_images_reads_each_blob_once(
    containerd: Containerd, namespace: str, called: Counter[str]
) -> None:
    """What it writes and looks up does not grow with the images, and it asks for each image once."""
    count = 30
    graphs = [shapes.single(layers=3, salt=f"{namespace}-{number}") for number in range(count)]
    blobs = set(chain.from_iterable(graph.blobs for graph in graphs))
    with Client(containerd.address, namespace) as client:
        names = loaded(client, graphs)
        called.clear()
        result = client.images.save(names, io.BytesIO())
    assert set(result.blobs) == blobs
    assert called == {
        "Images/Get": count,
        "Content/Read": len(blobs),
        "Leases/Create": 1,
        "Content/Write": 1,
        "Content/List": 1,
        "Leases/Delete": 1,
        "Content/Delete": 1,
    }
