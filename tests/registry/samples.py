"""Content of the scripted registry, and helpers to read it."""

from __future__ import annotations

import itertools
from pathlib import Path

from pyctrd.oci import mediatypes
from pyctrd.oci.model import Descriptor, Digest
from pyctrd.registry.repository import Repository
from tests.registry.server import ScriptedServer

MANIFEST = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}'
DIGEST = Digest.of(MANIFEST)
TAG = "/v2/team/app/manifests/v1"
HEADERS = {"Content-Type": f"{mediatypes.OCI_INDEX}; charset=utf-8", "Docker-Content-Digest": DIGEST}
BLOB = bytes(itertools.islice(itertools.cycle(range(251)), 3_000_000))


def layer(data: bytes = BLOB, **fields: object) -> Descriptor:
    return Descriptor(
        **{  # type: ignore[arg-type]
            "media_type": mediatypes.OCI_LAYER_GZIP,
            "digest": Digest.of(data),
            "size": len(data),
            **fields,
        }
    )


def drain(remote: Repository, descriptor: Descriptor, received: list[int]) -> None:
    """Fetch and discard; the lengths of the chunks are in `received`, also after an error."""
    with remote.fetch(descriptor) as chunks:
        received.extend(map(len, chunks))


def blob_path(descriptor: Descriptor, kind: str = "blobs") -> str:
    return f"/v2/team/app/{kind}/{descriptor.digest}"


def read(remote: Repository, descriptor: Descriptor, offset: int = 0) -> bytes:
    with remote.fetch(descriptor, offset) as chunks:
        return b"".join(chunks)


def mirror_config(folder: Path, server: ScriptedServer, other: ScriptedServer, extra: str = "") -> Path:
    directory = folder / "_default"
    directory.mkdir(parents=True)
    (directory / "hosts.toml").write_text(f'server = "{server.url}"\n[host."{other.url}"]\n{extra}')
    return folder
