"""`pyctrd usage` compared with `du` of containerd's folders, and `pyctrd prune` as users run it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from integration.rig.daemons import Containerd, Registry
from integration.rig.publish import push
from integration.shell import Shell
from pyctrd.containerd import Daemon
from pyctrd.containerd.disk import disk_space
from tests.support import images
from tests.support.images import Graph

BLOCK = 4096


@pytest.fixture
def here(fresh_containerd: Containerd, tmp_path: Path) -> Shell:
    return Shell(fresh_containerd, "default", tmp_path)


def du(places: Iterable[Path]) -> int:
    """Return the bytes of the blocks of files and folders, as du counts them."""
    named = b"\0".join(os.fsencode(place) for place in places)
    done = subprocess.run(
        ["du", "-s", "-c", "--block-size=1", "--files0-from=-"], input=named, capture_output=True, check=True
    )
    return int(done.stdout.split(b"\n")[-2].split()[0])


def built(*layers: images.Layer) -> Graph:
    return images.manifest(images.config(layers, "linux/amd64"), layers)


def special_files(folder: Path) -> None:
    """Write what is hard to measure: a sparse file, hard links, a symbolic link, an empty folder."""
    with (folder / "sparse").open("wb") as stream:
        stream.truncate(64 << 20)
        stream.seek(32 << 20)
        stream.write(b"x" * 5000)
    (folder / "linked").write_bytes(os.urandom(100_000))
    for number in range(3):
        (folder / f"link-{number}").hardlink_to(folder / "linked")
    (folder / "symbolic").symlink_to("linked")
    (folder / "empty").mkdir()


def test_usage_equals_du(here: Shell, registry: Registry, repository: str) -> None:
    """Of blobs within a block per file; of snapshots exactly, also with sparse files and hard links."""
    daemon = here.containerd
    base = images.random_layer(300_000)
    graphs = [built(base, images.random_layer(50_000, seed)) for seed in (1, 2, 3)]
    names = [push(graph, registry, f"{repository}/{number}") for number, graph in enumerate(graphs)]
    for snapshotter, name in (*(("overlayfs", name) for name in names), ("native", names[0])):
        here.env["CONTAINERD_SNAPSHOTTER"] = snapshotter
        here("pull", "--plain-http", name)
    written = {}
    for snapshotter, inside in (("overlayfs", "fs"), ("native", "")):
        home = daemon.root / f"root/io.containerd.snapshotter.v1.{snapshotter}/snapshots"
        before = set(home.iterdir())
        parent = daemon.ctr("snapshots", "--snapshotter", snapshotter, "ls").stdout.decode().splitlines()[1]
        daemon.ctr("snapshots", "--snapshotter", snapshotter, "prepare", "mine", parent.split()[0])
        (made,) = set(home.iterdir()) - before
        special_files(made / inside)
        written[snapshotter] = [place / inside for place in home.iterdir()]
    os.sync()
    blobs = daemon.root / "root/io.containerd.content.v1.content/blobs/sha256"

    empty = here("-n", "other", "usage").stderr.decode()
    hint = empty.partition("hint: pyctrd ")[2].split()
    assert here(*hint).stdout == here("usage").stdout  # the namespace that has images

    found = here.json("usage")
    files = list(blobs.iterdir())
    assert found["blobs"]["count"] == len(files)
    assert 0 <= du(files) - found["blobs"]["bytes"] <= BLOCK * len(files)
    measured = {name: du(places) for name, places in written.items()}
    assert {name: part["bytes"] for name, part in found["snapshots"]["snapshotters"].items()} == measured
    assert found["snapshots"]["bytes"] == sum(measured.values()) > 300_000
    assert found["bytes"] == found["blobs"]["bytes"] + found["snapshots"]["bytes"]
    assert {image["bytes_shared"] for image in found["images"] if image["name"] in names} != {0}
    assert found["blobs"]["reclaimable"] == found["blobs"]["bytes"]


@pytest.mark.every_generation
def test_prune_knows_the_free_space(here: Shell, registry: Registry, repository: str) -> None:
    """For --until-free, the file system of containerd's content is measured."""
    name = push(built(images.random_layer(10_000)), registry, repository)
    here("pull", "--plain-http", name)
    root = here.containerd.root / "root/io.containerd.content.v1.content"
    with Daemon.connect(str(here.containerd.address)) as daemon:
        found, status = disk_space(daemon), os.statvfs(root)
    assert (found.root, found.bytes) == (str(root), status.f_blocks * status.f_frsize)
    assert found.bytes_free == pytest.approx(status.f_bavail * status.f_frsize, abs=1 << 30)

    enough = here.json("prune", "--until-free", "1", "--dry-run")
    assert (enough["images"], enough["bytes_missing"]) == ([], 0)
    impossible = here.json("prune", "--until-free", "100%", "--force")
    assert impossible["images"] == [name]
    assert impossible["bytes_missing"] > 0
    assert not here.json("usage")["blobs"]["count"]


@pytest.mark.two_generations
def test_prune_without_a_terminal_needs_force(here: Shell) -> None:
    refused = here("prune", "--unused", code=2)
    assert b"use --force, or --dry-run" in refused.stderr
    assert b"nothing is removed without a policy" in here("prune", "-f", code=2).stderr
    assert b"is not a size like 20G" in here("prune", "-f", "--until-free", "much", code=2).stderr
    assert b"not a regular expression" in here("prune", "-f", "--unused", "--keep", "(", code=2).stderr
