"""Helpers for the contract: blobs of random bytes, written and listed through ports.Store."""

from __future__ import annotations

import os

import pytest

from pyctrd.oci import mediatypes
from pyctrd.oci.model import Descriptor, Digest, ImageRecord
from pyctrd.ports import Store

SIZE = 300_000
SNAPSHOT_REF = "containerd.io/snapshot.ref"


def new_blob(size: int = SIZE) -> tuple[bytes, Digest]:
    data = os.urandom(size)
    return data, Digest.of(data)


def put(store: Store, data: bytes) -> Digest:
    digest = Digest.of(data)
    with store.content.open_ingest(f"put-{digest}", digest=digest, size=len(data)) as ingest:
        ingest.write(data[ingest.offset :])  # a daemon may still have the bytes of deleted content
        ingest.commit()
    return digest


def tag(store: Store, name: str, digest: Digest, labels: dict[str, str] | None = None) -> ImageRecord:
    target = Descriptor(
        media_type=mediatypes.OCI_MANIFEST, digest=digest, size=store.content.info(digest).size
    )
    return store.images.create(ImageRecord(name=name, target=target, labels=labels or {}))


def here(store: Store, *digests: Digest) -> list[bool]:
    listed = {info.digest for info in store.content.list()}
    return [digest in listed for digest in digests]


def begin(store: Store, ref: str, data: bytes, digest: Digest, size: int) -> None:
    """Write part of a blob, and leave it unfinished."""
    with store.content.open_ingest(ref, digest=digest, size=size) as ingest:
        ingest.write(data)


def open_again(store: Store, ref: str, digest: Digest, size: int) -> None:
    with store.content.open_ingest(ref, digest=digest, size=size):
        pytest.fail("the content was opened for writing")
