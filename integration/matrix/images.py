"""The images of the matrix. Each function gets the address of a web server, for layers on other hosts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.support import shapes
from tests.support.images import Graph, config, index, layer, manifest

Maker = Callable[[str], Graph]
AMD64, ARM64 = "linux/amd64", "linux/arm64"
ELSEWHERE = "/elsewhere/"
"""The path of foreign layers on the web server, without their digest."""


def _of(on: str, compression: str = "gzip") -> Graph:
    """An image manifest of two layers for one platform."""
    layers = shapes.layers_for(on, 2, compression=compression)
    return manifest(config(layers, on), layers, on=on)


def _packed_twice() -> Graph:
    """The same files with gzip and with zstd: two manifests of one platform share one config."""
    plain = shapes.layers_for(AMD64, 2)
    packed = shapes.layers_for(AMD64, 2, compression="zstd")
    shared = config(plain)
    return index([manifest(shared, plain, on=AMD64), manifest(shared, packed, on=AMD64), _of(ARM64)])


def _shared_base() -> Graph:
    base = layer({"base": b"shared base\n" * 40})
    children = []
    for on in (AMD64, ARM64):
        layers = [base, *shapes.layers_for(on, 1)]
        children.append(manifest(config(layers, on), layers, on=on))
    return index(children)


def _foreign(server: str) -> Graph:
    """An index of two platforms; the base layer of each is on another web server."""
    children = []
    for on in (AMD64, ARM64):
        files = {"base/file": f"foreign base of {on}\n".encode() * 50}
        digest = layer(files).digest
        layers = [layer(files, urls=[f"{server}{ELSEWHERE}{digest}"]), *shapes.layers_for(on, 1)]
        children.append(manifest(config(layers, on), layers, on=on))
    return index(children)


IMAGES: dict[str, Maker] = {
    "five platforms": lambda _: shapes.five_platform(2, docker=False),
    "Docker list": lambda _: shapes.five_platform(2),
    "attestations": lambda _: shapes.mixed(),
    "nested index": lambda _: shapes.nested(),
    "nested next to amd64": lambda _: index([_of(AMD64), shapes.multi([ARM64])]),
    "shared layers": lambda _: _shared_base(),
    "one config, two manifests": lambda _: _packed_twice(),
    "host platform absent": lambda _: index([_of(ARM64), _of("linux/s390x")]),
    "single manifest": lambda _: shapes.single(),
    "zstd": lambda _: index([_of(AMD64, "zstd"), _of(ARM64, "zstd")]),
    "foreign layers": _foreign,
}
ABOUT: Sequence[tuple[str, str]] = (
    ("five platforms", "OCI index of amd64, arm64, arm/v7, ppc64le, s390x; two layers each"),
    ("Docker list", "the same as a Docker manifest list"),
    ("attestations", "OCI index of amd64, arm64/v8, arm/v7, 386, and BuildKit's attestation of amd64"),
    ("nested index", "an index whose only child is an index of amd64 and arm64"),
    ("nested next to amd64", "an index of an amd64 image and of an index of arm64"),
    ("shared layers", "amd64 and arm64 with the same base layer"),
    ("one config, two manifests", "amd64 packed with gzip and with zstd, one config for both, and arm64"),
    ("host platform absent", "an index of arm64 and s390x"),
    ("single manifest", "an amd64 manifest without an index"),
    ("zstd", "an index of amd64 and arm64 with zstd layers"),
    ("foreign layers", "an index of amd64 and arm64 whose base layers have a URL of another server"),
)
assert [name for name, _ in ABOUT] == list(IMAGES)
