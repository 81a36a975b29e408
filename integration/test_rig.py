"""Tests of the rig: real ctr, real registry, real archives."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import subprocess
import time
from pathlib import Path

import pytest

from integration.conftest import peer_required
from integration.rig import peers, store
from integration.rig.daemons import (
    HTPASSWD,
    PASSWORD,
    USER,
    Certificate,
    Containerd,
    ContainerdInDocker,
    Dockerd,
    Fault,
    Registry,
    Request,
    TokenService,
)
from integration.rig.publish import push, write_layout
from integration.rig.rehash import damage
from tests.support import images, shapes

pytestmark = pytest.mark.two_generations


def test_a_pull_of_five_platforms_stores_what_the_generation_stores(
    fresh_containerd: Containerd, registry: Registry, repository: str
) -> None:
    graph = shapes.five_platform(layers=12)
    reference = push(graph, registry, repository, "3.10")
    # index + 5 x (manifest + config + 12 layers)
    assert len(graph.blobs) == 71
    fresh_containerd.ctr("images", "pull", reference)
    native = graph.child(0).document()
    wanted = {graph.digest, graph.child(0).digest, native["config"]["digest"]}
    if not fresh_containerd.is_1:
        for position in range(5):
            other = graph.child(position)
            wanted |= {other.digest, other.document()["config"]["digest"]}
    wanted |= {layer["digest"] for layer in native["layers"]}
    assert store.digests(fresh_containerd) == wanted


def test_the_metadata_of_all_platforms_is_eight_more_blobs(
    fresh_containerd: Containerd, registry: Registry, repository: str
) -> None:
    graph = shapes.five_platform(layers=12)
    reference = push(graph, registry, repository)
    old = fresh_containerd.is_1
    every = ["--all-metadata"] if old else []
    selected = [] if old else ["--skip-metadata"]
    fresh_containerd.ctr("images", "pull", *selected, reference, namespace="selected")
    fresh_containerd.ctr("images", "pull", *every, reference, namespace="every")
    assert len(store.digests(fresh_containerd, "selected")) == 15
    assert len(store.digests(fresh_containerd, "every")) == 23


def test_requests_are_logged_completely_and_in_order(
    fresh_containerd: Containerd, registry: Registry, repository: str
) -> None:
    graph = shapes.single()
    reference = push(graph, registry, repository, "v1")
    assert registry.requests() == []
    fresh_containerd.ctr("images", "pull", reference)
    document = graph.document()
    blobs = [document["config"]["digest"], *(layer["digest"] for layer in document["layers"])]
    path = f"/v2/{repository}"
    logged = registry.requests()
    assert logged[:2] == [
        Request("HEAD", f"{path}/manifests/v1", 200),
        Request("GET", f"{path}/manifests/{graph.digest}", 200),
    ]
    assert set(logged[2:]) == {Request("GET", f"{path}/blobs/{digest}", 200) for digest in blobs}
    assert registry.fetched() == set(graph.blobs)


def test_the_state_survives_kill_and_restart(
    fresh_containerd: Containerd, registry: Registry, repository: str
) -> None:
    reference = push(shapes.single(), registry, repository)
    fresh_containerd.ctr("images", "pull", reference)
    store.collect_garbage(fresh_containerd)
    before = store.snapshot_of(fresh_containerd)
    first = fresh_containerd.pid
    fresh_containerd.kill()
    assert fresh_containerd.ctr("--connect-timeout", "200ms", "version", check=False).returncode
    fresh_containerd.start()
    assert fresh_containerd.pid != first
    assert store.snapshot_of(fresh_containerd) == before
    fresh_containerd.restart()
    assert store.snapshot_of(fresh_containerd) == before
    assert len(before["content"]) == 4


def test_the_state_matches_the_output_of_ctr(
    fresh_containerd: Containerd, registry: Registry, repository: str
) -> None:
    graph = shapes.single()
    first = push(graph, registry, repository)
    second = push(graph, registry, f"another/{repository}")
    for reference in (first, second):
        fresh_containerd.ctr("images", "pull", reference)
    fresh_containerd.ctr("images", "label", first, "note=a,b=c")
    fresh_containerd.ctr("leases", "create", "--id", "kept", "why=a,b")
    fresh_containerd.ctr("content", "ingest", "--expected-size", "9", "half", stdin=b"six...", check=False)
    state = store.snapshot_of(fresh_containerd)
    assert state["images"][first]["labels"] == {"note": "a,b=c"}
    assert state["images"][first]["target"] == {**graph.root, "annotations": {}}
    assert state["ingests"] == {"half": {"expected": "", "offset": 6}}
    assert state["leases"]["kept"]["labels"] == {"why": "a,b", "containerd.io/gc.expire": ""}
    for digest, blob in state["content"].items():
        assert len(fresh_containerd.ctr("content", "get", digest).stdout) == blob["size"]
    key = "containerd.io/distribution.source.127.0.0.1"
    assert state["content"][graph.digest]["labels"][key] == f"another/{repository},{repository}"
    assert _told(fresh_containerd, "content", "ls") == {
        digest: sorted(f"{key}={value}" for key, value in blob["labels"].items())
        for digest, blob in state["content"].items()
    }
    assert _told(fresh_containerd, "snapshots", "ls").keys() == state["snapshots"]["overlayfs"].keys()
    assert fresh_containerd.ctr("images", "ls", "-q").stdout.decode().split() == sorted(state["images"])


def _told(daemon: Containerd, *listing: str) -> dict[str, list[str]]:
    """ctr's table: first column, and labels of the last one (a part without "=" continues the previous)."""
    rows = [line.split() for line in daemon.ctr(*listing).stdout.decode().splitlines()[1:]]
    told: dict[str, list[str]] = {}
    for row in rows:
        labels: list[str] = []
        for part in row[-1].split(","):
            if "=" in part or not labels:
                labels.append(part)
            else:
                labels[-1] += f",{part}"
        told[row[0]] = sorted(labels)
    return told


