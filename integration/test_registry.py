"""The registry client against a real docker-registry: plain, with a password, with TLS of a private CA."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from integration.conftest import peer_required
from integration.rig.proxy import Fault
from integration.rig.publish import push
from integration.rig.registry import HTPASSWD, PASSWORD, USER, Certificate, Registry
from pyctrd.errors import AuthenticationFailed, NotFound, RegistryError, RegistryUnreachable
from pyctrd.oci import graph, reference
from pyctrd.oci.model import Descriptor, Digest
from pyctrd.registry import RegistryClient, RegistryOptions
from pyctrd.registry.repository import Repository
from tests.support import shapes
from tests.support.images import Graph

LAYER_BYTES = 8 << 20


@pytest.fixture
def image() -> Graph:
    return shapes.big(LAYER_BYTES, layers=1)


@pytest.fixture
def client(request: pytest.FixtureRequest) -> Iterator[RegistryClient]:
    with RegistryClient() as made:
        yield made


def read(remote: Repository, descriptor: Descriptor, offset: int = 0) -> bytes:
    with remote.fetch(descriptor, offset) as chunks:
        return b"".join(chunks)


def read_all(remote: Repository) -> dict[str, bytes]:
    """Resolve and fetch everything, every digest checked."""
    found: dict[str, bytes] = {}

    def load(descriptor: Descriptor) -> bytes:
        if descriptor.digest not in found:
            raw = read(remote, descriptor)
            assert Digest.of(raw) == descriptor.digest
            assert len(raw) == descriptor.size
            found[descriptor.digest] = raw
        return found[descriptor.digest]

    for descriptor in graph.preorder(remote.resolve(), graph.read_children(load)):
        load(descriptor)
    return found


def layer_of(remote: Repository) -> Descriptor:
    """The image's only layer."""
    step = graph.read_children(lambda descriptor: read(remote, descriptor))
    return max(graph.preorder(remote.resolve(), step), key=lambda descriptor: descriptor.size)


@pytest.mark.parametrize(
    "graph", [shapes.five_platform(), shapes.nested()], ids=["docker list", "nested index"]
)
def test_all_content_of_an_image(
    registry: Registry, repository: str, client: RegistryClient, graph: Graph
) -> None:
    text = push(graph, registry, repository)
    registry.clear_requests()
    found = read_all(client.remote(reference.parse(text)))
    assert found == graph.blobs
    asked = [(one.method, one.path) for one in registry.requests()]
    assert asked[0] == ("HEAD", f"/v2/{repository}/manifests/latest")
    assert len(asked) == 1 + len(graph.blobs)
    assert (
        client.remote(reference.parse(f"{registry.host}/{repository}@{graph.digest}")).resolve().digest
        == graph.digest
    )


def test_unknown_images_and_blobs(
    registry: Registry, repository: str, client: RegistryClient, image: Graph
) -> None:
    text = push(image, registry, repository)
    with pytest.raises(NotFound, match=f'failed to resolve reference "{registry.host}/{repository}:no"'):
        client.remote(reference.parse(f"{registry.host}/{repository}:no")).resolve()
    remote = client.remote(reference.parse(text))
    absent = Descriptor(media_type="application/octet-stream", digest=Digest.of(b"absent"), size=6)
    with pytest.raises(RegistryError, match="from remote: not found") as caught, remote.fetch(absent):
        pass
    assert caught.value.status == 404


