"""Client: imports, precedence of settings, and which registry gets a password.

Tests with containerd are in integration/.
"""

from __future__ import annotations

import importlib.metadata
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import pyctrd
from pyctrd.client import Client
from pyctrd.errors import (
    InvalidInput,
    InvalidPlatform,
    InvalidReference,
    RegistryUnreachable,
)
from pyctrd.oci.reference import Reference, parse
from pyctrd.registry import RegistryClient, RegistryOptions
from tests.containerd.fake import FakeDaemon, serve


@pytest.fixture
def socket() -> Iterator[str]:
    """The path of a served fake daemon; short, since a socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="pyctrd-", dir="/tmp") as folder:
        path = Path(folder) / "c.sock"
        server: grpc.Server = serve(path, FakeDaemon())
        yield str(path)
        server.stop(None).wait()


def test_importing_the_package_loads_no_heavy_modules() -> None:
    script = "import sys, pyctrd; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "pyctrd" in loaded
    assert loaded.isdisjoint({"grpc", "urllib3", "google.protobuf", "msgspec", "click", "rich"})


def test_every_public_name_can_be_imported() -> None:
    assert sorted(pyctrd.__all__) == pyctrd.__dir__()
    for name in pyctrd.__all__:
        assert getattr(pyctrd, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = pyctrd.nonsense  # type: ignore[attr-defined]


def test_every_error_is_public() -> None:
    from pyctrd import errors

    own = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.PyctrdError)
    }
    assert own <= set(pyctrd.__all__)


def test_the_metadata_and_the_command_line_have_the_version_of_the_module() -> None:
    assert importlib.metadata.version("pyctrd") == pyctrd.__version__
    done = subprocess.run(
        [sys.executable, "-m", "pyctrd", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"pyctrd {pyctrd.__version__}\n"


def test_arguments_override_the_environment_and_the_environment_defaults(
    monkeypatch: pytest.MonkeyPatch, socket: str
) -> None:
    monkeypatch.delenv("CONTAINERD_NAMESPACE", raising=False)
    monkeypatch.setenv("CONTAINERD_ADDRESS", "/nonexistent/c.sock")
    with Client(f"unix://{socket}") as client:
        assert (client.address, client.namespace) == (socket, "default")
    monkeypatch.setenv("CONTAINERD_ADDRESS", socket)
    monkeypatch.setenv("CONTAINERD_NAMESPACE", "k8s.io")
    with Client() as client:
        assert (client.address, client.namespace) == (socket, "k8s.io")
    with Client(namespace="moby") as client:
        assert client.namespace == "moby"


def test_invalid_input_is_refused_before_any_request(socket: str) -> None:
    with Client(socket) as client:
        with pytest.raises(InvalidPlatform):
            client.images.pull("alpine", platforms=["a/b/c/d/e"])
        with pytest.raises(InvalidPlatform):
            client.images.ensure("alpine", platforms=["arm64", "all"])
        with pytest.raises(InvalidReference):
            client.images.pull("al pine")
        with pytest.raises(InvalidInput, match="not valid UTF-8"):
            client.images.pull("alpine", labels={"a": "\udcff"})
        with pytest.raises(InvalidInput, match="greater than maximum size"):
            client.images.pull("alpine", labels={"a": 4096 * "b"})
    with pytest.raises(InvalidInput, match="not valid UTF-8"):
        Client(socket, snapshotter="a\udcff")


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
@pytest.mark.parametrize(
    "make",
    [
        lambda value: RegistryOptions(connect_timeout=value),
        lambda value: RegistryOptions(stall_timeout=value),
        lambda value: RegistryOptions(retry_budget=value),
    ],
)
def test_invalid_durations_are_refused(make: Callable[[float], object], value: float) -> None:
    with pytest.raises(InvalidInput, match=f"={value} is not a number of seconds"):
        _ = make(value)


def test_an_artifact_type_that_is_not_utf8_is_refused_before_any_request() -> None:
    with RegistryClient() as client, pytest.raises(InvalidInput, match="not valid UTF-8"):
        client.referrers(parse("registry.invalid/app"), "\udcff")


class Recorder:
    """A stub of the registry client that records its arguments."""

    made: list[Any]

    def __init__(self, options: RegistryOptions, **_named: Any) -> None:
        self.made.append(options)

    def close(self) -> None:
        pass

    def remote(self, wanted: Reference) -> None:
        raise RegistryUnreachable(f"{wanted}: unreachable")


def test_a_password_is_sent_only_to_the_registry_of_the_reference(
    monkeypatch: pytest.MonkeyPatch, socket: str
) -> None:
    monkeypatch.setattr(Recorder, "made", [], raising=False)
    monkeypatch.setattr("pyctrd.registry.RegistryClient", Recorder)
    with Client(socket, registry=RegistryOptions(username="me", password="secret")) as client:
        for ref in ("one.example/x", "two.example:5000/x", "one.example/y"):
            with pytest.raises(RegistryUnreachable):
                client.images.pull(ref)
    assert [options.account for options in Recorder.made] == ["one.example", "two.example:5000"]


def test_a_registry_client_is_created_on_first_use(monkeypatch: pytest.MonkeyPatch, socket: str) -> None:
    monkeypatch.setattr(Recorder, "made", [], raising=False)
    monkeypatch.setattr("pyctrd.registry.RegistryClient", Recorder)
    with Client(socket) as client:
        assert client.version().version
        assert Recorder.made == []
        for _ in range(2):
            with pytest.raises(RegistryUnreachable):
                client.images.pull("alpine")
    assert len(Recorder.made) == 1