def test_damaged_blobs_are_found(fresh_containerd: Containerd, registry: Registry, repository: str) -> None:
    graph = shapes.single()
    fresh_containerd.ctr("images", "pull", push(graph, registry, repository))
    assert damage(fresh_containerd) == []
    first, second = (layer["digest"] for layer in graph.document()["layers"][:2])
    blobs = fresh_containerd.root / "root/io.containerd.content.v1.content/blobs"
    (blobs / first.replace(":", "/")).unlink()
    place = blobs / second.replace(":", "/")
    place.chmod(0o644)
    place.write_bytes(place.read_bytes()[::-1])
    wrong, absent = damage(fresh_containerd)
    assert wrong.startswith(f"blob {second.removeprefix('sha256:')} has the bytes of ")
    assert absent == f"default: content {first} has no blob"


def test_a_fault_cuts_the_connection_and_ctr_resumes(
    fresh_containerd: Containerd, registry: Registry, repository: str
) -> None:
    layer = images.random_layer(3_000_000)
    graph = images.manifest(images.config([layer]), [layer])
    reference = push(graph, registry, repository)
    registry.add_fault(Fault(layer.digest, times=1, cut_after=1_000_000))
    fresh_containerd.ctr("images", "pull", reference)
    ranges = [one.range for one in registry.requests() if one.path.endswith(layer.digest)]
    assert len(ranges) == 2
    assert ranges[0] == ""
    assert ranges[1].startswith("bytes=")
    assert 0 < int(ranges[1][6:].rstrip("-")) <= 1_000_000
    assert layer.digest in store.digests(fresh_containerd)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault("{layer}", corrupt_at=10), "unexpected commit digest"),
        (Fault("{layer}", status=404), "not found"),
        (Fault("{layer}", status=500), "500"),
    ],
    ids=["wrong bytes", "404", "500"],
)
def test_ctr_fails_because_of_faults(
    fresh_containerd: Containerd, registry: Registry, repository: str, fault: Fault, words: str
) -> None:
    layer = images.layer({"a": b"text" * 100})
    reference = push(images.manifest(images.config([layer]), [layer]), registry, repository)
    registry.add_fault(Fault(layer.digest, status=fault.status, corrupt_at=fault.corrupt_at))
    done = fresh_containerd.ctr("images", "pull", reference, check=False)
    assert done.returncode == 1
    assert words in done.stderr.decode()