def test_a_layer_from_an_offset(
    registry: Registry, repository: str, client: RegistryClient, image: Graph
) -> None:
    remote = client.remote(reference.parse(push(image, registry, repository)))
    layer = layer_of(remote)
    assert layer.size > LAYER_BYTES // 2
    whole = image.blobs[layer.digest]
    registry.clear_requests()
    for offset in (0, 1, layer.size // 2, layer.size - 1, layer.size):
        assert read(remote, layer, offset) == whole[offset:]
    statuses = [(one.status, one.range) for one in registry.requests()]
    assert statuses == [
        (200, ""),
        (206, "bytes=1-"),
        (206, f"bytes={layer.size // 2}-"),
        (206, f"bytes={layer.size - 1}-"),
    ]


def test_a_layer_over_an_unreliable_network(
    registry: Registry, repository: str, client: RegistryClient, image: Graph
) -> None:
    remote = client.remote(reference.parse(push(image, registry, repository)))
    layer = layer_of(remote)
    path = f"/blobs/{layer.digest}"
    registry.clear_requests()
    registry.add_fault(Fault(path, times=1, cut_after=3 << 20))
    registry.add_fault(Fault(path, times=1, ignore_range=True, cut_after=5 << 20))
    registry.add_fault(Fault(path, times=1, status=503, headers={"Retry-After": "0"}))
    assert hashlib.sha256(read(remote, layer)).hexdigest() == layer.digest.encoded
    assert [one.status for one in registry.requests()] == [200, 200, 503, 206]
    assert registry.requests()[-1].range == f"bytes={5 << 20}-"


@pytest.fixture
def locked(tmp_path: Path, image: Graph) -> Iterator[tuple[Registry, str]]:
    """A registry behind htpasswd, with the image in it, and the image's reference."""
    root = tmp_path / "registry"
    with peer_required():
        with Registry(root) as plain:
            push(image, plain, "team/app")
        locked = Registry(root, auth=HTPASSWD)
        locked.__enter__()
    try:
        yield locked, f"{locked.host}/team/app:latest"
    finally:
        locked.__exit__(None, None, None)


def options_of(how: str, host: str, folder: Path) -> RegistryOptions:
    """The right password, in each supported form."""
    if how == "-u":
        return RegistryOptions(username=USER, password=PASSWORD)
    document: dict[str, Any] = {
        "auths": {host: {"auth": base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}}
    }
    if how == "helper":
        helper = folder / "docker-credential-rig"
        answer = json.dumps({"ServerURL": host, "Username": USER, "Secret": PASSWORD})
        helper.write_text(f"#!/bin/sh\n[ \"$1\" = get ] && grep -qx '{host}' && echo '{answer}'\n")
        helper.chmod(0o755)
        document = {"credHelpers": {host: "rig"}}
    config = folder / "config.json"
    config.write_text(json.dumps(document))
    return RegistryOptions(docker_config=config)


@pytest.mark.parametrize("how", ["-u", "config", "helper"])
def test_basic_authentication(
    locked: tuple[Registry, str], tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, text = locked
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with RegistryClient(options_of(how, registry.host, tmp_path)) as client:
        remote = client.remote(reference.parse(text))
        assert len(read_all(remote)) == 3
    assert [one.status for one in registry.requests()] == [401, 200, 200, 200, 200]


@pytest.mark.parametrize("password", ["", "wrong horse"])
def test_access_without_the_password(locked: tuple[Registry, str], tmp_path: Path, password: str) -> None:
    options = RegistryOptions(username=USER, password=password, docker_config=tmp_path / "absent.json")
    with RegistryClient(options) as client, pytest.raises(AuthenticationFailed) as caught:
        client.remote(reference.parse(locked[1])).resolve()
    assert caught.value.exit_code == 5
    assert not password or password not in str(caught.value)
    assert len(locked[0].requests()) <= 2


@pytest.mark.parametrize("layout", ["crt", "toml"])
def test_tls_of_a_private_ca(tmp_path: Path, image: Graph, layout: str) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    files = Certificate(tmp_path / "cert.pem", tmp_path / "key.pem")
    issued.private_key_pem.write_to_path(files.key)
    issued.cert_chain_pems[0].write_to_path(files.certificate)
    hosts_dir = tmp_path / "certs.d"
    with peer_required():
        registry = Registry(tmp_path / "registry", tls=files)
        registry.__enter__()
    try:
        text = push(image, registry, "team/app")
        host, port = registry.host.split(":")
        folder = hosts_dir / f"{host}_{port}_"
        folder.mkdir(parents=True)
        authority.cert_pem.write_to_path(folder / "ca.crt")
        if layout == "toml":
            (folder / "hosts.toml").write_text(f'server = "{registry.url}"\nca = "ca.crt"\n')
        with RegistryClient(RegistryOptions(hosts_dir=hosts_dir)) as client:
            assert read_all(client.remote(reference.parse(text))) == image.blobs
        (folder / "ca.crt").unlink()
        (folder / "hosts.toml").write_text(f'server = "{registry.url}"\n')
        with (
            RegistryClient(RegistryOptions(hosts_dir=hosts_dir)) as client,
            pytest.raises(RegistryUnreachable, match="certificate signed by unknown authority"),
        ):
            client.remote(reference.parse(text)).resolve()
        with RegistryClient(RegistryOptions(hosts_dir=hosts_dir, skip_verify=True)) as client:
            assert client.remote(reference.parse(text)).resolve().digest == image.digest
    finally:
        registry.__exit__(None, None, None)


def test_a_mirror_before_a_stopped_and_an_unaware_registry(
    registry: Registry, repository: str, tmp_path: Path, image: Graph
) -> None:
    text = push(image, registry, repository)
    (tmp_path / "_default").mkdir()
    (tmp_path / "_default" / "hosts.toml").write_text(
        f'server = "https://registry.invalid"\n[host."http://127.0.0.1:1"]\n[host."{registry.url}"]\n'
    )
    registry.clear_requests()
    elsewhere = text.replace(registry.host, "registry.invalid")
    with RegistryClient(RegistryOptions(hosts_dir=tmp_path)) as client:
        assert read_all(client.remote(reference.parse(elsewhere))) == image.blobs
    assert {one.query for one in registry.requests()} == {"ns=registry.invalid"}
