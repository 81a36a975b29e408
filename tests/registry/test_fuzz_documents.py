"""Any input of registries, configurations and users raises only our exceptions."""

from __future__ import annotations

import json
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pyctrd.errors import ContentError, InvalidInput, InvalidReference, PyctrdError, RegistryError
from pyctrd.oci import graph, mediatypes, reference, referrers
from pyctrd.oci.model import Descriptor, Digest, Index
from pyctrd.registry import RegistryClient, RegistryOptions, listing, referrers_tag
from pyctrd.registry.auth.authorizer import Authorizer
from pyctrd.registry.auth.keychain import Keychain
from pyctrd.registry.config import certs_d, endpoints
from pyctrd.registry.http import address_guard
from pyctrd.registry.http.address_guard import AddressInfo
from pyctrd.registry.http.retry import parse_retry_after
from pyctrd.registry.http.transport import Request, Transport
from pyctrd.registry.range_control import RangeControl
from pyctrd.registry.repository import Repository
from pyctrd.steps.validate import Validator
from tests.registry.samples import TAG
from tests.registry.server import Answer, ScriptedServer

QUICK = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])

TYPES = st.sampled_from(
    [
        mediatypes.OCI_INDEX,
        mediatypes.OCI_MANIFEST,
        mediatypes.OCI_CONFIG,
        mediatypes.DOCKER_LIST,
        mediatypes.DOCKER_MANIFEST,
        mediatypes.DOCKER_CONFIG,
    ]
)
KEYS = st.sampled_from(
    [
        "schemaVersion",
        "mediaType",
        "config",
        "layers",
        "manifests",
        "subject",
        "annotations",
        "platform",
        "digest",
        "size",
        "urls",
        "data",
        "os",
        "architecture",
        "variant",
        "rootfs",
        "diff_ids",
        "raw",
        "Layers",
        "os.version",
        "os.features",
        "fsLayers",
        "artifactType",
    ]
)
DIGESTS = st.sampled_from([str(Digest.of(b"")), str(Digest.of(b"x", "sha512")), "sha256:0", "md5:0", ""])
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), DIGESTS, TYPES)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=5)),
    max_leaves=24,
)
DESCRIPTORS = st.fixed_dictionaries(
    {"mediaType": TYPES, "digest": DIGESTS, "size": st.integers(-1, 2**64)},
    optional={"platform": VALUES, "urls": VALUES, "annotations": VALUES, "data": VALUES},
)
# Almost valid, to get past the first check.
DOCUMENTS = st.fixed_dictionaries(
    {"schemaVersion": st.just(2)},
    optional={
        "mediaType": st.one_of(TYPES, LEAVES),
        "config": st.one_of(DESCRIPTORS, VALUES),
        "layers": st.one_of(st.lists(DESCRIPTORS, max_size=3), VALUES),
        "manifests": st.one_of(st.lists(DESCRIPTORS, max_size=3), VALUES),
        "rootfs": VALUES,
        "os": VALUES,
        "architecture": VALUES,
    },
)
BODIES = st.one_of(
    st.binary(max_size=200), st.one_of(DOCUMENTS, VALUES).map(lambda it: json.dumps(it).encode())
)


def described(raw: bytes, media_type: str) -> Descriptor:
    return Descriptor(media_type=media_type, digest=Digest.of(raw), size=len(raw))


@QUICK
@given(BODIES, TYPES)
def test_documents(raw: bytes, media_type: str) -> None:
    with suppress(ContentError):
        Validator().check(described(raw, media_type), raw)
    with suppress(ContentError):
        list(graph.preorder(described(raw, media_type), graph.read_children(lambda _: raw)))


@QUICK
@given(BODIES, st.integers(0, 199), st.binary(max_size=3))
def test_damaged_documents(raw: bytes, place: int, other: bytes) -> None:
    spoiled = raw[:place] + other + raw[place + 1 :]
    for media_type in (mediatypes.OCI_INDEX, mediatypes.OCI_MANIFEST, mediatypes.OCI_CONFIG):
        with suppress(ContentError):
            Validator().check(described(spoiled, media_type), spoiled)


@QUICK
@given(
    st.one_of(st.text(), st.from_regex(r"[a-z0-9./:@\[\]_-]{1,40}(:[0-9]+)?(/[a-z]+)?(@sha256:[0-9a-f]*)?"))
)
def test_references(text: str) -> None:
    with suppress(InvalidReference):
        assert str(reference.parse(str(reference.parse(text)))) == str(reference.parse(text))


