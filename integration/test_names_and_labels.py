"""tag, pin, label, unpack and expiry on real containerds, compared with the real ctr."""

from __future__ import annotations

import datetime as dt
import shlex
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.bench import Bench
from integration.rig.publish import push
from integration.rig.store import collect_garbage, snapshot_of
from integration.shell import Shell
from pyctrd import Client, ImageNotFound, ImageRecord
from tests.support import shapes
from tests.support.loading import archive_of

NAME = "registry.example/team/app:v1"
NEW = "registry.example/team/app:stable"
PIN = "io.cri-containerd.pinned"


@pytest.fixture
def client(bench: Bench) -> Iterator[Client]:
    with Client(str(bench.containerd.address), bench.namespace) as opened:
        yield opened


def load(client: Client, folder: Path, name: str = NAME, *, unpack: bool = False) -> ImageRecord:
    """Load an image that no other test has."""
    archive = folder / "image.tar"
    archive.write_bytes(archive_of(shapes.five_platform(2, salt=client.namespace), name))
    client.images.load(archive, platforms="all", unpack=unpack)
    return client.images.get(name)


def wait_for_expiry(image: ImageRecord) -> None:
    assert image.expires_at is not None
    while dt.datetime.now(dt.UTC) <= image.expires_at:
        time.sleep(0.05)


def hint(stderr: bytes) -> list[str]:
    """Return the words of the command in a hint, without `pyctrd`."""
    words = shlex.split(stderr.decode().rpartition(": pyctrd ")[2])
    assert words, stderr
    return words


# --- expiry -----------------------------------------------------------------------------------------------


@pytest.mark.every_generation
def test_an_image_expires_with_its_content_or_is_refused(bench: Bench, shell: Shell, client: Client) -> None:
    name = push(shapes.single(salt=bench.namespace), bench.registry, bench.repository)
    bench.registry.clear_requests()
    before = snapshot_of(bench.containerd, bench.namespace)
    if bench.is_old:
        done = shell("pull", "--ttl", "1s", name, code=1)
        assert b"pyctrd: images do not expire in containerd 1." in done.stderr
        assert bench.registry.requests() == []
        assert snapshot_of(bench.containerd, bench.namespace) == before
        shell("pull", name)
        assert b"leave out --ttl" in shell("tag", "--ttl", "1s", name, NEW, code=1).stderr
        assert list(snapshot_of(bench.containerd, bench.namespace)["images"]) == [name]
        return
    shell.json("pull", "--ttl", "1h", name)
    collect_garbage(bench.containerd, bench.namespace)
    client.images.tag(name, NEW, ttl=dt.timedelta(hours=1))
    assert shell.json("pull", "--ttl", "1s", name)["expires_at"] != ""
    wait_for_expiry(client.images.get(name))
    collect_garbage(bench.containerd, bench.namespace)
    left = snapshot_of(bench.containerd, bench.namespace)
    assert (list(left["images"]), len(left["content"]), len(left["snapshots"])) == ([NEW], 4, 1)
    (expiring,) = client.images.tag(NEW, NEW, ttl=dt.timedelta(seconds=1)).tagged
    wait_for_expiry(expiring)
    collect_garbage(bench.containerd, bench.namespace)
    left = snapshot_of(bench.containerd, bench.namespace)
    assert (left["images"], left["content"], left["snapshots"], left["leases"]) == ({}, {}, {}, {})


@pytest.mark.two_generations
def test_a_pull_without_expiry_and_a_pin_let_an_image_stay(
    bench: Bench, shell: Shell, client: Client
) -> None:
    if bench.is_old:
        return
    name = push(shapes.single(salt=bench.namespace), bench.registry, bench.repository)
    client.images.pull(name, ttl=dt.timedelta(seconds=1), labels={"team": "x"})
    wait_for_expiry(client.images.get(name))
    assert client.images.pull(name).image.labels == {"team": "x"}
    (expired,) = client.images.tag(name, NEW, ttl=dt.timedelta(seconds=1)).tagged
    wait_for_expiry(expired)
    client.images.pin(name)
    collect_garbage(bench.containerd, bench.namespace)
    assert {image.name: image.expires_at for image in client.images.list()} == {name: None, NEW: None}
    stderr = shell("pull", "--ttl", "1s", name, code=1).stderr
    assert b"is pinned, so it cannot expire" in stderr
    shell(*hint(stderr))
    shell("pull", "--ttl", "1h", name)


# --- names ------------------------------------------------------------------------------------------------


@pytest.mark.every_generation
def test_a_tag_is_as_ctr_makes_it(bench: Bench, shell: Shell, client: Client) -> None:
    load(client, shell.folder)
    client.images.label(NAME, {"team": "x"})
    local = [] if bench.is_old else ["--local"]
    bench.ctr("images", "tag", *local, NAME, "registry.example/ctr:1")
    shell("tag", NAME, NEW)
    images = snapshot_of(bench.containerd, bench.namespace)["images"]
    assert images[NEW] == images["registry.example/ctr:1"] == images[NAME]


@pytest.mark.two_generations
def test_a_name_moves_only_by_the_command_in_the_hint(bench: Bench, shell: Shell, client: Client) -> None:
    load(client, shell.folder)
    other = push(shapes.single(salt=bench.namespace), bench.registry, bench.repository)
    client.images.pull(other)
    shell("tag", other, NEW)
    before = snapshot_of(bench.containerd, bench.namespace)
    stderr = shell("tag", NAME, "registry.example/team/app:new", NEW, code=1).stderr
    assert f'pyctrd: image "{NEW}": already exists: it points at'.encode() in stderr
    assert snapshot_of(bench.containerd, bench.namespace) == before
    shell("pin", NEW)
    pinned = shell(*hint(stderr), code=1).stderr
    shell(*hint(pinned))
    shell(*hint(stderr))
    targets = {image.name: image.target.digest for image in client.images.list()}
    assert targets[NEW] == targets["registry.example/team/app:new"] == targets[NAME] != targets[other]


