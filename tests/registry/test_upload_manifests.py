"""Upload of manifests, checks of what a registry has, and lists of referrers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pyctrd.errors import AuthenticationFailed, RegistryContentError, RegistryError
from pyctrd.oci import mediatypes
from pyctrd.oci.model import Descriptor, Digest
from tests.registry.samples import MANIFEST
from tests.registry.server import Answer, ScriptedServer, Seen
from tests.registry.uploads import BLOBS, UploaderMaker, blob

INDEX = Descriptor(media_type=mediatypes.OCI_INDEX, digest=Digest.of(MANIFEST), size=len(MANIFEST))
TAG = "/v2/team/app/manifests/v1"


def test_head_checks_what_the_registry_has(server: ScriptedServer, uploader: UploaderMaker) -> None:
    made = uploader()
    server.once("HEAD", f"{BLOBS}/{blob().digest}", Answer(200), Answer(404), Answer(405), Answer(403))
    assert [made.has(blob()) for _ in range(3)] == [True, False, False]
    with pytest.raises(AuthenticationFailed, match="push access denied"):
        made.has(blob())
    server.once("HEAD", f"/v2/team/app/manifests/{INDEX.digest}", Answer(200))
    assert made.has(INDEX)
    digest = {"Docker-Content-Digest": str(INDEX.digest)}
    server.once("HEAD", TAG, Answer(200, headers=digest), Answer(200), Answer(404))
    server.once("HEAD", TAG, Answer(200, headers={"Docker-Content-Digest": "sha256:nonsense"}))
    assert [made.tagged("v1") for _ in range(4)] == [INDEX.digest, None, None, None]


def test_manifests_are_pushed_by_digest_and_by_tag(server: ScriptedServer, uploader: UploaderMaker) -> None:
    server.once("PUT", f"/v2/team/app/manifests/{INDEX.digest}", Answer(201))
    server.once("PUT", TAG, Answer(503), Answer(201))
    uploader().put(INDEX, MANIFEST)
    uploader().put(INDEX, MANIFEST, "v1")
    assert [one.body for one in server.seen] == [MANIFEST] * 3
    assert {one.headers["content-type"] for one in server.seen} == {mediatypes.OCI_INDEX}


def test_a_manifest_that_is_refused_or_changed(server: ScriptedServer, uploader: UploaderMaker) -> None:
    body = b'{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"blob unknown to registry"}]}'
    lie = {"Docker-Content-Digest": str(Digest.of(b"other"))}
    server.once("PUT", TAG, Answer(400, body), Answer(201, headers=lie), Answer(401))
    with pytest.raises(RegistryError, match=f"could not push manifest {INDEX.digest}: .*BLOB_UNKNOWN"):
        uploader().put(INDEX, MANIFEST, "v1")
    with pytest.raises(RegistryContentError, match="but the registry stored"):
        uploader().put(INDEX, MANIFEST, "v1")
    with pytest.raises(AuthenticationFailed, match="push access denied") as caught:
        uploader().put(INDEX, MANIFEST, "v1")
    assert caught.value.exit_code == 5


# --- referrers ------------------------------------------------------------------------------------------

SUBJECT = {"mediaType": mediatypes.OCI_MANIFEST, "digest": str(Digest.of(b"image")), "size": 5}
LIST = f"/v2/team/app/manifests/sha256-{Digest.of(b'image').encoded}"


def referrer(**more: Any) -> tuple[Descriptor, bytes]:
    config = {"mediaType": "application/vnd.example+json", "digest": str(Digest.of(b"{}")), "size": 2}
    raw = json.dumps(
        {"schemaVersion": 2, "config": config, "subject": SUBJECT, "layers": [], **more}
    ).encode()
    return Descriptor(media_type=mediatypes.OCI_MANIFEST, digest=Digest.of(raw), size=len(raw)), raw


def test_a_registry_with_the_referrers_api(server: ScriptedServer, uploader: UploaderMaker) -> None:
    manifest, raw = referrer()
    server.once("PUT", TAG, Answer(201, headers={"OCI-Subject": str(SUBJECT["digest"])}))
    uploader().put(manifest, raw, "v1")
    assert len(server.seen) == 1


def test_referrers_are_listed_under_a_tag_if_the_registry_has_no_api(
    server: ScriptedServer, uploader: UploaderMaker
) -> None:
    manifest, raw = referrer(annotations={"b": "<", "a": "1"})
    second, other = referrer(artifactType="application/vnd.other")
    lists: list[bytes] = []

    def take(seen: Seen) -> Answer:
        lists.append(seen.body)
        return Answer(201)

    server.always("PUT", TAG, Answer(201))
    server.always("PUT", LIST, take)
    server.always("GET", LIST, lambda _seen: Answer(200, lists[-1]) if lists else Answer(404))
    uploader().put(manifest, raw, "v1")
    uploader().put(second, other, "v1")
    uploader().put(manifest, raw, "v1")
    assert len(lists) == 2, "nothing is listed twice"
    entries = json.loads(lists[-1])["manifests"]
    assert [entry["artifactType"] for entry in entries] == [
        "application/vnd.example+json",
        "application/vnd.other",
    ]
    assert [entry["digest"] for entry in entries] == [manifest.digest, second.digest]
    assert entries[0]["annotations"] == {"a": "1", "b": "<"}


@pytest.mark.parametrize("answer", [Answer(200, b"<html>"), Answer(500), Answer(403)])
def test_a_list_of_referrers_that_cannot_be_read(
    server: ScriptedServer, uploader: UploaderMaker, answer: Answer
) -> None:
    manifest, raw = referrer()
    server.always("PUT", TAG, Answer(201))
    server.always("GET", LIST, answer)
    with pytest.raises(RegistryError) as caught:
        uploader().put(manifest, raw, "v1")
    assert caught.value.host == server.host
    assert not any(one.method == "PUT" and one.path == LIST for one in server.seen)