TOML_KEYS = st.sampled_from(
    [
        "server",
        "ca",
        "client",
        "capabilities",
        "skip_verify",
        "dial_timeout",
        "override_path",
        "header",
        "host",
        '[host."http://a"]',
        "[host.'x']",
        "[host]",
    ]
)
TOML_VALUES = st.sampled_from(
    [
        '"http://a"',
        '"https://[::1]:5/v2"',
        '"x\\u0000"',
        "1",
        "true",
        "[]",
        '["pull"]',
        '[["a","b"]]',
        "[[1]]",
        "{}",
        '{x="y"}',
        '"1s"',
        '"-1h"',
        "inf",
        "1979-05-27",
    ]
)
TOML = st.binary(max_size=80) | st.lists(st.tuples(TOML_KEYS, TOML_VALUES), max_size=6).map(
    lambda pairs: "\n".join(
        key if key.startswith("[") else f"{key} = {value}" for key, value in pairs
    ).encode()
)


@QUICK
@given(TOML)
def test_host_configuration(raw: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "_default").mkdir()
        (Path(folder) / "_default" / "hosts.toml").write_bytes(raw)
        with suppress(InvalidInput):
            found = certs_d.search([Path(folder)], "a.example")
            for endpoint in endpoints.plan("a.example", directory=found.directory).endpoints:
                assert endpoint.url("x", "manifests", "y").startswith(endpoint.base)


@QUICK
@given(st.text() | st.integers().map(str) | st.datetimes().map(lambda it: it.strftime("%a, %d %b %Y %T GMT")))
def test_retry_after(text: str) -> None:
    seconds = parse_retry_after(text, now=1e9)
    assert seconds is None or seconds >= 0


# --- through a server -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lasting() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


@pytest.fixture(scope="module")
def client() -> Iterator[RegistryClient]:
    options = RegistryOptions(retry_budget=0, stall_timeout=2)
    with RegistryClient(options, environ={}, sleep=lambda _: None) as made:
        yield made


HEADER = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30)


@QUICK
@given(
    status=st.sampled_from([200, 200, 200, 204, 206, 301, 307, 400, 401, 403, 404, 405, 429, 500, 599]),
    body=BODIES,
    headers=st.fixed_dictionaries(
        {},
        optional={
            "Content-Type": st.one_of(TYPES, HEADER),
            "Docker-Content-Digest": st.one_of(DIGESTS, HEADER),
            "Content-Encoding": HEADER,
            "Location": st.one_of(HEADER, st.sampled_from([TAG, "//", "http://[", "http://a:b/", "?"])),
            "Retry-After": HEADER,
            "Content-Range": HEADER,
        },
    ),
)
def test_responses(
    lasting: ScriptedServer, client: RegistryClient, status: int, body: bytes, headers: dict[str, str]
) -> None:
    for method in ("HEAD", "GET"):
        lasting.always(method, TAG, Answer(status, body, headers))
    remote = client.remote(reference.parse(f"{lasting.host}/team/app:v1"))
    with suppress(PyctrdError):
        found = remote.resolve()
        path = f"/v2/team/app/manifests/{found.digest}"
        lasting.always("GET", path, Answer(status, body, headers))
        with suppress(PyctrdError):
            Validator().fetch(remote, found)


LIST = "/v2/team/app/tags/list"
LISTED = st.one_of(
    BODIES,
    st.fixed_dictionaries(
        {}, optional={"name": LEAVES, "tags": VALUES | st.lists(st.text(max_size=3) | LEAVES, max_size=4)}
    ).map(lambda it: json.dumps(it).encode()),
)
TARGETS = (
    st.sampled_from(["", "?n=1", "//h/", "http://[", "http://a:b/", "?last=\t", "/v2/x", "\x85"]) | HEADER
)


@QUICK
@given(
    status=st.sampled_from([200, 200, 200, 200, 204, 400, 404, 500]),
    body=LISTED,
    link=st.none() | HEADER | TARGETS.map(lambda target: f"<{target}>; rel=next"),
    media_type=st.one_of(TYPES, HEADER),
)
def test_lists(
    lasting: ScriptedServer,
    client: RegistryClient,
    status: int,
    body: bytes,
    link: str | None,
    media_type: str,
) -> None:
    headers = {"Content-Type": media_type, **({} if link is None else {"Link": link})}
    subject = Digest.of(b"x")
    for path in (LIST, f"/v2/team/app/referrers/{subject}"):
        lasting.always("GET", path, Answer(status, body, headers))
    remote = client.remote(reference.parse(f"{lasting.host}/team/app:v1"))
    with suppress(PyctrdError):
        assert all(map(reference.is_tag, listing.tags(remote, page_size=2).tags))
    with suppress(PyctrdError):
        assert all(item.media_type.isprintable() for item in listing.referrers(remote, subject).referrers)


