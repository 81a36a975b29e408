"""Lists of tags: pages, hosts, and invalid lists. Real registries: integration/test_discovery.py."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme

from pyctrd.errors import (
    AuthenticationFailed,
    InvalidInput,
    NotFound,
    RegistryContentError,
    RegistryError,
    RegistryUnreachable,
)
from pyctrd.oci.model import MAX_MANIFEST_BYTES
from pyctrd.registry import listing, pagination
from tests.cli.stub import run
from tests.registry.conftest import RemoteMaker
from tests.registry.samples import mirror_config
from tests.registry.server import Answer, ScriptedServer, Seen

LIST = "/v2/team/app/tags/list"
HTML = {"Content-Type": "text/html; charset=utf-8"}


def tag_list(*tags: object, link: str = "") -> Answer:
    body = json.dumps({"name": "team/app", "tags": tags}).encode()
    headers = {"Content-Type": "application/json", **({"Link": link} if link else {})}
    return Answer(200, body, headers)


def query_of(seen: Seen) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(seen.path).query).items()}


def registry_of(tags: Sequence[str], *, link: bool, most: int = 1000) -> Callable[[Seen], Answer]:
    """Answer by the spec, with at most `most` tags in a page, with or without Link."""

    def reply(seen: Seen) -> Answer:
        asked = query_of(seen)
        count = min(int(asked.get("n", most)), most)
        start = tags.index(asked["last"]) + 1 if "last" in asked else 0
        page = tags[start : start + count]
        more = link and start + count < len(tags)
        return tag_list(*page, link=f'<{LIST}?last={page[-1]}&n={count}>; rel="next"' if more else "")

    return reply


# --- pages ------------------------------------------------------------------------------------------------


def test_one_page(server: ScriptedServer, remote: RemoteMaker) -> None:
    server.once("GET", LIST, tag_list("b", "A", "c", "b"))
    found = listing.tags(remote())
    assert found.tags == ("b", "A", "c"), "the registry's order, each once"
    assert (found.repository, found.host, found.mirror) == (f"{server.host}/team/app", server.host, False)
    (seen,) = server.seen
    assert (query_of(seen), seen.headers["accept"]) == ({"n": "1000"}, "application/json")


@pytest.mark.parametrize("body", [{"name": "team/app", "tags": None}, {"name": "team/app"}, {"tags": []}])
def test_a_repository_without_tags(server: ScriptedServer, remote: RemoteMaker, body: object) -> None:
    server.once("GET", LIST, Answer(200, json.dumps(body).encode()))
    assert listing.tags(remote()).tags == ()


@pytest.mark.parametrize(
    ("link", "count", "requests"),
    [
        (True, 0, 1),
        (True, 6, 1),
        (True, 7, 2),  # without any Link so far, the registry may not send any
        (True, 14, 2),
        (True, 20, 3),
        (False, 0, 1),
        (False, 6, 1),
        (False, 7, 2),
        (False, 14, 3),
        (False, 20, 3),
    ],
)
def test_all_pages(
    server: ScriptedServer, remote: RemoteMaker, link: bool, count: int, requests: int
) -> None:
    tags = [f"v{number}" for number in range(count)]
    server.always("GET", LIST, registry_of(tags, link=link))
    assert listing.tags(remote(), page_size=7).tags == tuple(tags)
    assert len(server.seen) == requests


def test_smaller_pages_than_asked_for(server: ScriptedServer, remote: RemoteMaker) -> None:
    tags = [f"v{number}" for number in range(10)]
    server.always("GET", LIST, registry_of(tags, link=True, most=3))
    assert listing.tags(remote()).tags == tuple(tags)


def test_a_registry_without_pages(server: ScriptedServer, remote: RemoteMaker) -> None:
    """docker-registry 2.8 ignores n and last, and does not sort."""
    server.always("GET", LIST, tag_list("c", "a", "b"))
    assert listing.tags(remote(), page_size=3).tags == ("c", "a", "b")
    assert [query_of(seen) for seen in server.seen] == [{"n": "3"}, {"n": "3", "last": "b"}]
    assert listing.tags(remote(), page_size=2).tags == ("c", "a", "b")
    assert len(server.seen) == 3


def test_a_registry_that_refuses_the_page_size(server: ScriptedServer, remote: RemoteMaker) -> None:
    invalid = b'{"errors":[{"code":"PAGINATION_NUMBER_INVALID"}]}'
    server.once("GET", LIST, Answer(400, invalid), tag_list("a"))
    assert listing.tags(remote()).tags == ("a",)
    assert [query_of(seen) for seen in server.seen] == [{"n": "1000"}, {}]


@pytest.mark.parametrize("absolute", [False, True])
def test_where_a_link_may_lead(server: ScriptedServer, remote: RemoteMaker, absolute: bool) -> None:
    target = f"{server.url}{LIST}?last=a" if absolute else "?last=a"
    server.once(
        "GET", LIST, tag_list("a", link=f'<x>; rel="prev", <{target}#top>; rel="next"'), tag_list("b")
    )
    assert listing.tags(remote()).tags == ("a", "b")
    assert server.seen[1].path == f"{LIST}?last=a"


def test_links_to_another_origin_are_refused(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker
) -> None:
    """Credentials are sent with each request."""
    challenge = Answer(401, headers={"WWW-Authenticate": 'Basic realm="x"'})
    port = other.url.rpartition(":")[2]
    for target in (
        f"{other.url}{LIST}",
        f"//127.0.0.1:{port}{LIST}",
        f"https://{server.host}{LIST}",
        f"http://localhost:{server.port}{LIST}",
        "ftp://example.org/",
        "file:///etc/passwd",
    ):
        server.once("GET", LIST, challenge, tag_list("a", link=f"<{target}>; rel=next"))
        with pytest.raises(RegistryContentError, match="names a next page of its list at another origin"):
            listing.tags(remote(username="me", password="hush"))
    assert other.seen == []


def test_links_from_https_to_http_are_refused(remote: RemoteMaker) -> None:
    """Not even if plain http is allowed for a host without TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with ScriptedServer(context) as secure:
        secure.once("GET", LIST, tag_list("a", link=f"<http://{secure.host}{LIST}?last=a>; rel=next"))
        with pytest.raises(RegistryContentError, match="at another origin: http://"):
            listing.tags(remote(f"{secure.host}/team/app", skip_verify=True))


