"""resolve at a scripted server, and retries."""

from __future__ import annotations

import pytest

from pyctrd.errors import (
    AuthenticationFailed,
    NotFound,
    RegistryContentError,
    RegistryError,
)
from pyctrd.oci import mediatypes
from pyctrd.oci.model import MAX_MANIFEST_BYTES, Digest
from pyctrd.registry.resolve import ACCEPT
from tests.registry.conftest import RemoteMaker
from tests.registry.samples import (
    BLOB,
    DIGEST,
    HEADERS,
    MANIFEST,
    TAG,
    blob_path,
    layer,
    read,
)
from tests.registry.server import Answer, ScriptedServer, ranges

# --- resolve ----------------------------------------------------------------------------------------------


def test_head_alone_is_sent_if_it_is_sufficient(server: ScriptedServer, remote: RemoteMaker) -> None:
    server.once("HEAD", TAG, Answer(200, MANIFEST, HEADERS))
    found = remote().resolve()
    assert (found.media_type, found.digest, found.size) == (mediatypes.OCI_INDEX, DIGEST, len(MANIFEST))
    (seen,) = server.seen
    assert seen.headers["accept"] == ACCEPT
    assert seen.headers["user-agent"].startswith("pyctrd/")
    assert seen.headers["accept-encoding"] == "identity"
    assert seen.authorization == ""


@pytest.mark.parametrize(
    "head",
    [
        Answer(405),
        Answer(403),
        Answer(200, MANIFEST, {"Content-Type": mediatypes.OCI_INDEX}),
        Answer(200, MANIFEST, {**HEADERS, "Content-Type": "application/json"}),
        Answer(200, MANIFEST, HEADERS, chunked=True),
    ],
    ids=["405", "403", "no digest", "vague type", "no length"],
)
def test_get_is_sent_if_head_is_not_sufficient(
    server: ScriptedServer, remote: RemoteMaker, head: Answer
) -> None:
    server.once("HEAD", TAG, head)
    server.once(
        "GET", TAG, Answer(200, MANIFEST, dict(head.headers) or {"Content-Type": mediatypes.OCI_INDEX})
    )
    found = remote().resolve()
    assert (found.media_type, found.digest, found.size) == (mediatypes.OCI_INDEX, DIGEST, len(MANIFEST))
    assert server.requests() == [f"HEAD {TAG}", f"GET {TAG}"]


def test_unknown_reference(server: ScriptedServer, remote: RemoteMaker) -> None:
    server.once("HEAD", TAG, Answer(404))
    with pytest.raises(NotFound) as caught:
        remote().resolve()
    name = f"{server.host}/team/app:v1"
    assert str(caught.value) == f'failed to resolve reference "{name}": {name}: not found'
    assert caught.value.exit_code == 3
    assert caught.value.kind == "image"


def test_the_digest_takes_precedence_over_the_tag_and_is_verified(
    server: ScriptedServer, remote: RemoteMaker
) -> None:
    path = f"/v2/team/app/manifests/{DIGEST}"
    server.once("HEAD", path, Answer(200, MANIFEST, HEADERS))
    text = f"{server.host}/team/app:v1@{DIGEST}"
    assert remote(text).resolve().digest == DIGEST

    lie = {**HEADERS, "Docker-Content-Digest": Digest.of(b"other")}
    server.once("HEAD", path, Answer(200, MANIFEST, lie))
    with pytest.raises(RegistryContentError, match="was asked for"):
        remote(text).resolve()

    server.once("HEAD", path, Answer(405))
    server.once("GET", path, Answer(200, MANIFEST + b" ", {"Content-Type": mediatypes.OCI_INDEX}))
    with pytest.raises(RegistryContentError, match="was asked for"):
        remote(text).resolve()


def test_sha512_reference_is_hashed_if_the_registry_states_sha256(
    server: ScriptedServer, remote: RemoteMaker
) -> None:
    wanted = Digest.of(MANIFEST, "sha512")
    path = f"/v2/team/app/manifests/{wanted}"
    server.once("HEAD", path, Answer(200, MANIFEST, HEADERS))
    server.once("GET", path, Answer(200, MANIFEST, HEADERS))
    assert remote(f"{server.host}/team/app@{wanted}").resolve().digest == wanted


