"""Publish graphs for peers: in a registry (plain HTTP) or as an OCI layout."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from http.client import HTTPResponse
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urljoin

from integration.rig.registry import Registry
from tests.support.images import INDEX_TYPES, MANIFEST_TYPES, Descriptor, Graph


class _Place(NamedTuple):
    """A repository's URL and the headers that every request to it needs."""

    base: str
    headers: Mapping[str, str]


def push(
    graph: Graph,
    registry: Registry,
    repository: str,
    tag: str = "latest",
    *,
    leave_out: frozenset[str] = frozenset(),
) -> str:
    """Upload the graph; returns the reference "host/repository:tag".

    Blobs whose digests are in `leave_out` are not pushed (the registry must not validate manifests).
    The requests made here are not in the registry's log.
    """
    authorization = registry.authorization(repository)
    place = _Place(
        f"http://{registry.direct_host}/v2/{repository}",
        {"Authorization": authorization} if authorization else {},
    )
    for descriptor in _children_first(graph, graph.root, set()):
        digest = str(descriptor["digest"])
        if digest in leave_out:
            continue
        if descriptor["mediaType"] in (*MANIFEST_TYPES, *INDEX_TYPES):
            _put(place, f"{place.base}/manifests/{digest}", graph.blobs[digest], str(descriptor["mediaType"]))
        else:
            _push_blob(place, digest, graph.blobs[digest])
    _put(place, f"{place.base}/manifests/{tag}", graph.blobs[graph.digest], str(graph.root["mediaType"]))
    return f"{registry.host}/{repository}:{tag}"


def _children_first(graph: Graph, descriptor: Descriptor, seen: set[str]) -> Iterator[Descriptor]:
    """Every descriptor below, then the descriptor itself, so that no manifest precedes its content."""
    if descriptor["digest"] in seen:
        return
    seen.add(descriptor["digest"])
    if descriptor["mediaType"] in (*MANIFEST_TYPES, *INDEX_TYPES):
        document = json.loads(graph.blobs[descriptor["digest"]])
        below = [document.get("config"), *document.get("layers", []), *document.get("manifests", [])]
        for child in below:
            if child:
                yield from _children_first(graph, child, seen)
    yield descriptor


def _push_blob(place: _Place, digest: str, data: bytes) -> None:
    try:
        with _send(place, "HEAD", f"{place.base}/blobs/{digest}"):
            return
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
    with _send(place, "POST", f"{place.base}/blobs/uploads/", b"") as answer:
        upload = urljoin(place.base, answer.headers["Location"])
    _put(place, f"{upload}{'&' if '?' in upload else '?'}digest={digest}", data, "application/octet-stream")


def _put(place: _Place, url: str, data: bytes, media_type: str) -> None:
    try:
        with _send(place, "PUT", url, data, media_type):
            pass
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"PUT {url}: {error.code} {error.read().decode(errors='replace')}") from error


def _send(
    place: _Place, method: str, url: str, data: bytes | None = None, media_type: str = ""
) -> HTTPResponse:
    headers = {**place.headers, **({"Content-Type": media_type} if media_type else {})}
    request = urllib.request.Request(url, data=data, method=method, headers=headers)
    answer: HTTPResponse = urllib.request.urlopen(request, timeout=60)
    return answer


def write_layout(graph: Graph, folder: Path, name: str = "") -> Path:
    """Write the graph as an OCI image layout, `name` as its ref.name annotation; returns `folder`."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    for digest, data in graph.blobs.items():
        (blobs / digest.removeprefix("sha256:")).write_bytes(data)
    root = {**graph.root, **({"annotations": {"org.opencontainers.image.ref.name": name}} if name else {})}
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPES[0], "manifests": [root]}
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return folder
