"""tag, pin, label, unpack and expiry on real containerds, compared with the real ctr."""

from __future__ import annotations

import datetime as dt
import json
import shlex
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.bench import Bench
from integration.conftest import peer_required
from integration.rig import peers
from integration.rig.daemons import Containerd, Registry
from integration.rig.publish import push
from integration.rig.store import collect_garbage, snapshot_of
from integration.shell import Shell
from pyctrd import (
    AlreadyExists,
    Client,
    ImageNotFound,
    ImageRecord,
    IncompleteContent,
    InvalidInput,
    Unsupported,
)
from tests.support import shapes
from tests.support.loading import archive_of

NAME = "registry.example/team/app:v1"
NEW = "registry.example/team/app:stable"
EXPIRED = {"containerd.io/gc.expire": "2020-01-01T00:00:00Z"}
LATE = {"containerd.io/gc.expire": "2099-01-01T00:00:00Z"}
PIN = "io.cri-containerd.pinned"


@pytest.fixture
def client(bench: Bench) -> Iterator[Client]:
    with Client(str(bench.containerd.address), bench.namespace) as opened:
        yield opened


def load(client: Client, folder: Path, name: str = NAME, *, salt: str = "") -> ImageRecord:
    """Load an image that no other test has."""
    archive = folder / "image.tar"
    graph = shapes.five_platform(2, salt=salt + client.namespace)
    archive.write_bytes(archive_of(graph, name))
    client.images.load(archive, platforms="all", unpack=False)
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
        assert b"leave out --ttl" in done.stderr
        assert bench.registry.requests() == []
        assert snapshot_of(bench.containerd, bench.namespace) == before
        client.images.pull(name)
        with pytest.raises(Unsupported):
            client.images.tag(name, NEW, ttl=dt.timedelta(days=1))
        assert list(snapshot_of(bench.containerd, bench.namespace)["images"]) == [name]
        return
    assert shell.json("pull", "--ttl", "1s", name)["expires_at"] != ""
    client.images.tag(name, NEW, ttl=dt.timedelta(hours=1))
    wait_for_expiry(client.images.get(name))
    collect_garbage(bench.containerd, bench.namespace)
    left = snapshot_of(bench.containerd, bench.namespace)
    assert (list(left["images"]), len(left["content"]), len(left["snapshots"])) == ([NEW], 4, 1)
    client.images.label(NEW, EXPIRED, force=True)
    collect_garbage(bench.containerd, bench.namespace)
    left = snapshot_of(bench.containerd, bench.namespace)
    assert (left["images"], left["content"], left["snapshots"], left["leases"]) == ({}, {}, {}, {})


@pytest.mark.two_generations
def test_a_pull_without_expiry_and_a_pin_let_an_image_stay(
    bench: Bench, shell: Shell, client: Client
) -> None:
    name = push(shapes.single(salt=bench.namespace), bench.registry, bench.repository)
    client.images.pull(name, labels={"team": "x", **LATE}, metadata_only=True)
    assert client.images.pull(name).image.labels == {"team": "x"}
    client.images.tag(name, NEW)
    client.images.label(NEW, LATE, force=True)
    client.images.pin(name)
    collect_garbage(bench.containerd, bench.namespace)
    assert {image.name: image.expires_at for image in client.images.list()} == {name: None, NEW: None}
    if bench.is_old:
        return
    stderr = shell("pull", "--ttl", "1h", name, code=1).stderr
    assert b"is pinned, so it cannot expire" in stderr
    shell(*hint(stderr))
    assert client.images.pull(name, ttl=dt.timedelta(hours=1)).image.expires_at is not None


# --- names ------------------------------------------------------------------------------------------------


@pytest.mark.two_generations
def test_a_tag_is_as_ctr_makes_it(bench: Bench, shell: Shell, client: Client) -> None:
    load(client, shell.folder)
    client.images.label(NAME, {"team": "x"})
    local = [] if bench.is_old else ["--local"]
    bench.ctr("images", "tag", *local, NAME, "registry.example/ctr:1")
    shell("tag", NAME, NEW)
    images = snapshot_of(bench.containerd, bench.namespace)["images"]
    assert images[NEW] == images["registry.example/ctr:1"] == images[NAME]


@pytest.mark.two_generations
def test_tagging_differs_from_ctr_on_purpose(bench: Bench, client: Client, tmp_path: Path) -> None:
    """N1, N2, N3, N5 of docs/differences.md."""
    target = load(client, tmp_path).target
    client.images.label(NAME, {"team": "x", **LATE}, force=True)
    bench.ctr("images", "tag", NAME, "app")
    images = snapshot_of(bench.containerd, bench.namespace)["images"]
    assert set(images) == {NAME, "app"}
    assert images["app"]["labels"].keys() == ({"team", *LATE} if bench.is_old else set())
    (tagged,) = client.images.tag(NAME, "app").tagged
    assert (tagged.name, tagged.labels) == ("docker.io/library/app:latest", {"team": "x"})

    other = load(client, tmp_path, "registry.example/other:1", salt="other")
    client.images.label(tagged.name, {"owner": "y"})
    moved = bench.ctr("images", "tag", other.name, tagged.name, check=False)
    if bench.is_old:
        assert b"already exists" in moved.stderr
        assert bench.ctr("images", "tag", NAME, tagged.name, check=False).returncode == 1
    else:
        assert moved.returncode == 0
        assert (client.images.get(tagged.name).target.digest, client.images.get(tagged.name).labels) == (
            other.target.digest,
            {},
        )
    with pytest.raises(AlreadyExists):
        client.images.tag(NAME if not bench.is_old else other.name, tagged.name)

    bench.ctr("content", "rm", str(target.digest))
    bench.ctr("images", "tag", NAME, "registry.example/dangling:1")
    with pytest.raises(IncompleteContent):
        client.images.tag(NAME, NEW)


