"""Addresses of another containerd: what is understood, and what is refused before ssh sees it."""

from __future__ import annotations

import pytest

from pyctrd.containerd.address import DEFAULT_ADDRESS
from pyctrd.containerd.endpoint import Endpoint, parse
from pyctrd.errors import InvalidInput

K3S = "/run/k3s/containerd/containerd.sock"


def endpoint(
    host: str = "edge1", *, path: str = DEFAULT_ADDRESS, namespace: str = "mine", **more: str
) -> Endpoint:
    return Endpoint(host=host, path=path, namespace=namespace, **more)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("ssh://edge1", endpoint()),
        ("ssh://edge1/", endpoint()),
        ("ssh://Edge_1.example", endpoint("Edge_1.example")),
        ("ssh://root@edge1:2222", endpoint(user="root", port="2222")),
        ("ssh://me@corp.example@edge1", endpoint(user="me@corp.example")),
        ("ssh://[fe80::1%eth0]:22", endpoint("fe80::1%eth0", port="22")),
        ("ssh://10.0.0.7/k8s.io", endpoint("10.0.0.7", namespace="k8s.io")),
        ("ssh://edge1?namespace=k8s.io", endpoint(namespace="k8s.io")),
        (f"ssh://edge1{K3S}", endpoint(path=K3S)),
        (
            f"ssh://root@edge1:22{K3S}?namespace=k8s.io",
            endpoint(path=K3S, user="root", port="22", namespace="k8s.io"),
        ),
        (f"unix://{K3S}", endpoint("", path=K3S)),
        (f"unix://{K3S}?namespace=k8s.io", endpoint("", path=K3S, namespace="k8s.io")),
        (K3S, endpoint("", path=K3S)),
    ],
)
def test_an_address_is_parsed(text: str, wanted: Endpoint) -> None:
    assert parse(text, "mine") == wanted


@pytest.mark.parametrize(
    "text",
    ["ssh://edge1", "ssh://root@edge1:2222", f"ssh://root@edge1{K3S}", f"unix://{K3S}", "ssh://[::1]:22"],
)
def test_the_name_is_the_address_as_it_is_written(text: str) -> None:
    parsed = parse(f"{text}?namespace=k8s.io", "mine")
    assert parsed.name == text
    assert parse(parsed.name, "k8s.io") == parsed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "neither an ssh:// address nor a socket"),
        ("edge1", "neither an ssh:// address nor a socket"),
        ("alpine:3.20", "neither an ssh:// address nor a socket"),
        ("tcp://edge1", "unsupported address"),
        ("unix://", "it has no path"),
        ("ssh://", "it has no valid host"),
        ("ssh:///run/c.sock", "it has no valid host"),
        ("ssh://@edge1", "it has no valid host"),
        ("ssh://-oProxyCommand=x", "it has no valid host"),
        ("ssh://-l@edge1", "it has no valid host"),
        ("ssh://a b", "it has no valid host"),
        ("ssh://$(x)", "it has no valid host"),
        ("ssh://edge1:", "'' is not a port"),
        ("ssh://edge1:ssh", "'ssh' is not a port"),
        ("ssh://edge1:0", "'0' is not a port"),
        ("ssh://edge1:70000", "'70000' is not a port"),
        ("ssh://me:secret@edge1", "must not contain a password"),
        ("ssh://edge1/run/$(x)/c.sock", "is not the path of a socket"),
        ("ssh://edge1/run/a:b", "is not the path of a socket"),
        ("ssh://edge1/run//c.sock", "is not the path of a socket"),
        ("ssh://edge1/k8s.io?namespace=moby", "it names two namespaces"),
        ("ssh://edge1/-bad", "invalid namespace '-bad'"),
        ("ssh://edge1?namespace=", "only ?namespace=NAME may follow"),
        ("ssh://edge1?ns=a", "only ?namespace=NAME may follow"),
        ("ssh://edge1?namespace=a&b=c", "only ?namespace=NAME may follow"),
        ("ssh://edge1?namespace=a/b", "invalid namespace 'a/b'"),
        ("ssh://edge1\udcff", "not valid UTF-8"),
    ],
)
def test_a_malformed_address_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse(text, "mine")
    assert message in caught.value.message
    assert "secret" not in f"{caught.value.message} {caught.value.hint}"