@pytest.mark.parametrize(
    ("head", "get", "message"),
    [
        (Answer(200, b"x", {"Content-Type": "text/html"}), None, "HTML page"),
        (Answer(405), Answer(200, b"<html>", {"Content-Type": "text/html; charset=x"}), "HTML page"),
        (Answer(200, b"", HEADERS, length=MAX_MANIFEST_BYTES + 1), None, "rejecting 4393217 byte manifest"),
        (
            Answer(405),
            Answer(200, b" " * 99999, HEADERS, endless=True),
            f"more than {MAX_MANIFEST_BYTES} bytes",
        ),
        (
            Answer(200, b"x", {**HEADERS, "Docker-Content-Digest": "md5:x"}),
            None,
            "unsupported digest algorithm",
        ),
        (Answer(405), Answer(200, b"other", HEADERS), "but sent sha256:"),
        (
            Answer(405),
            Answer(200, MANIFEST, {**HEADERS, "Content-Encoding": "gzip"}),
            "Content-Encoding 'gzip'",
        ),
    ],
)
def test_refused_manifests(
    server: ScriptedServer, remote: RemoteMaker, head: Answer, get: Answer | None, message: str
) -> None:
    server.once("HEAD", TAG, head)
    if get:
        server.once("GET", TAG, get)
    with pytest.raises(RegistryContentError, match=message) as caught:
        remote().resolve()
    assert caught.value.exit_code == 5
    assert caught.value.host == server.host
    assert caught.value.repository == "team/app"
    assert f'failed to resolve reference "{server.host}/team/app:v1"' in str(caught.value)


def test_the_registrys_message_is_in_the_error(server: ScriptedServer, remote: RemoteMaker) -> None:
    body = b'{"errors":[{"code":"DENIED","message":"not for\\u001b you"}]}'
    server.once("HEAD", TAG, Answer(403))
    server.once("GET", TAG, Answer(403, body))
    with pytest.raises(AuthenticationFailed, match="DENIED: not for  you") as caught:
        remote().resolve()
    assert "pull access denied" in str(caught.value)
    assert caught.value.hint


# --- retries ----------------------------------------------------------------------------------------------


def test_retries_with_retry_after(server: ScriptedServer, remote: RemoteMaker, pauses: list[float]) -> None:
    good = Answer(200, MANIFEST, HEADERS)
    server.once("HEAD", TAG, Answer(429, headers={"Retry-After": "7"}), Answer(503), Answer(500), good)
    assert remote().resolve().digest == DIGEST
    assert pauses[0] == 7
    assert 0.5 <= pauses[1] <= 1
    assert 1 <= pauses[2] <= 2


def test_the_number_of_retries_is_limited(
    server: ScriptedServer, remote: RemoteMaker, pauses: list[float]
) -> None:
    server.once("HEAD", TAG, *[Answer(503)] * 5)
    with pytest.raises(RegistryError, match="unexpected status 503") as caught:
        remote().resolve()
    assert caught.value.status == 503
    assert len(pauses) == 4


def test_the_client_does_not_wait_beyond_the_budget(
    server: ScriptedServer, remote: RemoteMaker, pauses: list[float]
) -> None:
    server.once("HEAD", TAG, Answer(429, headers={"Retry-After": "3600"}))
    with pytest.raises(RegistryError, match="unexpected status 429"):
        remote().resolve()
    assert pauses == []


def test_reset_connections_are_retried(server: ScriptedServer, remote: RemoteMaker) -> None:
    server.once("HEAD", TAG, Answer(hang_up=True), Answer(hang_up=True), Answer(200, MANIFEST, HEADERS))
    assert remote().resolve().digest == DIGEST


def test_connections_are_reused(server: ScriptedServer, remote: RemoteMaker) -> None:
    server.always("HEAD", TAG, Answer(200, MANIFEST, HEADERS))
    descriptor = layer()
    server.always("GET", blob_path(descriptor), ranges(BLOB))
    one = remote()
    for _ in range(3):
        one.resolve()
        assert read(one, descriptor) == BLOB
    assert server.connections == 1
