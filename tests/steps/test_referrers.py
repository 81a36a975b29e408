"""Which referrers a content store has: by their subject, and by gc labels."""

from __future__ import annotations

from pyctrd.oci import referrers
from pyctrd.oci.model import Digest
from pyctrd.steps.referrers import StoredReferrers
from tests.support import shapes
from tests.support.memory import MemoryStore


def test_referrers_in_a_store_are_found_by_their_subject_and_by_labels() -> None:
    graph = shapes.single()
    by_subject = shapes.artifact(subject=graph, text="subject")
    by_label, by_back_reference = shapes.artifact(text="label"), shapes.artifact(text="back")
    store = MemoryStore()
    store.put({**graph.blobs, **by_subject.blobs, **by_label.blobs, **by_back_reference.blobs})
    content = store.content
    config = by_subject.document()["config"]["digest"]
    assert StoredReferrers(content).of(Digest(graph.digest)) == []  # nothing would keep its content
    content.set_labels(Digest(by_subject.digest), {"containerd.io/gc.ref.content.0": config})
    content.set_labels(Digest(graph.digest), referrers.gc_label(Digest(by_label.digest)))
    for key in ("containerd.io/gc.bref.content", "containerd.io/gc.bref.content.mine"):
        content.set_labels(Digest(by_back_reference.digest), {key: graph.digest})
    found = StoredReferrers(content).of(Digest(graph.digest))
    wanted = sorted(one.digest for one in (by_subject, by_label, by_back_reference))
    assert [item.digest for item in found] == wanted
    assert {item.artifact_type for item in found} == {"application/vnd.example.thing"}


def test_what_is_no_manifest_is_no_referrer() -> None:
    graph = shapes.single()
    store = MemoryStore()
    store.put(graph.blobs)
    texts = [
        b"",
        b"no JSON",
        b"[]",
        b'{"subject": {}}',
        b'{"mediaType":"text/plain","subject":{}}',
        b"{" * 200,
    ]
    for text in texts:
        store.put({str(Digest.of(text)): text})
        store.content.set_labels(Digest.of(text), {"containerd.io/gc.bref.content": graph.digest})
    store.content.set_labels(
        Digest(graph.digest),
        {
            "containerd.io/gc.ref.content.referrer.sha256.aaaaaaaaaaaa": f"sha256:{'a' * 64}",
            "containerd.io/gc.ref.content.referrer.sha256.bbbbbbbbbbbb": "not a digest",
        },
    )
    assert StoredReferrers(store.content).of(Digest(graph.digest)) == []