def test_the_proxy_streams_uploads_and_downloads(registry: Registry, repository: str, tmp_path: Path) -> None:
    with peer_required():
        skopeo, crane = peers.tool("skopeo"), peers.tool("crane")
    graph = shapes.big(30_000_000)
    write_layout(graph, tmp_path / "in", "v1")
    target = f"{registry.host}/{repository}:v1"
    _run(skopeo, "copy", "--dest-tls-verify=false", f"oci:{tmp_path}/in:v1", f"docker://{target}")
    assert _run(crane, "digest", "--insecure", target).strip() == graph.digest
    _run(crane, "pull", "--insecure", "--format", "oci", target, tmp_path / "out")
    for digest, data in graph.blobs.items():
        assert (tmp_path / "out/blobs/sha256" / digest[7:]).read_bytes() == data


def _run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_images_have_the_same_bytes_in_every_run() -> None:
    for make in (shapes.five_platform, shapes.mixed, shapes.nested, shapes.shared_layers, shapes.artifact):
        assert make() == make()
    graph = shapes.mixed()
    assert all(images.digest_of(data) == digest for digest, data in graph.blobs.items())
    native = graph.child(0).document()
    config = json.loads(graph.blobs[native["config"]["digest"]])
    tars = [gzip.decompress(graph.blobs[layer["digest"]]) for layer in native["layers"]]
    assert config["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(tar).hexdigest() for tar in tars]


def test_nerdctl_fetches_everything_or_nothing(
    fresh_containerd: Containerd, registry: Registry, repository: str, tmp_path: Path
) -> None:
    if fresh_containerd.is_1:
        pytest.skip("what nerdctl 2.0.3 fetches again is what only ctr 2.x leaves half there")
    with peer_required():
        old, new = peers.nerdctl("2.0.3"), peers.nerdctl("2.2.2")
    graph = shapes.five_platform(layers=2)
    reference = push(graph, registry, repository)
    fresh_containerd.ctr("images", "pull", reference)
    before = store.digests(fresh_containerd)
    common: list[str | Path] = [
        "--address",
        fresh_containerd.address,
        "--namespace",
        "default",
        "--insecure-registry",
    ]
    registry.clear_requests()
    _run(new, *common, "save", "-o", tmp_path / "new.tar", reference)
    assert registry.requests() == []
    _run(old, *common, "save", "-o", tmp_path / "old.tar", reference)
    layers = {layer["digest"] for place in range(1, 5) for layer in graph.child(place).document()["layers"]}
    assert {one for one in registry.fetched() if one not in before} == layers


def test_a_containerd_in_a_container(
    generation: str, dockerd: Dockerd, registry: Registry, repository: str, tmp_path: Path
) -> None:
    reference = push(shapes.mixed(), registry, repository)
    with peer_required():
        inside = ContainerdInDocker(dockerd, generation, tmp_path / "inside")
        inside.__enter__()
    try:
        told = inside.ctr("version").stdout.decode().partition("Server:")[2]
        assert re.search(rf"Version: +v?{re.escape(inside.version)}\b", told), told
        inside.ctr("images", "pull", reference)
        with Containerd(generation, tmp_path / "outside") as outside:
            outside.ctr("images", "pull", reference)
            for daemon in (inside, outside):
                store.collect_garbage(daemon)
            assert store.snapshot_of(inside) == store.snapshot_of(outside)
        inside.restart()
        assert reference in inside.ctr("images", "ls", "-q").stdout.decode()
    finally:
        inside.__exit__(None, None, None)


def test_daemons_are_stopped_at_the_end(generation: str, tmp_path: Path) -> None:
    with Containerd(generation, tmp_path) as daemon:
        pid, address = daemon.pid, daemon.address
    assert not Path(f"/proc/{pid}").exists()
    assert not address.exists()


def test_a_failing_start_is_quick_and_shows_the_log(generation: str, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(peers.PeerUnavailable, match=r"(?s)ended at its start: containerd: .*toml"):
        Containerd(generation, tmp_path, config="this is not toml").__enter__()
    assert time.monotonic() - started < 10


def test_a_registry_with_basic_authentication(
    fresh_containerd: Containerd, tmp_path: Path, repository: str
) -> None:
    with peer_required():
        registry = Registry(tmp_path, auth=HTPASSWD).__enter__()
    try:
        reference = push(shapes.single(), registry, repository)
        done = fresh_containerd.ctr("images", "pull", reference, check=False)
        assert done.returncode == 1
        assert "authorization failed" in done.stderr.decode() or "auth" in done.stderr.decode()
        fresh_containerd.ctr("images", "pull", "--user", f"{USER}:{PASSWORD}", reference)
    finally:
        registry.__exit__(None, None, None)
    assert len(store.digests(fresh_containerd)) == 4


@pytest.mark.parametrize("post", [True, False], ids=["oauth", "get only"])
def test_a_registry_with_tokens(
    fresh_containerd: Containerd, tmp_path: Path, repository: str, post: bool
) -> None:
    service = TokenService(tmp_path / "tokens", anonymous=False, post=post)
    with peer_required():
        registry = Registry(tmp_path / "registry", config=service).__enter__()
    try:
        graph = shapes.single()
        reference = push(graph, registry, repository)
        assert fresh_containerd.ctr("images", "pull", reference, check=False).returncode == 1
        registry.clear_requests()
        fresh_containerd.ctr("images", "pull", "--user", f"{USER}:{PASSWORD}", reference)
        asked = {(one.method, one.status) for one in registry.requests() if one.path == "/token"}
        assert asked == ({("POST", 200)} if post else {("POST", 404), ("GET", 200)})
        service.anonymous = True
        fresh_containerd.ctr("images", "pull", reference, namespace="anonymous")
    finally:
        registry.__exit__(None, None, None)
    assert store.digests(fresh_containerd, "anonymous") == set(graph.blobs)


def test_a_registry_with_tls(fresh_containerd: Containerd, tmp_path: Path, repository: str) -> None:
    files = Certificate(tmp_path / "cert.pem", tmp_path / "key.pem")
    how = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    _run("openssl", "req", *how, *names, "-keyout", files.key, "-out", files.certificate)
    with peer_required():
        registry = Registry(tmp_path / "registry", tls=files).__enter__()
    try:
        graph = shapes.single()
        reference = push(graph, registry, repository)
        # ctr 1.6 uses plain http for 127.0.0.1 without a hosts.toml.
        hosts = tmp_path / "hosts" / registry.host
        hosts.mkdir(parents=True)
        (hosts / "hosts.toml").write_text(f'[host."{registry.url}"]\n  ca = "{files.certificate}"\n')
        fresh_containerd.ctr("images", "pull", "--hosts-dir", hosts.parent, reference)
        assert registry.fetched() == set(graph.blobs)
    finally:
        registry.__exit__(None, None, None)


def test_ctr_runs_an_image(fresh_containerd: Containerd, registry: Registry, repository: str) -> None:
    with peer_required():
        shell = peers.tool("busybox").read_bytes()
    layers = [images.layer({"bin/sh": shell}), images.layer({"etc/greeting": b"hello from a layer\n"})]
    graph = images.manifest(images.config(layers), layers)
    reference = push(graph, registry, repository)
    fresh_containerd.ctr("images", "pull", reference)
    command = ["/bin/sh", "-c", "read line < /etc/greeting; echo $line"]
    done = fresh_containerd.ctr("run", "--rm", reference, "one", *command)
    assert done.stdout.decode().strip() == "hello from a layer"
