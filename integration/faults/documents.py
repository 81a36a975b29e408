"""Faults of manifests, indexes and configs."""

from __future__ import annotations

from integration.faults.broken import (
    WIDE,
    nested,
    of_bytes,
    often,
    other_platform,
    with_layer,
    with_members,
    with_urls,
)
from integration.faults.case import AS_HTML, AT, LINK_LOCAL, ROOT, Case, first_layer, framing, on
from integration.rig.faultserver import (
    Behaviour,
    Exchange,
    Reply,
    altered,
    answering,
    dripping,
    endless,
    with_headers,
    wrong_byte,
)
from tests.support import images
from tests.support.images import OCI_MANIFEST, Graph


def _nowhere(exchange: Exchange) -> None:
    if exchange.asked.what == "layer":
        first_layer(answering(404))(exchange)
    else:
        exchange.send(Reply(404))


MANIFEST_LIMIT = 4 * 1048 * 1048


def _only_get(behave: Behaviour) -> Behaviour:
    """Reject HEAD, so that the document itself is requested."""
    refuse = answering(405)
    return lambda exchange: (refuse if exchange.asked.method == "HEAD" else behave)(exchange)


def _moves(exchange: Exchange) -> None:
    """Answer HEAD, and move the tag right after it; the old manifest stays."""
    exchange.send()
    old = exchange.server.graph
    new = images.index([images.manifest(images.config([]), [], on="linux/amd64")])
    exchange.server.graph = Graph(new.root, {**old.blobs, **new.blobs})


