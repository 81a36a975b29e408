"""Which hosts may direct us to which addresses, checked by the address of the connection."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pyctrd.errors import RegistryError
from pyctrd.registry.http import address_guard
from pyctrd.registry.http.address_guard import AddressInfo, AddressKind
from pyctrd.registry.http.request_body import Stream
from pyctrd.registry.http.transport import Request, Transport
from tests.registry.server import Answer, ScriptedServer

LOOPBACK, LINK_LOCAL, PRIVATE, PUBLIC = (
    AddressKind.LOOPBACK,
    AddressKind.LINK_LOCAL,
    AddressKind.PRIVATE,
    AddressKind.PUBLIC,
)
METADATA = AddressKind.METADATA


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("127.0.0.1", LOOPBACK),
        ("127.255.0.9", LOOPBACK),
        ("0.0.0.0", LOOPBACK),
        ("::1", LOOPBACK),
        ("[::1]", LOOPBACK),
        ("::", LOOPBACK),
        ("::ffff:127.0.0.1", LOOPBACK),
        ("64:ff9b::7f00:1", LOOPBACK),
        ("2002:7f00:1::", LOOPBACK),
        ("169.254.169.254", LINK_LOCAL),
        ("::ffff:169.254.169.254", LINK_LOCAL),
        ("fe80::1%eth0", LINK_LOCAL),
        ("fd00:ec2::254", METADATA),
        ("fd20:ce::254", METADATA),
        ("fd00:c1::a9fe:a9fe", METADATA),
        ("fd00:42::42", METADATA),
        ("100.100.100.200", METADATA),
        ("168.63.129.16", METADATA),
        ("192.0.0.192", METADATA),
        ("::ffff:168.63.129.16", METADATA),
        ("::127.0.0.1", LOOPBACK),
        ("::ffff:0:127.0.0.1", LOOPBACK),
        ("64:ff9b:1::7f00:1", LOOPBACK),
        ("64:ff9b::a9fe:a9fe", LINK_LOCAL),
        ("10.1.2.3", PRIVATE),
        ("172.31.0.1", PRIVATE),
        ("192.168.0.1", PRIVATE),
        ("100.64.0.1", PRIVATE),
        ("fd12::1", PRIVATE),
        ("172.32.0.1", PUBLIC),
        ("203.0.113.7", PUBLIC),
        ("2001:db8::1", PUBLIC),
    ],
)
def test_kinds_of_addresses(address: str, kind: AddressKind) -> None:
    assert address_guard.kind_of(address) is kind


def test_which_hosts_may_direct_us_to_which_addresses() -> None:
    local = {(LOOPBACK, LOOPBACK), (PRIVATE, LOOPBACK), (LINK_LOCAL, LINK_LOCAL), (METADATA, METADATA)}
    everybody = {(sender, target) for sender in AddressKind for target in (PRIVATE, PUBLIC)}
    for writes in (False, True):
        allowed = {
            (sender, target)
            for sender in AddressKind
            for target in AddressKind
            if address_guard.may_send(sender, target, writes=writes)
        }
        # A registry on the internet may serve blobs from a private network, but nothing is uploaded there.
        assert allowed == (local | everybody) - ({(PUBLIC, PRIVATE)} if writes else set())
        assert all(address_guard.may_send(None, target, writes=writes) for target in AddressKind)


SPELLED_LOOPBACK = [
    "localhost", "LOCALHOST.", "a.localhost", "localhost.localdomain", "localhost6.localdomain6",
    "localhost4", "ip6-localhost", "ip6-loopback", "127.0.0.1", "[::1]", "127.1", "127.0.1", "0", "0.0.0.0",
    "2130706433", "0x7f000001", "0x7F.1", "0177.0.0.1", "017700000001", "127.0.0.1.", "[::ffff:127.0.0.1]",
    "[::127.0.0.1]", "127%2e0%2e0%2e1", "\uff11\uff12\uff17.\uff10.\uff10.\uff11", "127\u30020\u30020\u30021",
]  # fmt: skip
SPELLED_LINK_LOCAL = [
    "169.254.169.254", "2852039166", "0xa9fea9fe", "0xA9.0xFE.0xA9.0xFE", "0251.0376.0251.0376",
    "169.254.43518", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]", "[fe80::1%25eth0]",
]  # fmt: skip
SPELLED_METADATA = ["metadata.google.internal", "Metadata.", "instance-data", "100.100.100.200", "1684301000"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, LOOPBACK) for name in SPELLED_LOOPBACK),
        *((name, LINK_LOCAL) for name in SPELLED_LINK_LOCAL),
        *((name, METADATA) for name in SPELLED_METADATA),
    ],
)
def test_addresses_are_refused_in_every_spelling(name: str, kind: AddressKind) -> None:
    assert address_guard.literal_kind(name) is kind
    with pytest.raises(address_guard.Forbidden):
        address_guard.check_literal(name, PUBLIC)
    address_guard.check_literal(name, kind)


@pytest.mark.parametrize(
    "name",
    ["registry.example", "localhost.example", "metadata.example", "1.example", "0x.example", "a1", "\u00df"],
)
def test_other_names_are_not_addresses(name: str) -> None:
    assert address_guard.literal_kind(name) is None


@given(st.ip_addresses(v=4), st.sampled_from(["{:d}", "{:#x}", "0{:o}"]))
def test_every_spelling_of_an_address_has_the_same_kind(address: ipaddress.IPv4Address, form: str) -> None:
    assert address_guard.literal_kind(form.format(int(address))) is address_guard.kind_of(str(address))
    mapped = f"[::ffff:{address}]"
    assert address_guard.literal_kind(mapped) is address_guard.kind_of(str(address))


@given(st.text(max_size=30) | st.from_regex(r"[0-9a-fx.:%\[\]]{1,30}", fullmatch=True))
@example("\ud800")
@example("xn--a")
@example("%ff")
def test_any_host_can_be_checked(host: str) -> None:
    with suppress(address_guard.Forbidden):
        address_guard.check_literal(host, PUBLIC)


class Names:
    """A resolver that changes: it returns the next address of a name each time, and then the last one."""

    def __init__(self, **addresses: list[str]) -> None:
        self._addresses = {name.replace("_", "."): list(found) for name, found in addresses.items()}
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> Iterable[AddressInfo]:
        self.asked.append(host)
        left = self._addresses[host]
        address = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, port))]


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat 127.1.0.0/16 as public addresses: this machine has no others."""
    real = address_guard.kind_of
    monkeypatch.setattr(
        address_guard, "kind_of", lambda text: PUBLIC if text.startswith("127.1.") else real(text)
    )