@pytest.mark.two_generations
def test_no_content_is_lost_if_the_source_is_deleted_at_the_same_time(
    bench: Bench, client: Client, tmp_path: Path
) -> None:
    tagged = 0
    for _ in range(12):
        target = load(client, tmp_path).target
        everything = set(snapshot_of(bench.containerd, bench.namespace)["content"])
        start = threading.Barrier(2)

        def delete(barrier: threading.Barrier = start) -> None:
            barrier.wait()
            bench.ctr("images", "rm", "--sync", NAME)

        deleting = threading.Thread(target=delete)
        deleting.start()
        start.wait()
        try:
            client.images.tag(NAME, NEW)
        except ImageNotFound:
            deleting.join()
            continue
        deleting.join()
        collect_garbage(bench.containerd, bench.namespace)
        tagged += 1
        assert client.images.get(NEW).target == target
        assert set(snapshot_of(bench.containerd, bench.namespace)["content"]) == everything
        bench.ctr("images", "rm", "--sync", NEW)
    assert tagged
    assert client.leases.list() == ()


# --- labels -----------------------------------------------------------------------------------------------


@pytest.mark.every_generation
def test_labels_and_pins_are_set_and_removed(bench: Bench, shell: Shell, client: Client) -> None:
    load(client, shell.folder)
    shell("tag", NAME, NEW)
    longest = "v" * (4096 - len("long"))
    assert shell.json("label", NAME, "a=1", "b=2", f"long={longest}")["labels"]["long"] == longest
    assert b"4097 bytes" in shell("label", NAME, f"long={longest}x", code=2).stderr
    assert shell.json("label", NAME, "a-", "b=", "long-", "c=3")["labels"] == {"c": "3"}
    pins = shell.json("pin", NAME)["images"]
    assert {image["name"]: image["pinned"] for image in pins} == {NAME: True, NEW: True}
    images = snapshot_of(bench.containerd, bench.namespace)["images"]
    assert (images[NAME]["labels"], images[NEW]["labels"]) == ({"c": "3", PIN: "pinned"}, {PIN: "pinned"})
    refused = shell("label", NAME, f"{PIN}-", code=2).stderr
    assert b"the kubelet does not remove images that have it" in refused
    shell(*hint(refused))
    images = snapshot_of(bench.containerd, bench.namespace)["images"]
    assert (images[NAME]["labels"], images[NEW]["labels"]) == ({"c": "3"}, {})
    shell("label", NAME, "--force", f"{PIN}=pinned")
    assert not client.images.get(NEW).is_pinned


# --- unpack -----------------------------------------------------------------------------------------------


@pytest.mark.every_generation
def test_unpack_makes_what_a_pull_by_ctr_makes(bench: Bench, shell: Shell, client: Client) -> None:
    graph = shapes.five_platform(3, salt=bench.namespace)
    name = push(graph, bench.registry, bench.repository)
    shell("pull", "--no-unpack", name)
    assert snapshot_of(bench.containerd, bench.namespace)["snapshots"] == {}
    done = shell.json("unpack", name)
    assert (done["layers"], [item["platform"] for item in done["snapshots"]]) == (3, ["linux/amd64"])
    ours = snapshot_of(bench.containerd, bench.namespace)
    assert shell.json("unpack", name) == {**done, "layers": 0}
    assert snapshot_of(bench.containerd, bench.namespace) == ours
    pulling = f"{bench.namespace}-ctr"
    metadata = ["--all-metadata"] if bench.is_old else []
    bench.ctr("images", "pull", "--plain-http", *metadata, name, namespace=pulling)
    theirs = snapshot_of(bench.containerd, pulling)
    assert set(theirs["snapshots"]["overlayfs"]) == set(ours["snapshots"]["overlayfs"])
    assert theirs["content"] == ours["content"]
    collect_garbage(bench.containerd, bench.namespace)
    assert snapshot_of(bench.containerd, bench.namespace)["snapshots"] == ours["snapshots"]


@pytest.mark.two_generations
def test_unpack_names_the_command_that_fetches_missing_layers(
    bench: Bench, shell: Shell, client: Client
) -> None:
    graph = shapes.five_platform(2, salt=bench.namespace)
    name = push(graph, bench.registry, bench.repository)
    client.images.pull(name, unpack=False)
    stderr = shell("unpack", "--platform", "linux/s390x", name, code=4).stderr
    assert b"missing: linux/s390x: 2 blobs" in stderr
    shell(*hint(stderr))
    done = shell.json("unpack", "--platform", "linux/s390x,linux/amd64", name)
    assert [item["platform"] for item in done["snapshots"]] == ["linux/amd64", "linux/s390x"]
    before = snapshot_of(bench.containerd, bench.namespace)["snapshots"]["overlayfs"]
    target = shell.folder / "mounted"
    target.mkdir()
    try:  # ctr unpacks what is not unpacked, and prints the name of the snapshot
        mounted = bench.ctr("images", "mount", "--platform", "linux/s390x", name, target).stdout
        after = snapshot_of(bench.containerd, bench.namespace)["snapshots"]["overlayfs"]
    finally:
        bench.ctr("images", "unmount", "--rm", target)
    assert done["snapshots"][1]["snapshot"].encode() in mounted
    assert {key: item for key, item in after.items() if item["kind"] == "Committed"} == before
