"""The images of the scenarios; every function returns the same bytes in every run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.support.images import (
    IN_TOTO,
    OCI_EMPTY,
    OCTET_STREAM,
    Blob,
    Graph,
    Layer,
    config,
    index,
    layer,
    manifest,
    platform,
    random_layer,
    to_json,
)

PAUSE_PLATFORMS = ("linux/amd64", "linux/arm64", "linux/arm/v7", "linux/ppc64le", "linux/s390x")
MIXED_PLATFORMS = ("linux/amd64", "linux/arm64/v8", "linux/arm/v7", "linux/386")


def layers_for(on: str, count: int, salt: str = "", **how: object) -> list[Layer]:
    """`count` small layers whose content belongs to the platform `on`."""
    made = []
    for number in range(count):
        files = {f"app/{on.replace('/', '-')}/{number}": f"{salt}{on} layer {number}\n".encode() * 40}
        made.append(
            layer(files, compression=str(how.get("compression", "gzip")), docker=bool(how.get("docker")))
        )
    return made


def single(on: str = "linux/amd64", layers: int = 2, *, docker: bool = False, salt: str = "") -> Graph:
    """One manifest without a platform on its descriptor."""
    made = layers_for(on, layers, salt, docker=docker)
    return manifest(config(made, on, docker=docker), made, docker=docker)


def multi(platforms: Sequence[str], layers: int = 2, *, docker: bool = False, salt: str = "") -> Graph:
    """An index (Docker: manifest list) with one image per platform and nothing shared."""
    children = []
    for on in platforms:
        made = layers_for(on, layers, salt, docker=docker)
        children.append(manifest(config(made, on, docker=docker), made, docker=docker, on=on))
    return index(children, docker=docker)


def five_platform(layers: int = 1, *, docker: bool = True, salt: str = "") -> Graph:
    """Like registry.k8s.io/pause:3.10: a Docker manifest list of amd64, arm64, arm/v7, ppc64le and s390x."""
    return multi(PAUSE_PLATFORMS, layers, docker=docker, salt=salt)


def attestation(of: Graph) -> Graph:
    """BuildKit's attestation manifest for an image manifest: provenance and SBOM as in-toto statements."""
    statements = [
        Blob(
            to_json(
                {
                    "_type": "https://in-toto.io/Statement/v0.1",
                    "predicateType": kind,
                    "subject": [{"name": "_", "digest": {"sha256": of.digest.removeprefix("sha256:")}}],
                    "predicate": {},
                }
            ),
            IN_TOTO,
            {"annotations": {"in-toto.io/predicate-type": kind}},
        )
        for kind in ("https://spdx.dev/Document", "https://slsa.dev/provenance/v0.2")
    ]
    # BuildKit's config of an attestation lists the statements' digests as if they were diff ids.
    rootfs = {"type": "layers", "diff_ids": [one.digest for one in statements]}
    made = manifest(config([], "unknown/unknown", config={}, rootfs=rootfs), statements)
    marks = {
        "vnd.docker.reference.digest": of.digest,
        "vnd.docker.reference.type": "attestation-manifest",
    }
    return made.described_as(annotations=marks, platform=platform("unknown/unknown"))


def mixed(layers: int = 2, *, salt: str = "") -> Graph:
    """An OCI index of amd64, arm64/v8, arm/v7, 386 and the attestation of amd64."""
    images = [multi([on], layers, salt=salt).child(0) for on in MIXED_PLATFORMS]
    return index([*images, attestation(images[0])])


def nested(*, salt: str = "") -> Graph:
    """index -> index without platform -> amd64, arm64."""
    return index([multi(["linux/amd64", "linux/arm64"], salt=salt)])


def without_platforms(*, salt: str = "") -> Graph:
    """An index whose two children (amd64, arm64 by their configs) carry no platform."""
    return index([single("linux/amd64", salt=salt), single("linux/arm64", salt=salt)])


def artifact(
    *,
    subject: Graph | None = None,
    kind: str = "application/vnd.example.thing",
    text: str = "a text of an artifact\n",
    annotations: Mapping[str, str] | None = None,
) -> Graph:
    """An artifact with an empty config and one text blob; with `subject`, it refers to that one."""
    members: dict[str, Any] = {"artifactType": kind}
    if annotations:
        members["annotations"] = dict(annotations)
    if subject:
        members["subject"] = {key: subject.root[key] for key in ("mediaType", "digest", "size")}
    return manifest(Blob(b"{}", OCI_EMPTY), [Blob(text.encode(), "text/plain")], **members)


def wasm(layers: int = 2) -> Graph:
    """An artifact of a foreign config type whose blobs have an image layer's media type."""
    return manifest(
        Blob(b'{"module":"main.wasm"}', "application/vnd.wasm.config.v0+json"), layers_for("wasm", layers)
    )


def octet_stream_config(layers: int = 2) -> Graph:
    """A Docker manifest whose config says application/octet-stream, as very old pushers wrote it."""
    made = layers_for("linux/amd64", layers, docker=True)
    return manifest(Blob(config(made, docker=True).data, OCTET_STREAM), made, docker=True)


