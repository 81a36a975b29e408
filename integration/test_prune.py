"""`prune` on real containerds: what it says before is what is gone, and as many bytes as it says."""

from __future__ import annotations

import datetime as dt
import io
import os
import random
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest

from integration import figures
from integration.conftest import run_required
from integration.graphs import PATIENT, Builder
from integration.rig.daemons import Containerd
from integration.rig.store import State, snapshot_of
from pyctrd.client import Client
from pyctrd.containerd import Daemon
from pyctrd.oci.expiry import EXPIRE_LABEL
from pyctrd.oci.model import PINNED, PINNED_LABEL
from pyctrd.oci.resources import Container, DiskSpace, LeaseResource
from pyctrd.operations.prune_images import FreeSpace, PrunePolicy, prune
from pyctrd.steps.gc_nodes import Node
from pyctrd.steps.removal import RemoveResult
from tests.support import images
from tests.support.images import Graph, tar_of
from tests.support.loading import entry, layout

BLOCK = 4096
REPOSITORIES = ("registry.example/app", "registry.example/team/db")
TAGS = ("1", "2", "3", "latest")
LATER = dt.timedelta(hours=2)
LAYERS = [images.random_layer(5000 * (seed + 1), seed) for seed in range(6)]


class Case:
    """A namespace with random images of common layers, and other objects that keep or use them."""

    def __init__(
        self, containerd: Containerd, channel: grpc.Channel, rng: random.Random, number: int
    ) -> None:
        self.rng = rng
        self.namespace = f"prune-{number}"
        self._containerd = containerd
        self._builder_channel = channel
        with Client(containerd.address, self.namespace) as client:
            client.images.load(io.BytesIO(self._archive()))
        with Daemon.connect(str(containerd.address), self.namespace) as daemon:
            self._name(daemon)

    def _archive(self) -> bytes:
        graphs: dict[str, Graph] = {}
        for _ in range(self.rng.randint(3, 6)):
            layers = [*LAYERS[: self.rng.randint(0, 3)], *self.rng.sample(LAYERS[3:], self.rng.randint(1, 2))]
            graph = images.manifest(images.config(layers, "linux/amd64", n=self.rng.randrange(3)), layers)
            for _ in range(self.rng.randint(1, 2)):
                graphs[f"{self.rng.choice(REPOSITORIES)}:{self.rng.choice(TAGS)}"] = graph
        blobs = {digest: data for graph in graphs.values() for digest, data in graph.blobs.items()}
        return tar_of(layout(*(entry(graph, name) for name, graph in graphs.items()), blobs=blobs))

    def _name(self, daemon: Daemon) -> None:
        """Name images by their digest, some of them only so."""
        for image in daemon.images.list():
            by_digest = f"{image.name.rpartition(':')[0]}@{image.target.digest}"
            if self.rng.random() < 0.5 and not daemon.images.list([f'name=="{by_digest}"']):
                daemon.images.create(msgspec.structs.replace(image, name=by_digest))
                if self.rng.random() < 0.5:
                    daemon.images.delete(image.name)

    def _change(self, daemon: Daemon) -> None:
        """Add pins, expiries, containers, leases and interrupted writes."""
        rng = self.rng
        now = dt.datetime.now(dt.UTC)
        for image in daemon.images.list():
            labels = {}
            if rng.random() < 0.1:
                labels[PINNED_LABEL] = PINNED
            if rng.random() < 0.15:
                labels[EXPIRE_LABEL] = (now - LATER).isoformat(timespec="seconds")
            daemon.images.update(msgspec.structs.replace(image, labels=labels), fields=["labels"])
        names = sorted(image.name for image in daemon.images.list())
        tops = [snapshot.name for snapshot in daemon.snapshots.list("overlayfs")]
        builder = Builder(daemon, self._builder_channel)
        for number in range(rng.randint(0, 2)):
            key = f"rw-{number}"
            (mount,) = daemon.snapshots.prepare("overlayfs", key, rng.choice(tops))
            upper = next(o for o in mount.options if o.startswith("upperdir=")).removeprefix("upperdir=")
            (Path(upper) / "written").write_bytes(rng.randbytes(rng.randrange(20_000)))
            builder.add_container(
                Container(id=f"c{number}", image=rng.choice(names), snapshotter="overlayfs", snapshot_key=key)
            )
        daemon.snapshots.prepare("overlayfs", "extract-1 orphan", "")  # the collector takes it
        digests = [info.digest for info in daemon.content.list()]
        for number in range(rng.randint(0, 2)):
            expiry = {EXPIRE_LABEL: (now + 12 * LATER).isoformat(timespec="seconds")}
            daemon.leases.create(f"l{number}", expiry if rng.random() < 0.7 else {})
            daemon.leases.add(f"l{number}", LeaseResource(type="content", id=rng.choice(digests)))
            if rng.random() < 0.7:
                builder.start_write(f"write-{number}", f"l{number}")
        if rng.random() < 0.3:
            builder.start_write("alone", None)

    def policy(self) -> PrunePolicy:
        rng = self.rng
        chosen: dict[str, Any] = {
            "dangling": rng.random() < 0.4,
            "unused": False,
            "expired": rng.random() < 0.3,
            "leftovers": rng.random() < 0.5,
            "keep_last": rng.choice((None, None, None, None, 1)),
            "until_free": FreeSpace(bytes=rng.randrange(1, 80_000)) if rng.random() < 0.3 else None,
            "keep": tuple(re.compile(word) for word in ("latest$", "/team/") if rng.random() < 0.15),
        }
        if not chosen["dangling"] or rng.random() < 0.5:
            chosen["unused"] = True
        return PrunePolicy(**chosen)

    def check(self) -> Counter[str]:
        """Prune, and compare the result with the dry run, containerd's own files, and du.

        Other namespaces have nothing that a collection takes.
        """
        policy, disk = self.policy(), DiskSpace(root="/", bytes=1 << 30, bytes_free=0)
        now = dt.datetime.now(dt.UTC) + LATER  # so that writes have made no progress for long enough
        with Daemon.connect(str(self._containerd.address), self.namespace) as daemon:
            daemon.collect_garbage()  # the one that earlier deletions may have caused
            self._change(daemon)
            before = objects_of(snapshot_of(self._containerd, self.namespace))
            places = files_of(self._containerd)
            used = du(places)
            planned = prune(daemon, policy, now, disk=lambda: disk, dry_run=True)
            assert objects_of(snapshot_of(self._containerd, self.namespace)) == before
            done = prune(daemon, policy, now, disk=lambda: disk)
        after = objects_of(snapshot_of(self._containerd, self.namespace))
        assert after <= before
        assert objects_in(planned) == before - after, (policy, planned)
        assert done == planned
        left = [place for place in places if place.exists()]
        assert 0 <= used - du(left) - done.bytes <= BLOCK * sum(not blob.shared for blob in done.blobs)
        return Counter(
            graphs=1,
            objects=len(before),
            images=len(done.images),
            collected=len(before - after) - len(done.images),
        )


