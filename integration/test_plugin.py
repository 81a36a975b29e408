"""pyctrd.pytest_plugin: the fixtures for users' tests, in tests of our own."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from integration.conftest import peer_required
from integration.rig import peers
from integration.rig.containerd import Ctr
from integration.rig.peers import NEWEST
from pyctrd import Client
from pyctrd.containerd import Daemon
from pyctrd.pytest_plugin import ImageFactory, image_archive

NAME = "registry.example/team/app:1"


@pytest.fixture
def ctr(pyctrd_address: str) -> Ctr:
    with peer_required():
        peer = peers.containerd(NEWEST)
    return Ctr(peer.ctr, Path(pyctrd_address), peers.tool_environment(peer.bin_dir))


def test_an_image_is_what_ctr_sees(pyctrd_client: Client, pyctrd_image: ImageFactory, ctr: Ctr) -> None:
    image = pyctrd_image(NAME, {"etc/motd": b"hello"}, {"bin/app": b"#!"}, labels={"team": "a"})
    assert pyctrd_client.images.diagnose(NAME).complete
    assert ctr("images", "check", "-q", namespace=pyctrd_client.namespace).stdout.decode() == f"{NAME}\n"
    (manifest,) = pyctrd_client.images.inspect(NAME).manifests
    assert manifest.details is not None
    assert dict(manifest.details.labels) == {"team": "a"}
    assert image.target.digest in pyctrd_client.images.save(NAME, io.BytesIO()).blobs


def test_an_archive_is_the_same_for_the_same_files() -> None:
    one, two, other = (
        image_archive(NAME, {"a": data}, platform="linux/arm64") for data in (b"1", b"1", b"2")
    )
    assert one == two != other


Leave = Callable[[Client, ImageFactory, Ctr], object]


def an_image(_client: Client, image: ImageFactory, _ctr: Ctr) -> None:
    image(NAME, {"a": b"1"})


def a_pinned_image(client: Client, image: ImageFactory, _ctr: Ctr) -> None:
    image(NAME, {"a": b"1"})
    client.images.pin(NAME)


def a_lease(client: Client, _image: ImageFactory, _ctr: Ctr) -> None:
    client.leases.create()


def an_unfinished_write(client: Client, _image: ImageFactory, _ctr: Ctr) -> None:
    with (
        Daemon.connect(client.address, client.namespace) as daemon,
        daemon.content.open_ingest("half", digest=None, size=10) as ingest,
    ):
        ingest.write(b"half")


def a_container(client: Client, image: ImageFactory, ctr: Ctr) -> None:
    image(NAME, {"a": b"1"})
    ctr("containers", "create", NAME, "left", namespace=client.namespace)


@pytest.fixture
def namespaces_left(pyctrd_address: str) -> Iterator[set[str]]:
    """The namespaces that containerd has to have when the fixtures that depend on this one have ended."""
    expected: set[str] = set()
    with Client(pyctrd_address) as client:
        before = {namespace.name for namespace in client.namespaces.list()}
        yield expected
        assert {namespace.name for namespace in client.namespaces.list()} == before | expected


@pytest.fixture
def tested_client(namespaces_left: set[str], request: pytest.FixtureRequest) -> Client:
    client: Client = request.getfixturevalue("pyctrd_client")
    return client


@pytest.mark.parametrize(
    ("leave", "stays"),
    [
        (an_image, False),
        (a_pinned_image, False),
        (a_lease, False),
        (an_unfinished_write, False),
        (a_container, True),
    ],
)
def test_what_a_test_leaves_is_removed_with_its_namespace(
    namespaces_left: set[str],
    tested_client: Client,
    request: pytest.FixtureRequest,
    ctr: Ctr,
    leave: Leave,
    stays: bool,
) -> None:
    leave(tested_client, request.getfixturevalue("pyctrd_image"), ctr)
    if stays:
        namespaces_left.add(tested_client.namespace)
