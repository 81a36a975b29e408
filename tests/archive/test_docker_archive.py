"""Archives in Docker's older format: uncompressed layers, checked against the config."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pyctrd.archive import docker_archive, tar
from pyctrd.archive.compress import compressed
from pyctrd.archive.contents import contents
from pyctrd.archive.docker_archive import DockerImage
from pyctrd.archive.layout import ArchiveImage
from pyctrd.errors import ArchiveError, ContentError, DigestMismatch, InvalidInput
from pyctrd.oci import mediatypes
from pyctrd.oci.model import Descriptor, Digest, ImageRecord, Platform
from pyctrd.oci.platforms import ALL
from pyctrd.ports import Chunk
from tests.support.world import AMD64, ARM64, UNKNOWN, World

LAYER = b"".join(hashlib.sha256(bytes([number])).digest() * 9 for number in range(200)) + bytes(5000)


def zstd(data: bytes) -> bytes:
    output = io.BytesIO()
    with compressed(output.write, "zstd", len(data)) as write:
        write(data)
    return output.getvalue()


FORMS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gzip": gzip.compress,
    "two gzip members": lambda data: gzip.compress(data[:1000]) + gzip.compress(data[1000:]),
    "zstd": zstd,
    "skippable zstd frame": lambda data: b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + zstd(data),
}


class Store(World):
    """Images whose configs say what their layers are."""

    def image_of(self, *layers: bytes, stated: bytes | None = None, platform: Platform = AMD64) -> Descriptor:
        """Make an image of layers that all have the same uncompressed bytes."""
        diff_ids = [str(Digest.of(LAYER if stated is None else stated)) for _ in layers]
        config = self.document(
            mediatypes.OCI_CONFIG,
            {"os": "linux", "architecture": platform.architecture, "rootfs": {"diff_ids": diff_ids}},
        )
        return self.manifest(
            config, [self.blob(mediatypes.OCI_LAYER_GZIP, layer) for layer in layers], platform
        )

    @contextmanager
    def open(self, digest: Digest) -> Iterator[Iterator[Chunk]]:
        data = self.blobs[digest]
        yield (data[start : start + 777] for start in range(0, len(data), 777))

    def collect(self, target: Descriptor, name: str = "docker.io/library/app:1") -> ArchiveImage:
        record = ImageRecord(name=name, target=target)
        return contents(record, self.read, lambda step: step, preferences=[ALL])

    def archive(self, *images: DockerImage) -> dict[str, bytes]:
        layers = docker_archive.layers_of(images)
        layout = docker_archive.build(images, docker_archive.measure(layers, self.open))
        output = io.BytesIO()
        assert tar.write(layout, docker_archive.reader(layers, self.open), output) == tar.size(layout)
        with tarfile.open(fileobj=io.BytesIO(output.getvalue())) as found:
            return {item.name: (found.extractfile(item) or io.BytesIO()).read() for item in found}


@pytest.mark.parametrize("form", FORMS)
def test_layers_are_uncompressed(form: str) -> None:
    store = Store()
    image = docker_archive.image_of(store.collect(store.image_of(FORMS[form](LAYER))), store.read)
    name = f"{Digest.of(LAYER).encoded}.tar"
    config = f"{image.config.digest.encoded}.json"
    files = store.archive(image)
    assert files.pop("manifest.json") == (
        f'[{{"Config":"{config}","RepoTags":["app:1"],"Layers":["{name}"]}}]'.encode()
    )
    assert files == {name: LAYER, config: store.blobs[image.config.digest]}


def test_a_layer_twice_in_an_image_and_names_of_one_config() -> None:
    store = Store()
    two = store.image_of(gzip.compress(LAYER), zstd(LAYER))
    images = [docker_archive.image_of(store.collect(two, name), store.read) for name in ("a:1", "b:2")]
    (entry,) = json.loads(store.archive(*images)["manifest.json"])
    assert entry["RepoTags"] == ["a:1", "b:2"]
    assert entry["Layers"] == [f"{Digest.of(LAYER).encoded}.tar"] * 2
    assert len(docker_archive.blobs_of(images)) == 2


def test_a_layer_that_is_another_one_is_refused() -> None:
    store = Store()
    image = docker_archive.image_of(store.collect(store.image_of(LAYER, stated=b"other")), store.read)
    with pytest.raises(DigestMismatch, match="has the diff id sha256:") as caught:
        store.archive(image)
    assert (caught.value.expected, caught.value.actual) == (Digest.of(b"other"), Digest.of(LAYER))


@pytest.mark.parametrize("form", ["gzip", "zstd"])
@pytest.mark.parametrize("damage", [lambda raw: raw[:-10], lambda raw: raw[:40] + bytes(40) + raw[80:]])
def test_a_damaged_layer_is_refused(form: str, damage: Callable[[bytes], bytes]) -> None:
    store = Store()
    image = store.image_of(damage(FORMS[form](LAYER)))
    with pytest.raises(ContentError, match="layer sha256:"):
        store.archive(docker_archive.image_of(store.collect(image), store.read))


def test_attestations_are_left_out_and_several_platforms_refused() -> None:
    store = Store()
    one, other = store.image_of(LAYER), store.image_of(zstd(LAYER), platform=ARM64)
    attestation = store.image("attestation", UNKNOWN)
    image = docker_archive.image_of(store.collect(store.index([one, attestation])), store.read)
    assert set(store.archive(image)) == {
        "manifest.json",
        f"{image.config.digest.encoded}.json",
        f"{Digest.of(LAYER).encoded}.tar",
    }
    with pytest.raises(InvalidInput, match=r"`format=docker` needs one image, but there are 2 \(linux/amd64"):
        docker_archive.image_of(store.collect(store.index([one, other])), store.read)


def test_what_is_no_container_image_is_refused() -> None:
    store = Store()
    artifact = store.manifest(store.blob("application/vnd.wasm.config.v0+json", b"{}"), [])
    with pytest.raises(ArchiveError, match="docker cannot load a config of type application"):
        docker_archive.image_of(store.collect(artifact), store.read)
    layer = store.blob(mediatypes.OCI_LAYER_GZIP, b"layer")
    uneven = store.manifest(store.document(mediatypes.OCI_CONFIG, {"rootfs": {"diff_ids": []}}), [layer])
    with pytest.raises(ContentError, match="mismatched image rootfs and manifest layers"):
        docker_archive.image_of(store.collect(uneven), store.read)
