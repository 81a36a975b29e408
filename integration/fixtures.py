"""Image archives in the tests of other projects, for tests of load.

Programs wrote most of them years ago: bazel, docker 1.13 to 25, go-containerregistry, regclient, skopeo. The
modules are downloaded from the Go module proxy and checked against their sums (integration/rig/golang.py).
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from integration.archives import Archive, Make, Workshop, tar_of_folder
from integration.conftest import peer_required
from integration.rig import peers
from integration.rig.golang import CONTAINERS_IMAGE, GO_CONTAINERREGISTRY, REGCLIENT, STEREOSCOPE

TARBALL = "pkg/v1/tarball/testdata"
MUTATE = "pkg/v1/mutate/testdata"
LAYOUT = "pkg/v1/layout/testdata"
OCI = "pkg/image/oci/testdata"
FIXTURES = "oci/layout/fixtures"
NO_UNPACK = ("--no-unpack",)


def _copy(module: str, path: str) -> Make:
    """A copy of a tar, or a tar of a folder."""

    def make(_: Workshop, target: Path) -> None:
        with peer_required():
            found = peers.module(module) / path
        if found.is_dir():
            tar_of_folder(found, target)
        else:
            shutil.copyfile(found, target)

    return make


def _fixture(module: str, path: str, *flags: str) -> Archive:
    return Archive(f"{module.split('/')[1]}-{Path(path).stem}", _copy(module, path), flags)


LOADED = (
    *(
        _fixture(GO_CONTAINERREGISTRY, f"{TARBALL}/{name}.tar")
        for name in ("test_bundle", "test_image_1", "test_image_2", "test_link", "test_load_manifest")
    ),
    *(
        _fixture(GO_CONTAINERREGISTRY, f"{MUTATE}/{name}.tar")
        for name in (
            "overwritten_file",
            "source_image",
            "source_image_with_empty_layer_history",
            "whiteout_dir",
            "whiteout_image",
        )
    ),
    _fixture(STEREOSCOPE, f"{OCI}/valid-oci.tar"),
    _fixture(STEREOSCOPE, f"{OCI}/valid_oci_dir"),
    _fixture(STEREOSCOPE, f"{OCI}/duplicate_platform_oci_dir"),
    _fixture(STEREOSCOPE, f"{OCI}/multiplatform_oci_dir"),
    _fixture(STEREOSCOPE, f"{OCI}/single_image_no_platform_oci_dir"),
    _fixture(REGCLIENT, "testdata/external", *NO_UNPACK),
    _fixture(CONTAINERS_IMAGE, "docker/archive/fixtures/almostempty.tar"),
)
"""Archives that ctr and pyctrd load alike."""


WITH_REFERRERS = _fixture(REGCLIENT, "testdata/testrepo", *NO_UNPACK)
"""An archive whose images have referrers, which ctr leaves to the garbage collector."""


@dataclass(frozen=True)
class Different:
    """An archive that ctr loads in another way: the row of docs/differences.md, and our exit code."""

    archive: Archive
    row: str
    code: int = 1

    def __str__(self) -> str:
        """Return its name for pytest."""
        return f"{self.row}-{self.archive}"


DIFFERENT = (
    Different(_fixture(CONTAINERS_IMAGE, f"{FIXTURES}/delete_image_multiple_images"), "L2"),
    Different(_fixture(CONTAINERS_IMAGE, f"{FIXTURES}/delete_image_only_one_image"), "L2"),
    Different(_fixture(CONTAINERS_IMAGE, f"{FIXTURES}/delete_image_shared_blobs_dir"), "L3", 4),
    Different(_fixture(CONTAINERS_IMAGE, f"{FIXTURES}/delete_image_two_identical_references"), "L9"),
    Different(_fixture(GO_CONTAINERREGISTRY, f"{LAYOUT}/test_index_media_type"), "L6", 0),
    Different(_fixture(GO_CONTAINERREGISTRY, f"{LAYOUT}/test_index_one_image"), "L6", 0),
    Different(_fixture(STEREOSCOPE, f"{OCI}/attestation_oci_dir"), "L6", 0),
    Different(_fixture(GO_CONTAINERREGISTRY, f"{LAYOUT}/test_gc_index"), "L14"),
    Different(_fixture(GO_CONTAINERREGISTRY, f"{LAYOUT}/test_index"), "L14"),
    Different(_fixture(STEREOSCOPE, f"{OCI}/mismatched_descriptor_oci_dir"), "L14"),
)
WITHOUT_IMAGE = (
    _fixture(GO_CONTAINERREGISTRY, f"{LAYOUT}/test_gc_image_unknown_mediatype"),
    *(
        _fixture(GO_CONTAINERREGISTRY, f"{TARBALL}/{name}.tar")
        for name in ("content", "hello-world-v25", "no_manifest", "null_manifest")
    ),
    _fixture(REGCLIENT, "testdata/layer.tar"),
    _fixture(REGCLIENT, "testdata/layer-wh.tar"),
    *(_fixture(STEREOSCOPE, f"{OCI}/{name}") for name in ("invalid_file", "no_manifests", "valid_manifest")),
    *(
        _fixture(CONTAINERS_IMAGE, f"{FIXTURES}/{name}")
        for name in ("manifest", "name_lookups", "two_images_manifest")
    ),
)
"""Archives without an image that ctr or pyctrd loads; the index.json of Docker 25's is empty."""
