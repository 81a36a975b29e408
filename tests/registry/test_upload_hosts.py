"""Which hosts an upload goes to, and which of them get credentials."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from pyctrd.errors import RegistryContentError, RegistryError
from pyctrd.oci import reference
from pyctrd.registry import RegistryClient, RegistryOptions
from pyctrd.registry.upload_session import UploadSession
from tests.registry.server import Answer, ScriptedServer, Seen
from tests.registry.uploads import (
    BLOBS,
    DATA,
    OPENED,
    SESSION,
    START,
    ChunkedRegistry,
    Source,
    UploaderMaker,
    blob,
)


def test_credentials_are_sent_to_the_registry_only(
    server: ScriptedServer, other: ScriptedServer, uploader: UploaderMaker
) -> None:
    def guarded(answer: Answer) -> Callable[[Seen], Answer]:
        challenge = {"WWW-Authenticate": 'Basic realm="x"'}
        return lambda seen: answer if seen.authorization else Answer(401, headers=challenge)

    elsewhere = Answer(202, headers={"Location": f"{other.url}/store/1?sig=x"})
    server.always("POST", START, guarded(elsewhere))
    other.once("PUT", "/store/1", Answer(201))
    uploader(chunk_bytes=0, username="me", password="secret").upload(blob(), Source())
    assert server.seen[-1].authorization == f"Basic {base64.b64encode(b'me:secret').decode()}"
    assert other.seen[0].authorization == ""
    assert other.seen[0].body == DATA


@pytest.mark.parametrize("host", ["same", "other"])
def test_a_redirected_upload_keeps_its_body(
    server: ScriptedServer, other: ScriptedServer, uploader: UploaderMaker, host: str
) -> None:
    place = server if host == "same" else other
    challenge = {"WWW-Authenticate": 'Basic realm="x"'}
    server.always(
        "POST", START, lambda seen: OPENED if seen.authorization else Answer(401, headers=challenge)
    )
    server.once("PUT", SESSION, Answer(307, headers={"Location": f"{place.url}/moved"}))
    place.once("PUT", "/moved", Answer(201))
    uploader(chunk_bytes=0, username="me", password="secret").upload(blob(), Source())
    assert place.seen[-1].body == DATA
    assert bool(place.seen[-1].authorization) == (host == "same")


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_redirect_that_would_lose_the_body(
    server: ScriptedServer, uploader: UploaderMaker, registry: ChunkedRegistry, status: int
) -> None:
    server.once("PUT", SESSION, Answer(status, headers={"Location": "/login"}))
    with pytest.raises(RegistryError, match=f"of an upload to .*/login, by status {status}, is not followed"):
        uploader(chunk_bytes=0).upload(blob(), Source())


def test_a_token_that_expires_between_chunks(
    server: ScriptedServer, uploader: UploaderMaker, registry: ChunkedRegistry
) -> None:
    challenge = {"WWW-Authenticate": f'Bearer realm="{server.url}/token",service="s"'}
    server.once("GET", "/token", Answer(body=b'{"token":"one"}'), Answer(body=b'{"token":"two"}'))
    server.once("POST", START, Answer(401, headers=challenge))
    server.once("PATCH", SESSION, registry.patch, Answer(401, headers=challenge))
    uploader().upload(blob(), Source())
    assert registry.taken == DATA
    asked = [one.path for one in server.seen if one.path.startswith("/token")]
    assert asked == ["/token?service=s&scope=repository%3Ateam%2Fapp%3Apull%2Cpush"] * 2


@pytest.mark.parametrize(
    "location", ["", "ftp://x/y", "http://u:p@x/y", "http://[x/y", "http://h:99999/", "/a b", "/\xe9"]
)
def test_invalid_locations(server: ScriptedServer, uploader: UploaderMaker, location: str) -> None:
    server.once("POST", START, Answer(202, headers={"Location": location} if location else {}))
    with pytest.raises(RegistryContentError, match="names no usable URL for the upload"):
        uploader().upload(blob(), Source())


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "0xa9fea9fe", "100.100.100.200", "169.254.43518", "metadata.google.internal"]
)
def test_locations_at_forbidden_addresses(server: ScriptedServer, uploader: UploaderMaker, host: str) -> None:
    place = f"http://{host}/latest?x=y"
    server.once("POST", START, Answer(202, headers={"Location": place}))
    with pytest.raises(RegistryError, match=f"it names {host}, which is not asked: {host} is a"):
        uploader().upload(blob(), Source())
    assert server.requests() == [f"POST {START}"]


class HeadersOnly:
    """A response with headers only."""

    url = "https://registry.example/v2/team/app/blobs/uploads/"
    host, status = "registry.example", 202

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers

    def header(self, name: str) -> str:
        return self._headers.get(name, "")


_URLISH = st.text(alphabet="htps:/?#[]@%.0123456789aé\x00\r\n \\u202e-_~&=", max_size=60)


@given(location=_URLISH | st.text(max_size=40), minimum=st.text(max_size=20) | st.integers().map(str))
def test_any_header_of_an_upload_is_valid_or_a_content_error(location: str, minimum: str) -> None:
    answer: Any = HeadersOnly({"Location": location, "OCI-Chunk-Min-Length": minimum})
    with RegistryClient(RegistryOptions()) as client:
        repository = client.uploader(reference.parse("registry.example/team/app:v1"))
    try:
        session = UploadSession.of(repository, answer)
    except RegistryContentError:
        return
    assert session.url.startswith("https://")
    assert session.minimum >= 0


def test_an_upload_does_not_change_from_https_to_http(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    options = RegistryOptions(skip_verify=True, hosts_dir=tmp_path)
    with ScriptedServer(context) as server, RegistryClient(options) as client:
        folder = tmp_path / server.host
        folder.mkdir()
        (folder / "hosts.toml").write_text(f'server = "{server.url}"\nskip_verify = true\n')
        server.once("POST", START, Answer(202, headers={"Location": f"http://{server.host}{SESSION}"}))
        uploader = client.uploader(reference.parse(f"{server.host}/team/app:v1"))
        with pytest.raises(RegistryContentError, match="wants the upload over plain http") as caught:
            uploader.upload(blob(), Source())
    assert caught.value.hint
    assert "external URL" in caught.value.hint


def test_only_hosts_with_the_push_capability_are_used(
    server: ScriptedServer, other: ScriptedServer, uploader: UploaderMaker, tmp_path: Path
) -> None:
    folder = tmp_path / "registry.invalid"
    folder.mkdir()
    mirror = f'[host."{other.url}"]\ncapabilities = ["pull", "resolve"]\n'
    (folder / "hosts.toml").write_text(f'server = "{server.url}"\n{mirror}')
    server.once("HEAD", f"{BLOBS}/{blob().digest}", Answer(200))
    made = uploader("registry.invalid/team/app:v1", hosts_dir=tmp_path)
    assert made.has(blob())
    (folder / "hosts.toml").write_text(f'server = "{server.url}"\ncapabilities = ["pull"]\n{mirror}')
    with pytest.raises(RegistryError, match="no configured host allows push"):
        uploader("registry.invalid/team/app:v1", hosts_dir=tmp_path).has(blob())
    assert other.seen == []
