"""Stores with inconsistent images: every blob matches its digest, but the image is wrong.

No pull stores such an image, so it is written directly, like by a broken builder or a restored backup.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from integration.rig.containerd import Containerd
from integration.shell import Shell
from pyctrd.containerd import Daemon
from pyctrd.errors import AlreadyExists
from pyctrd.oci import mediatypes
from pyctrd.oci.model import Descriptor, Digest, ImageRecord
from tests.support import images, shapes
from tests.support.images import Graph

NAME = "lying.example/app:1"


class Liar:
    """A namespace to which any content can be written."""

    def __init__(self, containerd: Containerd, namespace: str, folder: Path) -> None:
        self.shell = Shell(containerd, namespace, folder)
        self._store = Daemon.connect(str(containerd.address), namespace)

    def record(
        self, blobs: Mapping[str, bytes], target: Descriptor, labels: Mapping[str, str], *, root: str = ""
    ) -> None:
        """Write blobs, and a record; `labels` are the target's, and `root` is never collected."""
        with self._store as store, store.lease("lie") as leased:
            for digest, data in blobs.items():
                _put(leased, Digest(digest), data)
            leased.images.create(ImageRecord(name=NAME, target=target, labels={}))
            if target.digest in blobs:
                leased.content.set_labels(target.digest, labels)
            if root:
                leased.content.set_labels(Digest(root), {"containerd.io/gc.root": "kept by the test"})

    def words(self, *arguments: str, code: int) -> str:
        """Return stdout and stderr of a command."""
        done = self.shell(*arguments, NAME, code=code)
        return (done.stdout + done.stderr).decode()


def _put(store: Daemon, digest: Digest, data: bytes) -> None:
    try:
        with store.content.open_ingest(f"lie-{digest}", digest=digest, size=len(data)) as ingest:
            ingest.write(data[ingest.offset :])
            ingest.commit()
    except AlreadyExists:
        pass


@pytest.fixture
def liar(containerd: Containerd, namespace: str, tmp_path: Path) -> Liar:
    return Liar(containerd, namespace, tmp_path)


def root_of(graph: Graph) -> Descriptor:
    return Descriptor(
        media_type=graph.root["mediaType"], digest=Digest(graph.digest), size=graph.root["size"]
    )


def test_a_child_of_another_type(liar: Liar) -> None:
    """An index lists another index as a manifest: containerd and every command reject it."""
    graph = shapes.five_platform(1)
    inner = images.index([shapes.single()])
    document = graph.document()
    document["manifests"][0] |= {"digest": inner.digest, "size": len(inner.blobs[inner.digest])}
    raw = json.dumps(document).encode()
    target = Descriptor(media_type=mediatypes.OCI_INDEX, digest=Digest.of(raw), size=len(raw))
    gc_labels = {f"{mediatypes.GC_REF}m.0": inner.digest}
    liar.record({**graph.blobs, **inner.blobs, str(target.digest): raw}, target, gc_labels)
    for command in (["diagnose"], ["save", "--offline", "-o", "x.tar"], ["ensure"]):
        told = liar.words(*command, code=1)
        assert f"invalid desc {inner.digest}: media-type: expected manifest but found index" in told
        assert "hint: the bytes match the digest" in told
    told = liar.words("verify", code=4)
    assert "malformed" in told
    assert "the image was built wrongly and cannot be repaired" in told
    assert "--repair" not in told
    assert list(liar.shell.folder.iterdir()) == []


def test_a_record_whose_target_is_missing(liar: Liar) -> None:
    target = Descriptor(media_type=mediatypes.OCI_INDEX, digest=Digest.of(b"gone"), size=4)
    liar.record({}, target, {})
    phrase = f"content digest {target.digest}: not found"
    assert phrase in liar.words("diagnose", code=4)
    assert phrase in liar.words("save", "--offline", "-o", "x.tar", code=4)
    assert phrase in liar.words("verify", code=4)
    assert str(target.digest) in liar.words("ensure", code=5)  # lying.example does not exist
    assert list(liar.shell.folder.iterdir()) == []


def test_a_label_that_names_absent_content(liar: Liar) -> None:
    """The image is complete as long as something else protects a layer, which only diagnose reports."""
    graph = shapes.single()
    nowhere = str(Digest.of(b"nowhere"))
    document = graph.document()
    named = [str(layer["digest"]) for layer in document["layers"]]
    labels = {f"{mediatypes.GC_REF}config": str(document["config"]["digest"])}
    labels |= {f"{mediatypes.GC_REF}l.{number}": digest for number, digest in enumerate(named)}
    labels[f"{mediatypes.GC_REF}l.0"] = nowhere
    liar.record(graph.blobs, root_of(graph), labels, root=named[0])
    told = liar.words("diagnose", code=0)
    assert "but not protected by this image: the next garbage collection removes" in told
    assert (
        f"{graph.digest} has containerd.io/gc.ref.content.l.0={nowhere}, which protects something else"
        in told
    )
    liar.words("verify", code=0)
    liar.words("save", "--offline", "-o", "x.tar", code=0)