@pytest.mark.two_generations
def test_a_name_moves_only_by_the_command_in_the_hint(bench: Bench, shell: Shell, client: Client) -> None:
    load(client, shell.folder)
    other = push(shapes.single(salt=bench.namespace), bench.registry, bench.repository)
    client.images.pull(other)
    client.images.tag(other, NEW)
    before = snapshot_of(bench.containerd, bench.namespace)
    stderr = shell("tag", NAME, "registry.example/team/app:new", NEW, code=1).stderr
    assert f'pyctrd: image "{NEW}": already exists: it points at'.encode() in stderr
    assert snapshot_of(bench.containerd, bench.namespace) == before
    client.images.pin(NEW)
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
    for _ in range(6):
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
    def labels() -> dict[str, dict[str, str]]:
        images = snapshot_of(bench.containerd, bench.namespace)["images"]
        return {name: image["labels"] for name, image in images.items()}

    load(client, shell.folder)
    client.images.tag(NAME, NEW)
    longest = "v" * (4096 - len("long"))
    client.images.label(NAME, {"a": "1", "b": "2", "long": longest})
    assert labels() == {NAME: {"a": "1", "b": "2", "long": longest}, NEW: {}}
    with pytest.raises(InvalidInput, match="4097 bytes"):
        client.images.label(NAME, {"long": f"{longest}x"})
    assert (
        b"greater than maximum size (4096 bytes)"
        in bench.ctr("images", "label", NAME, f"long={longest}x", check=False).stderr
    )
    assert client.images.label(NAME, {"a": "", "b": "", "long": "", "c": "3"}).labels == {"c": "3"}
    assert [image.is_pinned for image in client.images.pin(NAME).images] == [True, True]
    assert labels() == {NAME: {"c": "3", PIN: "pinned"}, NEW: {PIN: "pinned"}}
    refused = shell("label", NAME, f"{PIN}-", code=2).stderr
    assert b"the kubelet does not remove images that have it" in refused
    shell(*hint(refused))
    assert labels() == {NAME: {"c": "3"}, NEW: {}}


# --- unpack -----------------------------------------------------------------------------------------------


@pytest.mark.two_generations
def test_unpack_makes_what_a_pull_by_ctr_makes(bench: Bench, shell: Shell, client: Client) -> None:
    graph = shapes.five_platform(3, salt=bench.namespace)
    name = push(graph, bench.registry, bench.repository)
    client.images.pull(name, unpack=False)
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


# --- the kubelet ------------------------------------------------------------------------------------------


@pytest.mark.two_generations
def test_the_kubelet_sees_pins_and_names_and_keeps_nothing_that_has_expired(
    generation: str, registry: Registry, repository: str, tmp_path: Path
) -> None:
    name = push(shapes.five_platform(2), registry, repository)
    with (
        peer_required(),
        Containerd(generation, tmp_path, cri=True) as daemon,
        Client(str(daemon.address), "k8s.io") as client,
    ):
        address = f"unix://{daemon.address}"
        crictl = [str(peers.crictl()), "-r", address, "-i", address]

        def seen() -> list[tuple[set[str], bool]] | None:
            """Return the tags of each image that the kubelet sees, and whether it is pinned."""
            done = subprocess.run([*crictl, "images", "-o", "json"], capture_output=True, check=False)
            if done.returncode:
                return None  # it is starting
            return [(set(image["repoTags"]), image["pinned"]) for image in json.loads(done.stdout)["images"]]

        def wait_for(expected: list[tuple[set[str], bool]]) -> None:
            deadline = time.monotonic() + 60
            while (found := seen()) != expected:
                assert time.monotonic() < deadline, found
                time.sleep(0.1)

        wait_for([])
        client.images.pull(name)
        client.images.tag(name, NEW)
        wait_for([({name, NEW}, False)])
        client.images.pin(NEW)
        wait_for([({name, NEW}, True)])
        subprocess.run([*crictl, "rmi", "--prune"], check=True, capture_output=True)
        assert seen() == [({name, NEW}, True)]
        client.images.unpin(name)
        wait_for([({name, NEW}, False)])
        subprocess.run([*crictl, "rmi", "--prune"], check=True, capture_output=True)
        wait_for([])
        if daemon.is_1:
            return
        client.images.pull(name)
        wait_for([({name}, False)])  # its id is recorded, too
        assert len(client.images.list()) == 2
        client.images.pull(name, ttl=dt.timedelta(seconds=2))
        wait_for_expiry(client.images.get(name))
        collect_garbage(daemon, "k8s.io")
        wait_for([])
        left = snapshot_of(daemon, "k8s.io")
        assert (left["images"], left["content"]) == ({}, {})