@pytest.mark.parametrize(
    "link",
    [
        "nonsense",
        "<http://[>; rel=next",
        "<http://h:x/>; rel=next",
        "<a b>; rel=next",
        "<a\tb>; rel=next",
        "<http://me:pass@127.0.0.1/>; rel=next",
        "<\u00e4>; rel=next",
    ],
)
def test_a_link_that_cannot_be_read(server: ScriptedServer, remote: RemoteMaker, link: str) -> None:
    server.once("GET", LIST, tag_list("a", link=link))
    with pytest.raises(RegistryContentError, match="its Link header cannot be read"):
        listing.tags(remote())


def test_a_redirected_list_has_no_next_page(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker
) -> None:
    server.once("GET", LIST, Answer(307, headers={"Location": f"{other.url}{LIST}"}))
    other.once("GET", LIST, tag_list("a", link="<?last=a>; rel=next"))
    with pytest.raises(RegistryContentError, match="at another origin"):
        listing.tags(remote())


# --- endless lists ----------------------------------------------------------------------------------------


def endless(*tags: str, fresh: bool = False) -> Callable[[Seen], Answer]:
    """Name a next page in each page; with `fresh` each page has a new tag."""

    def reply(seen: Seen) -> Answer:
        number = int(query_of(seen).get("page", "0")) + 1
        own = (f"v{number}",) if fresh else ()
        return tag_list(*tags, *own, link=f"<{LIST}?page={number}>; rel=next")

    return reply


@pytest.mark.parametrize(
    ("target", "requests"), [("", 1), (f"{LIST}?n=1000", 1), (f"{LIST}?n=1000#again", 1), ("?last=a", 2)]
)
def test_a_circle_of_pages_is_an_error(
    server: ScriptedServer, remote: RemoteMaker, target: str, requests: int
) -> None:
    server.always("GET", LIST, tag_list("a", link=f"<{target}>; rel=next"))
    with pytest.raises(RegistryContentError, match="go in a circle"):
        listing.tags(remote())
    assert len(server.seen) == requests


def test_pages_without_anything_new(server: ScriptedServer, remote: RemoteMaker) -> None:
    server.always("GET", LIST, endless("a"))
    with pytest.raises(RegistryContentError, match="does not end"):
        listing.tags(remote())
    assert len(server.seen) == pagination.MAX_PAGES_WITHOUT_NEWS + 1


@pytest.mark.parametrize(
    ("module", "name", "value", "message"),
    [
        (pagination, "MAX_PAGES", 7, "does not end: 7 pages"),
        (pagination, "MAX_LIST_BYTES", 400, "more than 400 bytes"),
        (listing, "MAX_TAGS", 9, "more than 9 tags"),
    ],
)
def test_pages_and_tags_are_limited(
    server: ScriptedServer,
    remote: RemoteMaker,
    monkeypatch: pytest.MonkeyPatch,
    module: object,
    name: str,
    value: int,
    message: str,
) -> None:
    monkeypatch.setattr(module, name, value)
    server.always("GET", LIST, endless(fresh=True))
    with pytest.raises(RegistryContentError, match=message) as caught:
        listing.tags(remote())
    assert caught.value.host == server.host
    assert len(server.seen) < 20


