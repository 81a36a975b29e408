"""Platforms and stored bytes of every image, whatever its shape."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pyctrd.oci import mediatypes
from pyctrd.oci.model import Descriptor, Digest, ImageRecord
from pyctrd.oci.platforms import to_string
from pyctrd.operations.images import ImageOverview, overview
from tests.operations.diagnose.world import World


def look(world: World, *targets: Descriptor) -> Sequence[ImageOverview]:
    return overview(
        world.store, [ImageRecord(name=f"image-{n}", target=item) for n, item in enumerate(targets)]
    )


def found(item: ImageOverview) -> tuple[list[str], list[str]]:
    return list(map(to_string, item.complete)), list(map(to_string, item.incomplete))


def test_complete_and_incomplete_platforms_and_stored_bytes() -> None:
    world = World()
    amd64, arm64 = world.manifest("linux/amd64", ["a", "b"]), world.manifest("linux/arm64", ["c"])
    target = world.index(amd64, arm64, world.attestation(amd64))
    before = sum(map(len, world.content.blobs.values()))
    (whole,) = look(world, target)
    assert found(whole) == (["linux/amd64", "linux/arm64"], [])
    assert whole.bytes_here == before
    gone = world.below(arm64)[1][0]
    world.remove(gone)
    (item,) = look(world, target)
    assert found(item) == (["linux/amd64"], ["linux/arm64"])
    assert item.bytes_here == before - gone.size


@pytest.mark.parametrize("what", ["manifest", "config", "layer", "index"])
def test_absent_content_makes_a_platform_incomplete(what: str) -> None:
    world = World()
    manifest = world.manifest("linux/amd64", ["a"])
    target = world.index(manifest)
    config, (layer,) = world.below(manifest)
    world.remove({"manifest": manifest, "config": config, "layer": layer, "index": target}[what])
    (item,) = look(world, target)
    assert found(item) == ([], [] if what == "index" else ["linux/amd64"])


def test_a_single_manifest_has_the_platform_of_its_config() -> None:
    world = World()
    target = world.manifest("linux/s390x", ["a"])
    plain = Descriptor(media_type=target.media_type, digest=target.digest, size=target.size)
    assert found(look(world, plain)[0]) == (["linux/s390x"], [])
    world.remove(*world.below(target)[1])
    assert found(look(world, plain)[0]) == ([], ["linux/s390x"])
    world.remove(world.below(target)[0])
    assert found(look(world, plain)[0]) == ([], [])


def test_artifacts_and_invalid_documents_have_no_platform() -> None:
    world = World()
    config = world.add("application/vnd.example.config", b"{}")
    artifact = world.document(config, [world.layer("x")])
    signature = world.document(world.add(mediatypes.OCI_CONFIG, b'{"rootfs": {}}'), [world.layer("y")])
    broken = world.add(mediatypes.OCI_INDEX, b'{"manifests": []}')
    world.content.blobs[broken.digest] = b"not json"
    items = look(world, artifact, broken, artifact, signature)
    assert [found(item) for item in items] == [([], [])] * 4
    assert items[0].bytes_here == items[2].bytes_here > 0


def test_a_document_of_many_images_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    target = world.index(world.manifest("linux/amd64", ["a"]), world.manifest("linux/arm64", ["b"]))
    reads: list[Digest] = []
    read = world.content.read_all

    def counted(digest: Digest, *, limit: int) -> bytes:
        reads.append(digest)
        return read(digest, limit=limit)

    monkeypatch.setattr(world.content, "read_all", counted)
    assert len(look(world, *[target] * 50)) == 50
    assert len(reads) == 3