def objects_of(state: State) -> set[Node]:
    """Return what containerd's own files say that there is, without containers."""
    return {
        *(Node("image", name) for name in state["images"]),
        *(Node("content", digest) for digest in state["content"]),
        *(Node("snapshot", key, owner) for owner, keys in state["snapshots"].items() for key in keys),
        *(Node("lease", name) for name in state["leases"]),
        *(Node("ingest", ref) for ref in state["ingests"]),
    }


def objects_in(result: RemoveResult) -> set[Node]:
    return {
        *(Node("image", name) for name in result.images),
        *(Node("content", str(blob.digest)) for blob in result.blobs),
        *(Node("snapshot", item.key, item.snapshotter) for item in result.snapshots),
        *(Node("lease", name) for name in result.leases),
        *(Node("ingest", ref) for ref in result.ingests),
    }


def files_of(containerd: Containerd) -> Sequence[Path]:
    """Return the files of all blobs, and the folders that snapshots are measured by."""
    root = containerd.root / "root"
    return [
        *(root / "io.containerd.content.v1.content/blobs/sha256").iterdir(),
        *(root / "io.containerd.snapshotter.v1.overlayfs/snapshots").glob("*/fs"),
    ]


def du(places: Iterable[Path]) -> int:
    """Return the bytes of the blocks of files and folders, as du counts them."""
    named = b"\0".join(os.fsencode(place) for place in places)
    done = subprocess.run(
        ["du", "-s", "-c", "--block-size=1", "--files0-from=-"], input=named, capture_output=True, check=True
    )
    return int(done.stdout.split(b"\n")[-2].split()[0])


@pytest.mark.timeout(3600)
@pytest.mark.every_generation
def test_what_a_dry_run_says_is_what_is_gone(
    generation: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Random images in namespaces that share blobs, each of which is pruned by random policies."""
    count = figures.runs(8)
    rng = random.Random(f"{figures.seed()} {generation}")
    totals = Counter[str]()
    with (
        run_required(
            lambda: Containerd(generation, tmp_path_factory.mktemp("patient"), config=PATIENT)
        ) as containerd,
        grpc.insecure_channel(f"unix:{containerd.address}") as channel,
    ):
        cases: list[Case] = []
        for number in range(count):
            cases.append(Case(containerd, channel, rng, number))
            if len(cases) == 5 or number == count - 1:  # several namespaces at a time have the same blobs
                for case in cases:
                    totals += case.check()
                cases = []
    assert totals["images"] > totals["graphs"] // 2
    assert totals["collected"] > totals["graphs"]
    figures.record("prune", generation, **totals, lost=0, left_over=0)