# --- invalid lists ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer(200, b"<html>", HTML), "HTML page where a list of tags"),
        (Answer(200, b"<html>"), "not valid JSON"),
        (Answer(200, b""), "not valid JSON"),
        (Answer(200, b"\xff\xfe"), "not valid JSON"),
        (Answer(200, b'["a"]'), "something other than a list of tags"),
        (Answer(200, b'{"errors":[]}'), "something other than a list of tags"),
        (Answer(200, b'{"tags":"a"}'), "something other than a list of tags"),
        (Answer(200, b'{"tags":{"a":1}}'), "something other than a list of tags"),
        (Answer(200, b'{"name":1,"tags":[]}'), "something other than a list of tags"),
        (Answer(200, b"[" * 99_999), "nested more than"),
        (tag_list("a", 1), "something other than a list of tags"),
        (tag_list("a", None), "something other than a list of tags"),
        (tag_list(["a"]), "something other than a list of tags"),
        (tag_list("a", ""), "an invalid tag: ''"),
        (tag_list("a\x1b[31m"), r"an invalid tag: 'a\\x1b\[31m'"),
        (tag_list("a\n"), "an invalid tag"),
        (tag_list("../x"), "an invalid tag"),
        (tag_list("a" * 129), "an invalid tag: 'a{80}'$"),
        (tag_list("\u0430"), "an invalid tag"),
        (Answer(200, b" " * 99_999, endless=True), f"more than {MAX_MANIFEST_BYTES} bytes"),
        (Answer(200, b"{}", {"Content-Encoding": "gzip"}), "Content-Encoding 'gzip'"),
    ],
)
def test_invalid_lists_of_tags(
    server: ScriptedServer, remote: RemoteMaker, answer: Answer, message: str
) -> None:
    server.once("GET", LIST, answer)
    with pytest.raises(RegistryContentError, match=message) as caught:
        listing.tags(remote())
    assert str(caught.value).startswith(f'failed to list the tags of "{server.host}/team/app": ')
    assert (caught.value.exit_code, caught.value.host) == (5, server.host)
    assert str(caught.value).isprintable()


def test_a_missing_next_page(server: ScriptedServer, remote: RemoteMaker) -> None:
    server.once("GET", LIST, tag_list("a", link="<?last=a>; rel=next"), Answer(404))
    with pytest.raises(RegistryContentError, match="a next page that it does not have"):
        listing.tags(remote())


def test_later_pages_are_retried(
    server: ScriptedServer, remote: RemoteMaker, pauses: list[float], other: ScriptedServer, tmp_path: Path
) -> None:
    busy = Answer(429, headers={"Retry-After": "3"})
    server.once("GET", LIST, tag_list("a", link="<?last=a>; rel=next"), busy, tag_list("b"))
    assert listing.tags(remote(hosts_dir=mirror_config(tmp_path, server, other))).tags == ("a", "b")
    assert (pauses, other.seen) == ([3], [])


def test_invalid_page_sizes(remote: RemoteMaker) -> None:
    with pytest.raises(InvalidInput):
        listing.tags(remote(), page_size=0)


# --- hosts ------------------------------------------------------------------------------------------------


def test_an_unknown_repository(server: ScriptedServer, remote: RemoteMaker) -> None:
    server.once("GET", LIST, Answer(404, b'{"errors":[{"code":"NAME_UNKNOWN"}]}'))
    with pytest.raises(NotFound) as caught:
        listing.tags(remote())
    name = f"{server.host}/team/app"
    assert str(caught.value) == f'failed to list the tags of "{name}": {name}: not found'
    assert (caught.value.exit_code, caught.value.kind, caught.value.name) == (3, "repository", name)
    assert caught.value.hint


@pytest.mark.parametrize("status", [401, 403])
def test_a_repository_without_access(server: ScriptedServer, remote: RemoteMaker, status: int) -> None:
    server.once("GET", LIST, Answer(status, b'{"errors":[{"code":"DENIED","message":"not for you"}]}'))
    with pytest.raises(
        AuthenticationFailed, match=r"failed to list the tags of .*DENIED: not for you"
    ) as got:
        listing.tags(remote())
    assert (got.value.status, got.value.exit_code) == (status, 5)
    assert got.value.hint


def test_a_404_of_the_token_server_is_not_an_unknown_repository(
    server: ScriptedServer, remote: RemoteMaker
) -> None:
    realm = f'Bearer realm="{server.url}/token",service="x"'
    server.once("GET", LIST, Answer(401, headers={"WWW-Authenticate": realm}))
    server.always("GET", "/token", Answer(404))
    with pytest.raises(RegistryError) as caught:
        listing.tags(remote())
    assert caught.value.exit_code == 5