@pytest.fixture
def everywhere() -> Iterator[ScriptedServer]:
    """A server that listens on every loopback address."""
    with ScriptedServer(address="0.0.0.0") as running:
        yield running


@pytest.mark.usefixtures("public")
@pytest.mark.parametrize("method", ["PUT", "PATCH", "POST", "DELETE"])
def test_a_public_registry_cannot_direct_an_upload_to_a_private_address(
    everywhere: ScriptedServer, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    loopback = address_guard.kind_of
    monkeypatch.setattr(
        address_guard, "kind_of", lambda text: PRIVATE if text == "127.2.0.1" else loopback(text)
    )
    names = Names(registry_example=["127.1.0.1"], storage_example=["127.2.0.1"])
    base, target = f"http://registry.example:{everywhere.port}", f"http://storage.example:{everywhere.port}/x"
    everywhere.always("GET", "/", Answer(307, headers={"Location": target}))
    everywhere.always(method, "/", Answer(307, headers={"Location": target}))
    everywhere.once("GET", "/x", Answer(200))
    with Transport(resolver=names, sleep=lambda _: None) as transport:
        assert ask(transport, f"{base}/") == 200  # also leaves an idle connection to it
        for url, named_by in ((f"{base}/", ""), (target, base)):
            with pytest.raises(RegistryError, match="is a private address") as caught:
                transport.send(Request(method, url, body=Stream.of(b"x"), named_by=named_by))
            assert "write to private addresses" in (caught.value.hint or "")
    assert [seen.path for seen in everywhere.seen if seen.method == method] == ["/"]


def get(names: Names, url: str, named_by: str = "") -> int:
    with Transport(resolver=names, sleep=lambda _: None) as transport:
        return ask(transport, url, named_by)


def ask(transport: Transport, url: str, named_by: str = "") -> int:
    response = transport.send(Request("GET", url, named_by=named_by))
    response.close()
    return response.status


@pytest.mark.usefixtures("public")
def test_a_public_registry_cannot_redirect_to_a_name_of_this_machine(everywhere: ScriptedServer) -> None:
    port = everywhere.port
    names = Names(registry_example=["127.1.0.1"], innocent_example=["127.0.0.1"], cdn_example=["127.1.0.2"])
    for target in ("innocent.example", "127.0.0.1", "localhost"):
        everywhere.always("GET", "/", Answer(302, headers={"Location": f"http://{target}:{port}/secret"}))
        with pytest.raises(RegistryError, match="loopback address") as caught:
            get(names, f"http://registry.example:{port}/")
        assert caught.value.host == f"registry.example:{port}"
    assert [seen.path for seen in everywhere.seen] == ["/"] * 3
    everywhere.always("GET", "/", Answer(302, headers={"Location": f"http://cdn.example:{port}/blob"}))
    everywhere.once("GET", "/blob", Answer(200))
    assert get(names, f"http://registry.example:{port}/") == 200


@pytest.mark.usefixtures("public")
def test_a_name_that_changes_to_a_loopback_address_is_refused(everywhere: ScriptedServer) -> None:
    names = Names(registry_example=["127.1.0.1", "127.0.0.1"])
    everywhere.always("GET", "/", Answer(200, headers={"Connection": "close"}))
    with Transport(resolver=names, sleep=lambda _: None) as transport:
        url = f"http://registry.example:{everywhere.port}/"
        assert ask(transport, url) == 200
        with pytest.raises(RegistryError, match="loopback address"):
            ask(transport, url)
    assert len(everywhere.seen) == 1


@pytest.mark.usefixtures("public")
def test_a_host_without_a_connection_cannot_direct_us_to_this_machine(everywhere: ScriptedServer) -> None:
    names = Names(realm_example=["127.0.0.1"])
    url = f"http://realm.example:{everywhere.port}/token"
    with pytest.raises(RegistryError, match="loopback address"):
        get(names, url, named_by="https://behind-a-proxy.example")
    everywhere.always("GET", "/token", Answer(200))
    assert get(names, url, named_by="http://127.0.0.1:5000") == 200
    assert get(names, url) == 200


def test_a_pooled_connection_of_the_user_is_not_used_for_a_registry(everywhere: ScriptedServer) -> None:
    names = Names(a_example=["127.0.0.1"])
    everywhere.always("GET", "/", Answer(200))
    with Transport(resolver=names, sleep=lambda _: None) as transport:
        url = f"http://a.example:{everywhere.port}/"
        assert ask(transport, url) == ask(transport, url) == 200
        with pytest.raises(RegistryError, match="loopback address"):
            ask(transport, url, named_by="https://public.example")
    assert everywhere.connections == 1


@pytest.mark.parametrize("url", ["http://[", "http://a:99999/", "http://a:b/", "http:///x", "http://[v1.x]/"])
def test_an_invalid_url_is_a_registry_error(url: str) -> None:
    for named_by in ("", "http://127.0.0.1:5000"):
        with pytest.raises(RegistryError):
            get(Names(), url, named_by)


def test_one_good_address_of_several_is_enough() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def resolver(_host: str, _port: int) -> Iterable[AddressInfo]:
            for address in ("169.254.169.254", "127.0.0.1"):
                yield (socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, port))

        link, kind = address_guard.dial("two.example", port, sender=LOOPBACK, seconds=2, resolver=resolver)
        link.close()
        assert kind is LOOPBACK