def foreign(urls: Sequence[str]) -> Graph:
    """One image whose first layer is available at `urls`; the graph has its bytes, too."""
    made = [layer({"base/file": b"foreign base\n" * 50}, urls=urls), *layers_for("linux/amd64", 1)]
    return manifest(config(made), made)


def inline_data() -> Graph:
    """One image whose layer descriptor carries its own bytes as `data`."""
    plain = layers_for("linux/amd64", 1)[0]
    carrying = Layer(
        plain.data, plain.media_type, {"data": manifest(plain, []).inlined(plain.digest)}, plain.diff_id
    )
    return manifest(config([carrying]), [carrying])


def shared_layers(*, salt: str = "") -> Graph:
    """amd64 and arm64 with the same base layer, and one config that two manifests share."""
    base = layer({"base": f"{salt}shared base\n".encode() * 40})
    top = [layers_for(on, 1, salt)[0] for on in ("linux/amd64", "linux/arm64")]
    first = config([base, top[0]])
    return index(
        [
            manifest(first, [base, top[0]], on="linux/amd64"),
            manifest(first, [base, top[0]], on="linux/amd64", annotations={"second": "manifest"}),
            manifest(config([base, top[1]], "linux/arm64"), [base, top[1]], on="linux/arm64"),
        ]
    )


def compressions(kinds: Sequence[str] = ("gzip", "", "zstd")) -> Graph:
    """One image with a layer of each compression."""
    made = [
        layer({f"{kind or 'plain'}/file": b"compressed somehow\n" * 60}, compression=kind) for kind in kinds
    ]
    return manifest(config(made), made)


def recompressed(compression: str, *, salt: str = "") -> Graph:
    """The same files as `recompressed` with another compression: equal diff ids, other layer blobs."""
    made = layers_for("linux/amd64", 2, salt, compression=compression)
    return manifest(config(made), made)


def big(size: int, layers: int = 4, *, seed: int = 0) -> Graph:
    """One image of `size` bytes of incompressible data in equal layers, for measurements."""
    made = [random_layer(size // layers, seed * 1000 + number) for number in range(layers)]
    return manifest(config(made), made)


def signature(
    kind: str = "application/vnd.dev.cosign.simplesigning.v1+json",
    diff_ids: Sequence[str] | None = None,
    *,
    subject: Graph | None = None,
) -> Graph:
    """What cosign pushes as `sha256-<digest>.sig`, `.att` or `.sbom`: an image config, another type of layer.

    The config has the given diff ids, by default (like cosign) the digest of the layer itself. With
    `subject`, it refers to that one, as with `--registry-referrers-mode=oci-1-1`.
    """
    members: dict[str, Any] = (
        {"subject": subject.described_as(annotations=None, platform=None).root} if subject else {}
    )
    payload = Blob(to_json({"critical": {"type": kind}}), kind)
    stated = [payload.digest] if diff_ids is None else list(diff_ids)
    rootfs = {"type": "layers", "diff_ids": stated}
    return manifest(config([], on="", os="", architecture="", config={}, rootfs=rootfs), [payload], **members)


def large_config(size: int, *, salt: str = "") -> Graph:
    """One image whose config has at least `size` bytes."""
    made = layers_for("linux/amd64", 1, salt)
    return manifest(config(made, config={"Labels": {"large": "x" * size}}), made)


def attested_as_amd64(*, salt: str = "") -> Graph:
    """An index of amd64 and its attestation, listed as unknown/unknown with a config of linux/amd64."""
    image = single("linux/amd64", salt=salt).described_as(platform=platform("linux/amd64"))
    listed = attestation(image)
    statements = [Blob(listed.blobs[one["digest"]], IN_TOTO) for one in listed.document()["layers"]]
    made = manifest(config([]), statements)
    return index(
        [
            image,
            made.described_as(annotations=listed.root["annotations"], platform=platform("unknown/unknown")),
        ]
    )


# --- expensive images: few bytes, many paths -----------------------------------------------------------


def shared_indexes(levels: int, width: int, *, salt: str = "") -> Graph:
    """Levels of indexes that each list all of the next one: `width` to the power of `levels` paths."""
    children = [multi(["linux/amd64", "linux/arm64"], layers=1, salt=salt)]
    for level in range(levels):
        children = [index(children, annotations={"place": f"{level}.{number}"}) for number in range(width)]
    return index(children)


def listed_for_many(count: int, layers: int = 2, *, key: str = "architecture", salt: str = "") -> Graph:
    """One image that its index lists for linux/amd64, and once more for each of `count` platforms.

    With `key` "os.version" all of them match linux/amd64. The config names no platform.
    """
    made = layers_for("linux/amd64", layers, salt)
    child = manifest(config(made, os="", architecture=""), made)
    others = ({**platform("linux/amd64"), key: f"x{number}"} for number in range(count))
    return index([child.described_as(platform=on) for on in (platform("linux/amd64"), *others)])


def many_manifests(count: int, *, salt: str = "") -> Graph:
    """linux/amd64, and `count` images for other platforms that share its layers."""
    made = layers_for("linux/amd64", 2, salt)
    names = ["linux/amd64", *(f"linux/x{number}" for number in range(count))]
    return index([manifest(config(made, on), made, on=on) for on in names])