def test_a_token_to_pull_is_enough(server: ScriptedServer, remote: RemoteMaker) -> None:
    realm = f'Bearer realm="{server.url}/token",service="x"'
    server.once("GET", LIST, Answer(401, headers={"WWW-Authenticate": realm}), tag_list("a"))
    server.once("GET", "/token", Answer(200, b'{"token":"hush-hush"}'))
    assert listing.tags(remote()).tags == ("a",)
    assert query_of(server.seen[1])["scope"] == "repository:team/app:pull"
    assert server.seen[2].authorization == "Bearer hush-hush"


def test_the_registry_is_used_before_its_mirrors(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker, tmp_path: Path
) -> None:
    """The list of a mirror looks complete, but may have only what was pulled through it."""
    server.once("GET", LIST, tag_list("a", "b"))
    found = listing.tags(remote(hosts_dir=mirror_config(tmp_path, server, other)))
    assert found.tags == ("a", "b")
    assert other.seen == []


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500])
def test_a_mirror_is_used_if_the_registry_fails(
    server: ScriptedServer,
    other: ScriptedServer,
    remote: RemoteMaker,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    status: int,
) -> None:
    folder = tmp_path / "registry.invalid"
    folder.mkdir()
    (folder / "hosts.toml").write_text(f'server = "{server.url}"\n[host."{other.url}"]')
    server.once("GET", LIST, Answer(status))
    other.once("GET", LIST, tag_list("a", link="<?last=a>; rel=next"), tag_list("b"))
    found = listing.tags(remote("registry.invalid/team/app", hosts_dir=tmp_path))
    assert (found.tags, found.host, found.mirror) == (("a", "b"), other.host, True)
    assert (
        f"the list is from {other.host}: a mirror may lack some of what registry.invalid has" in caplog.text
    )
    # A Link often lacks the `ns` that the mirror needs.
    assert [query_of(seen).get("ns") for seen in other.seen] == ["registry.invalid"] * 2


def test_pages_of_two_hosts_are_never_mixed(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker, tmp_path: Path
) -> None:
    server.once("GET", LIST, tag_list("a", link="<?last=a>; rel=next"), Answer(403))
    other.once("GET", LIST, tag_list("c"))
    assert listing.tags(remote(hosts_dir=mirror_config(tmp_path, server, other))).tags == ("c",)


def test_a_404_of_a_mirror_does_not_hide_that_the_registry_is_down(
    server: ScriptedServer, remote: RemoteMaker, tmp_path: Path
) -> None:
    (tmp_path / "_default").mkdir()
    (tmp_path / "_default" / "hosts.toml").write_text(f'server = "http://127.0.0.1:1"\n[host."{server.url}"]')
    server.once("GET", LIST, Answer(404))
    with pytest.raises(RegistryUnreachable, match=r"failed to list the tags of .*connection refused"):
        listing.tags(remote("registry.invalid/team/app", hosts_dir=tmp_path))


def test_only_hosts_with_the_resolve_capability_are_used(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker, tmp_path: Path
) -> None:
    hosts = mirror_config(tmp_path / "one", server, other, 'capabilities = ["pull", "referrers"]')
    server.once("GET", LIST, Answer(500))
    with pytest.raises(RegistryError, match="unexpected status 500"):
        listing.tags(remote(hosts_dir=hosts, retry_budget=0))
    (hosts / "_default" / "hosts.toml").write_text(f'server = "{server.url}"\ncapabilities = ["pull"]')
    with pytest.raises(RegistryError, match="no configured host may be asked") as caught:
        listing.tags(remote(hosts_dir=hosts))
    assert caught.value.hint
    assert other.seen == []


# --- the command ------------------------------------------------------------------------------------------


def test_tags_as_text_and_json(server: ScriptedServer) -> None:
    server.always("GET", LIST, tag_list("b", "a"))
    done = run("registry", "tags", f"{server.host}/team/app")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "b\na\n", "")
    done = run("registry", "tags", f"{server.host}/team/app", "--format", "json")
    assert json.loads(done.stdout) == {
        "repository": f"{server.host}/team/app",
        "host": server.host,
        "mirror": False,
        "tags": ["b", "a"],
    }


@pytest.mark.parametrize(("status", "code"), [(404, 3), (401, 5), (403, 5), (418, 5)])
def test_exit_codes(server: ScriptedServer, status: int, code: int) -> None:
    server.always("GET", LIST, Answer(status))
    done = run("registry", "tags", f"{server.host}/team/app")
    assert (done.exit_code, done.stdout) == (code, "")
    assert done.stderr.startswith("pyctrd: failed to list the tags of")


@pytest.mark.parametrize("repo", ["alpine:3.20", "localhost:5000", "a/UPPER", ""])
def test_bad_usage(repo: str) -> None:
    done = run("registry", "tags", repo)
    assert done.exit_code == 2
    assert "invalid re" in done.stderr
