"""Pull, in memory: what is unpacked, what is believed, and how large it may be."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import pytest

from pyctrd.errors import RegistryContentError
from pyctrd.oci.model import MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, Descriptor, Digest, Platform
from pyctrd.oci.platforms import select
from pyctrd.operations.pull import PullOptions, PullResult, pull
from tests.support import shapes
from tests.support.images import IN_TOTO, OCI_CONFIG, Blob, Graph, config, index, manifest
from tests.support.memory import MemoryStore
from tests.support.repository import MemoryRepository

HOST = Platform(os="linux", architecture="amd64")
NAME = "registry.example/team/app:latest"


def pulled(graph: Graph, *platforms: str, unpack: bool | None = None) -> tuple[PullResult, MemoryStore]:
    """Pull a graph into an empty store."""
    source = MemoryRepository()
    source.blobs = dict(graph.blobs)
    kept = {key: value for key, value in graph.root.items() if key != "platform"}
    source.tags["latest"] = msgspec.convert(kept, Descriptor, dec_hook=lambda kind, value: kind(value))
    store = MemoryStore()
    options = PullOptions(platforms=select(platforms), unpack=unpack)
    return pull(store, source, NAME, options, host=HOST), store


# --- what is unpacked -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        "application/vnd.dev.cosign.simplesigning.v1+json",
        "application/vnd.dsse.envelope.v1+json",
        "text/spdx+json",
        "application/vnd.cyclonedx+json",
        "application/vnd.wasm.content.layer.v1+wasm",
    ],
)
@pytest.mark.parametrize(
    "diff_ids", [None, [], [""], [":"], ["sha256:" + "1" * 64] * 2], ids=["own", "none", "", ":", "two"]
)
def test_only_layers_that_are_unpacked_need_diff_ids(kind: str, diff_ids: Sequence[str] | None) -> None:
    graph = shapes.signature(kind, diff_ids)
    result, store = pulled(graph)
    assert {item.digest for item in result.fetched} == set(graph.blobs)
    assert store.state.snapshots == {}
    assert store.images.get(NAME).target.digest == graph.digest


def without_diff_ids() -> Graph:
    return manifest(Blob(b"{}", OCI_CONFIG), shapes.layers_for("linux/amd64", 1))


def with_odd_diff_ids() -> Graph:
    layers = shapes.layers_for("linux/amd64", 1)
    return manifest(config(layers, rootfs={"type": "layers", "diff_ids": ["sha256:1"]}), layers)


def with_wrong_diff_ids() -> Graph:
    layers = shapes.layers_for("linux/amd64", 1)
    wrong = str(Digest.of(b"something else"))
    return manifest(config(layers, rootfs={"type": "layers", "diff_ids": [wrong]}), layers)


@pytest.mark.parametrize(
    ("make", "words", "hint"),
    [
        (without_diff_ids, "mismatched image rootfs and manifest layers: 0 diff ids", "--no-unpack"),
        (with_odd_diff_ids, "invalid checksum digest length: 'sha256:1'", "--no-unpack"),
        (with_wrong_diff_ids, "wrong diff id calculated on extraction", "--no-unpack"),
    ],
)
def test_layers_that_cannot_be_unpacked_can_be_pulled(
    make: Callable[[], Graph], words: str, hint: str
) -> None:
    with pytest.raises(RegistryContentError, match=words) as caught:
        pulled(make())
    assert hint in str(caught.value.hint)
    result, _store = pulled(make(), unpack=False)
    assert len(result.fetched) == 3


# --- what is believed -------------------------------------------------------------------------------------


def test_an_attestation_promises_no_platform() -> None:
    graph = shapes.attested_as_amd64()
    result, store = pulled(graph, "all", unpack=True)
    assert {item.digest for item in result.fetched} == set(graph.blobs)
    assert result.unpacked == ("linux/amd64",)
    assert len(store.state.snapshots) == 2


def test_an_image_is_for_the_platform_that_its_index_promises() -> None:
    graph = index([manifest(config([], "linux/s390x"), [Blob(b"{}", IN_TOTO)], on="linux/amd64")])
    with pytest.raises(RegistryContentError, match="promises linux/amd64, the config is for linux/s390x"):
        pulled(graph)


# --- how large it may be ----------------------------------------------------------------------------------


def test_a_config_may_be_larger_than_a_manifest() -> None:
    graph = shapes.large_config(MAX_MANIFEST_BYTES + 1)
    result, _store = pulled(graph)
    assert result.unpacked == ("linux/amd64",)


def test_what_is_too_large_is_called_by_its_name() -> None:
    image = shapes.single()
    claimed = manifest(Blob(b"{}", OCI_CONFIG, {"size": MAX_CONFIG_BYTES + 1}), [])
    with pytest.raises(RegistryContentError, match="rejecting 67108865 byte image config sha256:"):
        pulled(claimed)
    child = {**image.root, "size": MAX_MANIFEST_BYTES + 1}
    for kind in ("manifest", "index"):
        media_type = f"application/vnd.oci.image.{kind}.v1+json"
        listed = index([Graph({**child, "mediaType": media_type}, {})])
        with pytest.raises(RegistryContentError, match=f"rejecting 4393217 byte {kind} sha256:"):
            pulled(listed)