@QUICK
@given(BODIES, BODIES | st.none(), TYPES)
def test_lists_of_referrers_that_are_written(raw: bytes, present: bytes | None, media_type: str) -> None:
    descriptor = described(raw, media_type)
    with suppress(ContentError):
        subject = referrers.subject_of(descriptor, raw)
        assert subject is None or reference.is_tag(referrers_tag.tag_of(subject.digest))
        changed = referrers_tag.listed(descriptor, raw, present)
        before = Index.parse(present).manifests if present is not None else ()
        if changed is None:
            assert descriptor.digest in [item.digest for item in before]
        else:
            *others, last = Index.parse(changed).manifests
            assert (tuple(others), last.digest) == (before, descriptor.digest)


@QUICK
@given(
    media_type=st.text(max_size=12),
    url=st.text(max_size=40),
    head=st.sampled_from(["http://", "https://", ""]),
)
@example("application/\u65e5", "", "")
@example("a\r\nX-Evil: 1", "", "")
@example("x", "a\r\nX-Evil: 1", "http://")
@example("x", "[::1%25\u0130]:1/", "http://")
def test_descriptors(lasting: ScriptedServer, media_type: str, url: str, head: str) -> None:
    """The descriptor of a layer becomes part of requests."""
    descriptor = Descriptor(media_type=media_type, digest=Digest.of(b"x"), size=1, urls=(head + url,))
    path = f"/v2/team/app/blobs/{descriptor.digest}"
    lasting.always("GET", path, Answer(404))
    with Transport(resolver=nobody, sleep=lambda _: None) as transport:
        remote = Repository(
            reference.parse(f"{lasting.host}/team/app:v1"),
            lambda: endpoints.plan(lasting.host).endpoints,
            Authorizer(transport, Keychain(Path("/none"), environ={})),
            transport,
            range_control=RangeControl(),
        )
        with pytest.raises(RegistryError), remote.fetch(descriptor) as chunks:
            list(chunks)
    assert all("x-evil" not in seen.headers for seen in lasting.seen)


def nobody(host: str, port: int) -> list[AddressInfo]:
    """Resolve this machine's own address only."""
    if host != "127.0.0.1":
        raise socket.gaierror(socket.EAI_NONAME, "no such host")
    return list(address_guard.resolve(host, port))


@pytest.fixture(scope="module")
def parrot() -> Iterator[tuple[str, Callable[[bytes], None]]]:
    """A server that sends the same bytes to every request: its URL, and a function that sets them."""
    sent: list[Any] = [b""]
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                link, _ = listener.accept()
                with closing(link), suppress(OSError):
                    link.recv(1 << 16)
                    link.sendall(sent[0])

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/", lambda data: sent.__setitem__(0, data)
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


LINES = st.lists(
    st.one_of(
        st.binary(max_size=20),
        st.sampled_from(
            [
                b"Content-Length: 5",
                b"Content-Length: -1",
                b"Content-Length: 9" * 2,
                b"Transfer-Encoding: chunked",
                b"Content-Encoding: gzip",
                b" folded",
                b"",
                b":",
                b"Location: \xff",
                b"Retry-After: 9e9",
            ]
        ),
    ),
    max_size=6,
).map(b"\r\n".join)


@QUICK
@given(
    st.sampled_from([b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 302 X\r\n", b"HTTP/9 1 \r\n", b""]),
    LINES,
    st.binary(max_size=30)
    | st.sampled_from([b"5\r\nabcde\r\n0\r\n\r\n", b"-1\r\n", b"ffffffffffffffff\r\n"]),
)
def test_raw_responses(
    parrot: tuple[str, Callable[[bytes], None]], first: bytes, lines: bytes, body: bytes
) -> None:
    url, say = parrot
    say(first + lines + b"\r\n\r\n" + body)
    with Transport(stall_timeout=2, sleep=lambda _: None) as transport, suppress(PyctrdError):
        request = Request("GET", url)
        response = transport.send(request)
        with closing(response):
            response.read(1000)