MANIFESTS = (
    Case(
        "html-login", "a login page with status 200 for the tag", on("", AS_HTML), (AT, "HTML page"), asks=1
    ),
    Case(
        "digest-lies",
        "Docker-Content-Digest of something else",
        on("resolve tag", with_headers(Docker_Content_Digest=images.digest_of(b"lie"))),
        ("{host}", "{repository}", images.digest_of(b"lie"), "not found"),
    ),
    Case(
        "digest-unknown",
        "Docker-Content-Digest of an unknown algorithm",
        on("resolve tag", with_headers(Docker_Content_Digest="md5:d41d8cd98f00b204e9800998ecf8427e")),
        (AT, "unsupported digest algorithm"),
        asks=1,
    ),
    Case(
        "digest-injection",
        "a line break in Docker-Content-Digest",
        on("resolve tag", with_headers(Docker_Content_Digest="sha256:0\r\n X-Evil: 1")),
        (AT, "invalid checksum digest"),
        asks=1,
    ),
    Case("head-refused", "HEAD is not allowed", on("resolve", answering(405)), (), 0),
    Case(
        "head-disagrees",
        "HEAD states another size than GET has",
        on("resolve", with_headers(Content_Length="77")),
        ROOT,
    ),
    Case("tag-moves", "the tag moves between HEAD and GET", on("resolve", _moves, 1), (), 0),
    Case(
        "manifest-wrong-bytes",
        "a manifest whose bytes do not match its digest",
        on("manifest", altered(wrong_byte)),
        (*ROOT, "wrong content"),
    ),
    Case(
        "manifest-too-large",
        "a manifest of 5 MB",
        None,
        (AT, f"more than {MANIFEST_LIMIT} bytes"),
        asks=1,
        image=of_bytes(lambda good: good + b" " * 5_000_000),
    ),
    Case(
        "manifest-endless",
        "an endless manifest",
        on("resolve tag", _only_get(endless(b" " * 65536))),
        (AT, f"more than {MANIFEST_LIMIT} bytes"),
        asks=2,
    ),
    Case(
        "manifest-trickles",
        "an endless manifest, of which 2000 bytes are sent now and then",
        on("resolve tag", _only_get(endless(b" " * 2000, chunked=True, pause=0.3))),
        (AT, "too slow"),
        asks=2,
    ),
    Case("manifest-empty", "an empty manifest", None, ("content size of zero",), image=of_bytes(b"")),
    Case(
        "manifest-drips",
        "a manifest that comes byte by byte",
        on("manifest", dripping(0.1)),
        ("{host}", "{repository}", "{root}"),
    ),
    *framing("manifest"),
    *framing("config"),
    Case(
        "json-none",
        "a manifest that is not JSON",
        None,
        (*ROOT, "not valid JSON"),
        image=of_bytes(b"SALT, not JSON"),
    ),
    Case(
        "json-deep",
        "a manifest nested 100000 levels deep",
        None,
        (*ROOT, "nested more than"),
        image=of_bytes(b'{"SALT":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    ),
    Case(
        "json-wide", "a manifest of a million empty arrays", None, (*ROOT, "elements"), image=of_bytes(WIDE)
    ),
    Case(
        "json-huge-int",
        "a size of four million digits",
        None,
        (*ROOT, "not valid JSON"),
        image=of_bytes(b'{"schemaVersion":' + b"9" * 4_000_000 + b"}"),
    ),
    Case(
        "json-nan", "NaN", None, (*ROOT, "not valid JSON"), image=of_bytes(b'{"SALT":1,"schemaVersion":NaN}')
    ),
    Case(
        "json-not-utf8",
        "bytes that are not UTF-8",
        None,
        (*ROOT, "not valid JSON"),
        image=of_bytes(lambda good: good.replace(b'"schemaVersion"', b'"\xff\xfe":1,"schemaVersion"')),
    ),
    Case(
        "json-twice",
        "a key that occurs twice",
        None,
        (*ROOT, "duplicate key 'manifests'"),
        image=of_bytes(lambda good: good[:-1] + b',"manifests":[]}'),
    ),
    Case(
        "json-other-case",
        "a key that occurs again in another case, which Go treats as the same",
        None,
        (*ROOT, "'Manifests' has to be 'manifests'"),
        image=with_members(Manifests=[]),
    ),
    Case(
        "index-as-manifest",
        "an index that is served as a manifest",
        None,
        (*ROOT, "expected manifest but found index"),
        image=with_members(OCI_MANIFEST),
    ),
    Case(
        "media-type-lies",
        "a mediaType that is not the Content-Type",
        None,
        (*ROOT, "media-type"),
        image=with_members(mediaType="application/vnd.docker.distribution.manifest.list.v2+json"),
    ),
    Case(
        "index-deep",
        "20 indexes, one in another",
        None,
        ("{host}", "{repository}", "nested more than 16"),
        asks=40,
        image=nested,
    ),
    Case(
        "index-wide",
        "an index of 25000 entries",
        None,
        (*ROOT, "25000 entries"),
        image=often("manifests", 25_000),
    ),
    Case(
        "layers-many",
        "one layer listed 25000 times",
        None,
        (*ROOT, "25001 entries"),
        image=often("layers", 25_000),
    ),
    Case(
        "other-platform",
        "a config for another platform than the index says",
        None,
        ("{host}", "{repository}", "the index says linux/amd64, but the config says linux/s390x"),
        image=other_platform,
    ),
    Case("size-negative", "a layer with a negative size", None, ROOT, image=with_layer(size=-1)),
    Case("size-beyond", "a layer of 2**63 bytes", None, ROOT, image=with_layer(size=2**63)),
    Case(
        "size-immense",
        "a layer with a stated size of 2**62 bytes",
        None,
        ("{host}", "{repository}", "short read"),
        image=with_layer(size=2**62),
    ),
    Case(
        "digest-algorithm",
        "a layer's digest of an unknown algorithm",
        None,
        (*ROOT, "unsupported digest algorithm"),
        image=with_layer(digest="md5:d41d8cd98f00b204e9800998ecf8427e"),
    ),
    Case(
        "media-type-injection",
        "a line break in a layer's media type, which the request for it states",
        None,
        ("{host}", "{repository}", "{layer}", "Accept cannot be sent in a header"),
        image=with_layer(mediaType="application/vnd.oci.image.layer.v1.tar\r\nX-Evil: 1"),
    ),
    Case(
        "foreign-urls",
        "a foreign layer with 5,000 URLs, none of which has it",
        on("other layer", _nowhere),
        ("{host}", "{repository}", "{layer}", "not found"),
        asks=14,
        image_at=with_urls(5000),
    ),
    Case(
        "foreign-urls-stall",
        "a foreign layer with 100 URLs that never respond, which the registry also has",
        on("other", lambda exchange: exchange.hold()),
        (),
        0,
        asks=8,
        image_at=with_urls(100),
    ),
    Case(
        "foreign-link-local",
        "a foreign layer whose only URL is at a cloud's metadata service",
        on("layer", first_layer(answering(404))),
        ("{repository}", "169.254.169.254", "link-local"),
        image=with_layer(urls=[LINK_LOCAL], mediaType=f"{images.OCI_FOREIGN_LAYER}+gzip"),
    ),
)
